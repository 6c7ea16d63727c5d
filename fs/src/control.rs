//! The socket of a live mount, `STATE/mounts/PID.sock`: one word in, an answer out.
//!
//! `status` answers one line of JSON and closes. `wait` answers nothing and stays open until the mount
//! has ended: how `lacuna umount` knows that all is done.

use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Longest request.
const REQUEST_BYTES_MAX: usize = 16;
/// Clients served at once; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 16;
/// A client must say its word within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub async fn serve(&self, status: impl Fn() -> String + Clone + Send + 'static) {
        let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let status = status.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, status).await {
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

async fn answer(mut stream: UnixStream, status: impl Fn() -> String) -> io::Result<()> {
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
    match word.trim_ascii() {
        b"status" => stream.write_all(status().as_bytes()).await,
        // Ends when the other side goes away, or with this process.
        b"wait" => stream.read_u8().await.map(drop).or(Ok(())),
        _ => stream.write_all(b"unknown request\n").await,
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
