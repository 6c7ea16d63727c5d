//! Locks that applications hold on volumes (flock, fcntl): they hold across hosts.
//!
//! The server decides. What it granted is remembered here, with the handle that it was taken through: to be sent again
//! in a new session, and to be given up when the handle is closed. Where the server keeps no locks the same record
//! decides, for this mount alone.
//!
//! **Invariants**
//!
//! * What is remembered was granted; what became of a request that failed is undone at the server.
//! * Requests of one owner reach the server in the order in which they were made.
//! * Before a lock is given up, what was written is at the server; once one is granted, what its last holder wrote is
//!   what is read here.
//! * Nobody waits who was sent a signal, or longer than the deadline of the mount.
//!
//! Lock order: an owner's order, then the record. The record is not held across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lacuna_transport::id::{LockOwner, NodeId};
use lacuna_transport::locks::LockMap;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::lock::{HeldLock, LockKind, LockSpace, Locked};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{FileSystem, OpenId, OpenVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Access, LockAsk, Remote};
use crate::volume::Volume;

/// Owners are put in order in so many groups: one that waits for the server holds up few others.
const ORDERS: usize = 8;
/// A lock that is waited for is asked for this often, also if nobody says that it was given up.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a signal may stay unseen: a process that waits for our answer cannot be killed before.
const SIGNAL_PAUSE: Duration = Duration::from_millis(200);
/// Between requests to a server that was just started and waits for those who held locks before.
const GRACE_PAUSE: Duration = Duration::from_millis(250);
/// Longest wait of a caller whose signals cannot be seen, whatever the deadline of the mount is.
const UNSEEN_WAIT_MAX: Duration = Duration::from_secs(30);
/// For requests that nobody waits for, if the mount has no deadline.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(30);

/// Locks of a volume where the server keeps none, and has no bound of its own.
const LOCKS_HERE_MAX: usize = 4096;

const REFUSED: Locked = Locked {
    granted: false,
    attr: None,
};
const GRANTED_HERE: Locked = Locked {
    granted: true,
    attr: None,
};

/// Whose lock, on what.
#[derive(Clone, Copy, Debug)]
pub struct LockCall {
    pub open: OpenId,
    pub space: LockSpace,
    pub owner: LockOwner,
    pub process: u32,
    pub range: ByteRange,
}

/// What is known of a caller that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    None,
    Pending,
    /// The caller cannot be seen.
    Unknown,
}

/// Looks at a caller that waits.
pub type Look<'a> = &'a (dyn Fn() -> Signals + Send + Sync);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    process: u32,
    /// Taken through it last.
    open: OpenId,
}

type Map = LockMap<LockOwner, Tag>;

#[derive(Debug, Default)]
struct Record {
    ranges: Map,
    whole: Map,
}

impl Record {
    fn map(&mut self, space: LockSpace) -> &mut Map {
        match space {
            LockSpace::Ranges => &mut self.ranges,
            LockSpace::Whole => &mut self.whole,
        }
    }

    /// All locks, as calls.
    fn calls(&self) -> Vec<(LockCall, LockKind)> {
        let of = |space, map: &Map| {
            let calls = map.iter().map(move |held| {
                let call = LockCall {
                    open: held.tag.open,
                    space,
                    owner: held.owner,
                    process: held.tag.process,
                    range: held.range,
                };
                (call, held.kind)
            });
            calls.collect::<Vec<_>>()
        };
        let mut calls = of(LockSpace::Ranges, &self.ranges);
        calls.extend(of(LockSpace::Whole, &self.whole));
        calls
    }
}

/// The locks of this mount on one volume.
#[derive(Debug, Default)]
struct VolumeLocks {
    record: Mutex<Record>,
    order: [tokio::sync::Mutex<()>; ORDERS],
}

impl VolumeLocks {
    fn order(&self, owner: LockOwner) -> &tokio::sync::Mutex<()> {
        &self.order[group(owner)]
    }

    /// True if the owner has something of the range.
    fn has(&self, call: &LockCall) -> bool {
        let mut record = self.record.lock();
        let pieces = record.map(call.space).pieces(call.owner, call.range);
        pieces.iter().any(|(_, lock)| lock.is_some())
    }

    fn set(&self, call: &LockCall, kind: Option<LockKind>) {
        let tag = Tag {
            process: call.process,
            open: call.open,
        };
        let mut record = self.record.lock();
        record
            .map(call.space)
            .set(call.owner, call.range, kind.map(|kind| (kind, tag)));
    }

