//! Talking to the daemon of a state folder: the socket `control.sock`, for its user only.
//!
//! One request a connection: a line with a word, answered by a line of JSON. Both ends are of one
//! build, so this is not a protocol with versions.
//!
//! | word | answer |
//! |---|---|
//! | `reload` | after the allow list was read again and every session it no longer admits was closed |
//! | `clients` | the live sessions |
//! | `leases` | who writes to what |
//! | `break-lease PATH` | whose write lease that was |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::limits::PATH_BYTES_MAX;
use lacuna_transport::path::NodePath;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};
use crate::serve::Server;

const SOCKET_NAME: &str = "control.sock";
/// A word and a path.
const REQUEST_BYTES_MAX: usize = 64 + PATH_BYTES_MAX;
/// Some hundred bytes for each of the sessions, or leases, a server can have.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
const BREAK_LEASE: &[u8] = b"break-lease ";
const PATIENCE: Duration = Duration::from_secs(10);

/// A live session, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    pub session: u64,
    pub key: String,
    pub name: String,
    /// `rw` or `ro`.
    pub access: String,
    pub address: String,
    /// Seconds since the session began.
    pub age_secs: u64,
    pub open_volumes: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// A write lease that is held, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// The path by which it was opened last; a remark follows it where another volume has this name since.
    pub volume: String,
    /// Of the client that writes, as in the allow list.
    pub name: String,
    pub address: String,
    pub since_unix_secs: u64,
    pub age_secs: u64,
    /// Its connection is lost, and so many seconds are left to come back; null while it is there.
    pub lingers_secs: Option<u64>,
}

impl std::fmt::Display for LeaseReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}), for {} s", self.name, self.address, self.age_secs)?;
        match self.lingers_secs {
            Some(secs) => write!(f, "; its connection is lost, and it has {secs} s to come back"),
            None => Ok(()),
        }
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Number of sessions that were closed.
    Reloaded {
        closed: usize,
    },
    Clients {
        sessions: Vec<SessionReport>,
    },
    Leases {
        leases: Vec<LeaseReport>,
    },
    /// Who had it.
    LeaseBroken {
        lease: LeaseReport,
    },
    Failed {
        error: String,
    },
}

/// The daemon's end. Removes the socket when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// The caller holds the [`crate::state::DaemonLock`]: a socket that is there was left by a crash.
    pub fn bind(state: &Path) -> Result<Self> {
        let path = state.join(SOCKET_NAME);
        let failed = |error| {
            Error::io(
                format!("cannot make the control socket {}", path.display()),
                error,
            )
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers until dropped. One at a time: callers are people.
    pub async fn run(&self, server: &Arc<Server>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match timeout(PATIENCE, answer(stream, server)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a caller at the control socket went away"),
                    Err(_) => tracing::warn!("a caller at the control socket says nothing"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept at the control socket");
                    // Out of descriptors, most likely: do not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Best effort: the next daemon replaces what is left.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: tokio::net::UnixStream, server: &Arc<Server>) -> io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    let answer = match line.trim_ascii() {
        b"reload" => match server.reload().await {
            Ok(closed) => Answer::Reloaded { closed },
            Err(error) => Answer::Failed {
                error: error.to_string(),
            },
        },
        b"clients" => Answer::Clients {
            sessions: server.sessions(),
        },
        b"leases" => Answer::Leases {
            leases: server.leases.reports(),
        },
        other => match other.strip_prefix(BREAK_LEASE) {
            Some(path) => break_lease(server, path).await,
            None => Answer::Failed {
                error: "unknown request".to_owned(),
            },
        },
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

async fn break_lease(server: &Arc<Server>, path: &[u8]) -> Answer {
    let broken = match NodePath::new(path) {
        Ok(path) => server.break_lease(&path).await,
        Err(error) => Err(Error::new(ErrorKind::Invalid, error.to_string())),
    };
    match broken {
        Ok(lease) => Answer::LeaseBroken { lease },
        Err(error) => Answer::Failed {
            error: error.to_string(),
        },
    }
}

/// Asks the daemon of a state folder; `None` if none runs. Blocks.
pub fn ask(state: &Path, word: &str) -> Result<Option<Answer>> {
    let path = state.join(SOCKET_NAME);
    let failed = |error| Error::io(format!("cannot talk to lacunad at {}", path.display()), error);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(format!("{word}\n").as_bytes()).map_err(failed)?;
    let mut text = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_line(&mut text)
        .map_err(failed)?;
    match serde_json::from_str(&text) {
        Ok(Answer::Failed { error }) => Err(Error::new(ErrorKind::Io, format!("lacunad says: {error}"))),
        Ok(answer) => Ok(Some(answer)),
        Err(error) => Err(Error::with_source(
            ErrorKind::Io,
            "lacunad gave an answer that is none",
            error,
        )),
    }
}
