//! The socket of a live mount, `STATE/mounts/PID.sock`: one word in, an answer out.
//!
//! | word | answer |
//! |---|---|
//! | `status` | one line of JSON |
//! | `flush` | `saved` once everything written so far is flushed at the server, else what could not be |
//! | `wait` | when the mount has ended: `saved`, or what was lost |
//!
//! Then the stream ends; without an answer if the daemon was killed. Who hangs up while `flush` or `wait` is
//! under way wants no answer any more. Answered until the very end, also while the mount is gone already and
//! the last bytes are on their way: that is how `lacuna umount` knows how far it is and that all is done.

use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Longest request.
const REQUEST_BYTES_MAX: usize = 16;
/// Clients served at once; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 16;
/// A client must say its word within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer when everything is on the server's stable storage.
pub const SAVED: &str = "saved";

/// What a mount has to say.
pub struct Answers {
    pub status: Box<dyn Fn() -> String + Send + Sync>,
    pub flush: Box<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>,
    /// Set once, at the end. Has a receiver for each `wait` that was not answered yet.
    pub outcome: Arc<watch::Sender<Option<String>>>,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Takes the name of this process in `mounts`.
    pub fn bind(mounts: &Path) -> io::Result<Self> {
        let path = mounts.join(format!("{}.sock", std::process::id()));
        // A process of our number that died left it.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            path,
        })
    }

    /// Answers until dropped.
    pub async fn serve(&self, answers: Answers) {
        let answers = Arc::new(answers);
        let slots = Arc::new(tokio::sync::Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = Arc::clone(&answers);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &answers).await {
                            tracing::debug!(%error, "a control request failed");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Best effort: a left-over name is recognised as dead by who finds it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, answers: &Answers) -> io::Result<()> {
    let mut word = Vec::new();
    let read = async {
        while word.last() != Some(&b'\n') && word.len() < REQUEST_BYTES_MAX {
            if stream.read_buf(&mut (&mut word)).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(REQUEST_TIMEOUT, read).await??;
    let answer = match word.trim_ascii() {
        b"status" => Some((answers.status)()),
        b"flush" => unless_gone(&mut stream, (answers.flush)()).await,
        b"wait" => return wait(&mut stream, answers).await,
        _ => Some("unknown request".to_owned()),
    };
    match answer {
        Some(answer) => stream.write_all(format!("{answer}\n").as_bytes()).await,
        None => Ok(()),
    }
}

/// Tells the outcome, and keeps the stream open for as long as the process lives.
async fn wait(stream: &mut UnixStream, answers: &Answers) -> io::Result<()> {
    let mut outcome = answers.outcome.subscribe();
    let said = async {
        let said = outcome.wait_for(Option::is_some).await;
        said.ok().and_then(|said| said.clone()).unwrap_or_default()
    };
    let Some(said) = unless_gone(stream, said).await else {
        return Ok(());
    };
    stream.write_all(format!("{said}\n").as_bytes()).await?;
    drop(outcome);
    // Ends when the other side goes away, or with this process.
    stream.read_u8().await.map(drop).or(Ok(()))
}

/// `None` if the other side went away first.
async fn unless_gone(stream: &mut UnixStream, answer: impl Future<Output = String>) -> Option<String> {
    tokio::select! {
        answer = answer => Some(answer),
        _ = stream.read_u8() => None,
    }
}

/// The sockets of live mounts.
pub fn sockets(mounts: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(mounts) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    paths.sort();
    Ok(paths)
}

/// Asks one mount; `None` if nobody is behind the socket any more (its name is then removed).
pub fn ask(socket: &Path, word: &str) -> io::Result<Option<BlockingStream>> {
    use std::io::Write;
    let mut stream = match BlockingStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            let _ = std::fs::remove_file(socket);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    Ok(Some(stream))
}