    fn check_room(&self) -> Result<()> {
        let record = self.record.lock();
        if record.ranges.len() + record.whole.len() < LOCKS_HERE_MAX {
            return Ok(());
        }
        let text = format!("{LOCKS_HERE_MAX} locks are held on it");
        Err(Error::new(ErrorKind::Exhausted, text))
    }

    fn conflicts(&self, call: &LockCall, kind: LockKind) -> bool {
        let mut record = self.record.lock();
        let map = record.map(call.space);
        map.conflict(call.owner, call.range, kind).is_some()
    }
}

fn group(owner: LockOwner) -> usize {
    let orders = u64::try_from(ORDERS).unwrap_or(1);
    usize::try_from(owner.0 % orders).unwrap_or(0)
}

/// The locks of this mount.
#[derive(Debug, Default)]
pub(super) struct Locks {
    volumes: Mutex<HashMap<NodeId, Arc<VolumeLocks>>>,
    /// Something was given up, here or elsewhere.
    freed: Notify,
}

impl Locks {
    fn of(&self, id: NodeId) -> Arc<VolumeLocks> {
        Arc::clone(self.volumes.lock().entry(id).or_default())
    }

    fn known(&self, id: NodeId) -> Option<Arc<VolumeLocks>> {
        self.volumes.lock().get(&id).cloned()
    }

    /// Forgets a volume on which nothing is held and nobody is about to.
    fn tidy(&self, id: NodeId) {
        let mut volumes = self.volumes.lock();
        let idle = volumes.get(&id).is_some_and(|locks| {
            let record = locks.record.lock();
            Arc::strong_count(locks) == 1 && record.ranges.is_empty() && record.whole.is_empty()
        });
        if idle {
            volumes.remove(&id);
        }
    }
}

impl<R: Remote> FileSystem<R> {
    /// Takes a lock. One that somebody else holds is `Locked`: at once, or with a `look` at the caller once the
    /// deadline has passed; a caller that is sent a signal meanwhile is `Interrupted`.
    pub async fn lock(
        self: &Arc<Self>,
        call: &LockCall,
        kind: LockKind,
        look: Option<Look<'_>>,
    ) -> Result<()> {
        let begun = Instant::now();
        let deadline = self.shared.deadline.map(|deadline| begun + deadline);
        let unseen_until = begun + UNSEEN_WAIT_MAX;
        loop {
            let mut freed = std::pin::pin!(self.locks.freed.notified());
            // From here on: what is given up while the request is on its way counts.
            freed.as_mut().enable();
            let pause = match self.try_lock(call, kind, look.is_some()).await {
                Ok(true) => return Ok(()),
                Ok(false) if look.is_none() => return Err(locked()),
                Ok(false) => LOOK_PAUSE,
                Err(error) if error.kind() == ErrorKind::Busy => GRACE_PAUSE,
                Err(error) => return Err(error),
            };
            let again = Instant::now() + pause;
            while Instant::now() < again {
                match look.map_or(Signals::None, |look| look()) {
                    Signals::Pending => {
                        return Err(Error::new(
                            ErrorKind::Interrupted,
                            "a signal ended the wait for a lock",
                        ));
                    }
                    Signals::Unknown if Instant::now() >= unseen_until => return Err(locked()),
                    Signals::Unknown | Signals::None => {}
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(locked());
                }
                let part = SIGNAL_PAUSE.min(again.saturating_duration_since(Instant::now()));
                if tokio::time::timeout(part, &mut freed).await.is_ok() {
                    break;
                }
            }
        }
    }

    /// Gives up what an owner has of a range.
    pub async fn unlock(&self, call: &LockCall) -> Result<()> {
        let open = self.open_volume(call.open)?;
        let Some(locks) = self.locks.known(open.volume.id()) else {
            return Ok(());
        };
        self.give_up(&open, &locks, call).await;
        drop(locks);
        self.locks.tidy(open.volume.id());
        Ok(())
    }

