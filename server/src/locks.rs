//! Locks of clients on volumes (flock, fcntl): they hold across hosts.
//!
//! The table is in memory: after a crash the clients tell what they held. A file in the state folder says that there
//! may be somebody to wait for, so that a server on which nobody locks anything needs no grace.
//!
//! The lock of the table is held for no IO and across no await.

pub mod table;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lacuna_transport::id::NodeId;
use lacuna_transport::wire::lock::{HeldLock, LockRequest};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::table::{Asker, Holder, Table, Waiter};
use crate::error::{Error, Result};
use crate::serve::told::Told;

/// How long a server that was started again waits for those who held locks: twice the 5 s within which a client finds
/// it.
pub const LOCKS_GRACE: Duration = Duration::from_secs(10);

const NOTE_NAME: &str = "locks";

/// See the module.
#[derive(Debug)]
pub struct Locks {
    table: Mutex<Table>,
    note: PathBuf,
    /// Locks may be held: the note is there.
    noted: AtomicBool,
    /// Whether it was said lately that the note cannot be written: each request tries again.
    told: Mutex<Told<()>>,
}

impl Locks {
    /// None are held yet; `grace` runs from now, if any were held by clients of the last run.
    pub fn open(state: &Path, linger: Duration, grace: Duration) -> Self {
        let note = state.join(NOTE_NAME);
        // If in doubt there were some.
        let noted = note.try_exists().unwrap_or(true);
        let grace_until = noted.then(|| Instant::now() + grace);
        Self {
            table: Mutex::new(Table::new(linger, grace_until)),
            note,
            noted: AtomicBool::new(noted),
            told: Mutex::default(),
        }
    }

    pub(crate) fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Acquire)
    }

    /// Notes, durably, that locks may be held. Blocks.
    pub(crate) fn note(&self) -> Result<()> {
        let failed = |error| Error::io(format!("cannot make {}", self.note.display()), error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.note);
        file.and_then(|file| file.sync_all()).map_err(failed)?;
        if let Some(folder) = self.note.parent() {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed)?;
        }
        self.noted.store(true, Ordering::Release);
        Ok(())
    }

    /// The note could not be written: whether that is to be said now.
    pub(crate) fn is_to_be_told(&self, now: Instant) -> bool {
        self.told.lock().line((), now).is_some()
    }

    pub(crate) fn lock(
        &self,
        volume: NodeId,
        asker: Asker,
        request: &LockRequest,
        waiter: Option<Waiter>,
    ) -> Result<bool> {
        let outcome = self
            .table
            .lock()
            .lock(volume, asker, request, waiter, Instant::now())?;
        tell(outcome.told);
        Ok(outcome.granted)
    }

    pub(crate) fn test(
        &self,
        volume: NodeId,
        asker: Asker,
        request: &LockRequest,
    ) -> Result<Option<HeldLock>> {
        self.table.lock().test(volume, asker, request, Instant::now())
    }

    pub(crate) fn holds(&self, volume: NodeId, holder: Holder) -> bool {
        self.table.lock().holds(volume, holder)
    }

    pub(crate) fn release(&self, volume: NodeId, holder: Holder) {
        let told = self.table.lock().release(volume, holder);
        tell(told);
    }

    pub(crate) fn leave(&self, asker: Asker, left: bool) {
        let told = self.table.lock().leave(asker, left, Instant::now());
        tell(told);
    }

    /// The server ends: the next run need not wait for anybody, if nobody holds anything. Blocks.
    pub(crate) fn end(&self) {
        if self.is_noted()
            && self.table.lock().is_empty()
            && let Err(error) = fs::remove_file(&self.note)
        {
            tracing::debug!(%error, "cannot remove {}", self.note.display());
        }
    }
}

fn tell(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter.events.push_freed(waiter.handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_note_that_cannot_be_written_is_told_once_a_minute() {
        let nowhere = Path::new("/proc/nowhere");
        let locks = Locks::open(nowhere, Duration::ZERO, Duration::ZERO);
        let begun = Instant::now();
        let told = (0..120).filter(|second| {
            assert!(locks.note().is_err() && !locks.is_noted());
            locks.is_to_be_told(begun + Duration::from_secs(*second))
        });
        assert_eq!(told.collect::<Vec<_>>(), [0, 60]);
    }
}
