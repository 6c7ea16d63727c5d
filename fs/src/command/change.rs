//! What the commands that change a volume without a mount share: finding it, changing it for sure, and saying
//! what was done.
//!
//! A change counts once the server has flushed it. A command that loses its session in between, or meets
//! another run of the server, makes its change again: each of them has the same effect twice.
//!
//! What a live mount has not sent yet is not known here, and comes after the change.

use std::fmt;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::BootId;
use serde::Serialize;

use super::Global;
use super::connect::ask;
use super::output::{print, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::remote::quic::{QuicRemote, QuicVolume};
use crate::remote::{Access, Remote, SharedPath};
use crate::size::human;

/// How long a change may take in all: freeing or zeroing much, and the flush, take their time at the server.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a command did; printed as one line or as one object. Sizes are in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    /// HOST:PORT/PATH.
    pub(super) volume: String,
    /// `created`, `resized`, `removed`, `punched`, `wiped` or `zeroed`.
    pub(super) action: &'static str,
    /// Afterwards; of what was removed, before.
    pub(super) size: u64,
    pub(super) allocated_bytes: u64,
    #[serde(flatten)]
    pub(super) detail: Detail,
}

/// What only some commands can say.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Detail {
    Nothing {},
    Before { size_before: u64 },
    Range { offset: u64, length: u64 },
}

impl Done {
    pub(super) fn new(location: &Location, action: &'static str, attr: &Attr, detail: Detail) -> Self {
        Self {
            volume: location.to_string(),
            action,
            size: attr.size,
            allocated_bytes: attr.allocated_bytes,
            detail,
        }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        print(json, self, |out| {
            write!(out, "{} {}", self.action, printable(&self.volume))?;
            let (size, allocated) = (Bytes(self.size), Bytes(self.allocated_bytes));
            match self.detail {
                Detail::Nothing {} => {}
                Detail::Before { size_before } => write!(out, " from {}", Bytes(size_before))?,
                Detail::Range { offset, length } => write!(out, ", {} at {offset}", Bytes(length))?,
            }
            writeln!(out, ": size {size}, {allocated} allocated")
        })
    }
}

/// A number of bytes, for people and exact: `1.5 KiB (1536 bytes)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            write!(f, "{} bytes", self.0)
        } else {
            write!(f, "{} ({} bytes)", human(self.0), self.0)
        }
    }
}

/// Connects, changes, and prints what was done.
pub(super) fn change(
    global: &Global,
    location: &str,
    json: bool,
    request: impl AsyncFnOnce(&QuicRemote, &Location) -> Result<Done>,
) -> anyhow::Result<()> {
    let done = ask(global, location, CHANGE_TIMEOUT, async |remote, location| {
        if location.path.is_root() {
            let text = format!("{location} names no volume: write HOST[:PORT]/VOLUME");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if remote.link().is_read_only() {
            let text = format!(
                "{}: the server takes no changes from this client: it serves read-only, or it admitted this client for reading alone (`lacunad allow`)",
                location.server()
            );
            return Err(Error::new(ErrorKind::ReadOnly, text));
        }
        request(remote, location).await
    })?;
    done.print(json)
}

/// Opens a volume that is there, for a change.
pub(super) async fn open(remote: &QuicRemote, location: &Location) -> Result<(QuicVolume, Attr)> {
    let attr = remote.stat(&location.path).await?;
    if attr.kind != NodeKind::Volume {
        let text = format!("{location} is a folder, not a volume");
        return Err(Error::new(ErrorKind::NotVolume, text));
    }
    let path = SharedPath::new(location.path.clone());
    remote.open(&path, attr.id, Access::ReadWrite).await
}

/// Makes a change and has it flushed; tells what the volume is then. The deadline is the caller's.
pub(super) async fn flushed(
    remote: &QuicRemote,
    volume: &QuicVolume,
    make: impl AsyncFn(BootId) -> Result<()>,
) -> Result<Attr> {
    loop {
        let boot = remote.boot().await?;
        let made = match make(boot).await {
            Ok(()) => remote.flush(volume, boot, false).await,
            Err(error) => Err(error),
        };
        match made {
            Err(error) if error.kind() == ErrorKind::Disconnected => {
                tracing::info!(%error, "the session was lost in the middle of the change; making it again");
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact() {
        assert_eq!(Bytes(1023).to_string(), "1023 bytes");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB (1536 bytes)");
    }
}