    /// The lock that stands in the way of one, if any.
    pub async fn test_lock(&self, call: &LockCall, kind: LockKind) -> Result<Option<HeldLock>> {
        let open = self.open_volume(call.open)?;
        let ask = ask(call, Some(kind));
        let tested = self.within("test a lock", async {
            loop {
                let bound = open.volume.bound()?;
                match self.shared.remote.test_lock(&*bound, &ask).await {
                    Err(error) if error.kind() == ErrorKind::Busy => tokio::time::sleep(GRACE_PAUSE).await,
                    other => return other,
                }
            }
        });
        match tested.await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(self.test_here(&open, call, kind)),
            other => other,
        }
    }

    /// A process closed a descriptor: what it holds by fcntl(2) on the volume goes, whatever it was taken through.
    pub async fn unlock_closed(&self, open: OpenId, owner: LockOwner) {
        let call = LockCall {
            open,
            space: LockSpace::Ranges,
            owner,
            process: 0,
            range: ByteRange::ALL,
        };
        // Only of a handle that is gone, and it took its locks along.
        let _ = self.unlock(&call).await;
    }

    /// The last descriptor of a handle was closed: what is still held through it goes, then it is closed.
    pub fn release(self: &Arc<Self>, open: OpenId) {
        let volume = self.open_volume(open).ok();
        let locks = volume.and_then(|volume| self.locks.known(volume.volume.id()));
        let held = locks.map(|locks| locks.record.lock().calls()).unwrap_or_default();
        let held: Vec<_> = held.into_iter().filter(|(call, _)| call.open == open).collect();
        if held.is_empty() {
            return self.close(open);
        }
        let fs = Arc::clone(self);
        tokio::spawn(async move {
            for (call, _) in held {
                let _ = fs.unlock(&call).await;
            }
            fs.close(open);
        });
    }

    /// The server told that locks were given up.
    pub fn locks_freed(&self) {
        self.locks.freed.notify_waiters();
    }

    /// There is a new session: what is held is said again, each group of owners by itself.
    pub fn lock_again(self: &Arc<Self>) {
        let volumes: Vec<_> = self.locks.volumes.lock().keys().copied().collect();
        for id in volumes {
            let Ok(volume) = self.namespace.lock().volume(id) else {
                continue;
            };
            for number in 0..ORDERS {
                tokio::spawn(Arc::clone(self).lock_group_again(Arc::clone(&volume), number));
            }
        }
    }

    /// One request for a lock: whether it was granted.
    async fn try_lock(self: &Arc<Self>, call: &LockCall, kind: LockKind, tell: bool) -> Result<bool> {
        let open = self.open_volume(call.open)?;
        let id = open.volume.id();
        let locks = self.locks.of(id);
        if kind == LockKind::Shared && locks.has(call) {
            // Maybe of an exclusive one, under which it wrote.
            self.drain_before(&open).await;
        }
        let tried = self.within("lock", async {
            let _order = locks.order(call.owner).lock().await;
            if locks.conflicts(call, kind) {
                return Ok(REFUSED);
            }
            let bound = open.volume.bound()?;
            let ask = LockAsk {
                tell,
                ..ask(call, Some(kind))
            };
            let locked = match self.shared.remote.lock(&*bound, &ask).await {
                // This mount decides by itself.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    locks.check_room()?;
                    GRANTED_HERE
                }
                other => other?,
            };
            if locked.granted {
                locks.set(call, Some(kind));
            }
            Ok(locked)
        });
        let tried = tried.await;
        drop(locks);
        self.locks.tidy(id);
        match &tried {
            Ok(locked) => {
                if let Some(attr) = locked.attr {
                    open.volume.update(attr);
                    self.shared.notices.delivered(id).await;
                }
            }
            Err(error) if error.kind() == ErrorKind::Busy => {}
            Err(_) => drop(tokio::spawn(Arc::clone(self).undo(*call))),
        }
        tried.map(|locked| locked.granted)
    }

    /// Nobody knows what became of a request: the server is told what is held of its range.
    async fn undo(self: Arc<Self>, call: LockCall) {
        let Ok(open) = self.open_volume(call.open) else {
            return;
        };
        let id = open.volume.id();
        let locks = self.locks.of(id);
        let undone = async {
            let _order = locks.order(call.owner).lock().await;
            let pieces = locks.record.lock().map(call.space).pieces(call.owner, call.range);
            for (range, lock) in pieces {
                let (kind, process) = lock.map_or((None, 0), |(kind, tag)| (Some(kind), tag.process));
                let piece = LockCall {
                    range,
                    process,
                    ..call
                };
                let bound = open.volume.bound()?;
                self.shared.remote.lock(&*bound, &ask(&piece, kind)).await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(BESIDE_TIMEOUT, undone).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a lock that failed is not undone"),
            // The next session does not take it along.
            Err(_) => tracing::debug!("a lock that failed is not undone in time"),
        }
        drop(locks);
        self.locks.tidy(id);
    }

    /// Gives up at the server what is remembered of the range.
    async fn give_up(&self, open: &OpenVolume<R>, locks: &VolumeLocks, call: &LockCall) {
        if !locks.has(call) {
            return;
        }
        self.drain_before(open).await;
        let _order = locks.order(call.owner).lock().await;
        locks.set(call, None);
        // Without a session there is none to say it in: the next one does not take it along.
        if self.shared.remote.boot_now().is_some() {
            let told = async {
                let bound = open.volume.bound()?;
                self.shared.remote.lock(&*bound, &ask(call, None)).await
            };
            match tokio::time::timeout(self.shared.deadline.unwrap_or(BESIDE_TIMEOUT), told).await {
                Ok(Err(error)) if error.kind() != ErrorKind::Unsupported => {
                    tracing::debug!(%error, "a lock was not given up at the server");
                }
                Ok(_) => {}
                Err(_) => tracing::debug!("a lock was not given up at the server in time"),
            }
        }
        self.locks.freed.notify_waiters();
    }

    /// What was written under a lock is at the server before another host gets it. A failure is told by the next
    /// fsync or close.
    async fn drain_before(&self, open: &OpenVolume<R>) {
        if open.access == Access::ReadWrite
            && let Err(error) = open.volume.drain_all().await
        {
            tracing::warn!(volume = %open.volume.path(), %error, "not all that was written under a lock is at the server");
        }
    }

    fn test_here(&self, open: &OpenVolume<R>, call: &LockCall, kind: LockKind) -> Option<HeldLock> {
        let locks = self.locks.known(open.volume.id())?;
        let mut record = locks.record.lock();
        let held = record.map(call.space).conflict(call.owner, call.range, kind)?;
        Some(HeldLock {
            kind: held.kind,
            start: held.range.start(),
            end: held.range.end(),
            pid: held.tag.process,
        })
    }

    /// Says again what a group of owners holds; tries until it works or the volume is closed.
    async fn lock_group_again(self: Arc<Self>, volume: Arc<Volume<R>>, number: usize) {
        let Some(locks) = self.locks.known(volume.id()) else {
            return;
        };
        while volume.is_open() {
            let said = tokio::time::timeout(BESIDE_TIMEOUT, self.say_again(&volume, &locks, number)).await;
            match said {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::debug!(volume = %volume.path(), %error, "cannot say again what is locked");
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Err(_) => tracing::debug!(volume = %volume.path(), "no answer yet about locks"),
            }
        }
    }

    async fn say_again(&self, volume: &Volume<R>, locks: &VolumeLocks, number: usize) -> Result<()> {
        let _order = locks.order[number].lock().await;
        let held = locks.record.lock().calls();
        for (call, kind) in held.into_iter().filter(|(call, _)| group(call.owner) == number) {
            let bound = volume.bound()?;
            let ask = LockAsk {
                again: true,
                ..ask(&call, Some(kind))
            };
            match self.shared.remote.lock(&*bound, &ask).await {
                Ok(locked) if locked.granted => {}
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                Ok(_) => {
                    locks.set(&call, None);
                    self.note_lost(volume, &call);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Somebody else has a lock that one of ours excludes: who relied on ours must not go on.
    fn note_lost(&self, volume: &Volume<R>, call: &LockCall) {
        tracing::error!(
            volume = %volume.path(),
            process = call.process,
            "another host has taken a lock that was held here: the connection was lost for too long. \
             Reads and writes through the handle fail until it is closed"
        );
        if let Ok(open) = self.open_volume(call.open) {
            open.lock_lost.store(true, Ordering::Release);
        }
        self.locks.freed.notify_waiters();
    }
}

impl<R: Remote> OpenVolume<R> {
    /// Fails if a lock that was taken through it was lost.
    pub(super) fn check_locks(&self) -> Result<()> {
        if self.lock_lost.load(Ordering::Acquire) {
            let text = "a lock on it was lost to another host; close it and open it again";
            return Err(Error::new(ErrorKind::Io, text));
        }
        Ok(())
    }
}

fn ask(call: &LockCall, kind: Option<LockKind>) -> LockAsk {
    LockAsk {
        space: call.space,
        owner: call.owner,
        process: call.process,
        kind,
        range: call.range,
        tell: false,
        again: false,
    }
}

fn locked() -> Error {
    Error::new(ErrorKind::Locked, "somebody else holds a lock on it")
}

#[cfg(test)]
mod tests;
