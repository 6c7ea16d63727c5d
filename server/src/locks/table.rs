//! Who holds which locks, and who waits; pure: time is an argument, and who is to be told is a result.
//!
//! A holder is a mount, known by its instance. Its locks outlive a lost session:
//!
//! | a lock is | when | it stands |
//! |---|---|---|
//! | held | its holder sent it, or sent it again, in the session there is | until it is given up |
//! | lingering | the session that it was sent in was lost, and nothing said goodbye | for `linger` after that |
//! | gone | its holder said goodbye, or `linger` has passed | no more: it is taken away when it is met |
//!
//! **Invariants**
//!
//! * Two owners never hold locks of one volume and space that exclude each other.
//! * What is held of a volume, by a client, and who waits for a volume is bounded.
//! * After a restart nothing is granted for a grace period but what clients say they held before.
//!
//! Left out on purpose: a search for deadlocks. A client waits within a deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::{Handle, LockOwner, NodeId};
use lacuna_transport::locks::{Held, LockMap};
use lacuna_transport::quic::identity::KeyId;
use lacuna_transport::wire::lock::{HeldLock, LockRequest, LockSpace};
use tokio::time::Instant;

use crate::catalog::events::EventQueue;
use crate::error::{Error, ErrorKind, Result};
use crate::operations::InstanceKey;

/// Locks of one volume: each request looks at all of them, for some microseconds.
pub(super) const VOLUME_LOCKS_MAX: usize = 4096;
/// Locks of one client, all its mounts together: 2 MiB, and four volumes' worth.
pub(super) const CLIENT_LOCKS_MAX: usize = 16 << 10;
/// Sessions that wait for locks of one volume and are told; others look again by themselves.
pub(super) const WAITERS_MAX: usize = 256;

/// Whose locks outlive what: a mount that named itself, or a session of one that did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    pub client: KeyId,
    pub mount: Mount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mount {
    Instance(InstanceKey),
    Session(u64),
}

/// Who asks, and in which session.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub holder: Holder,
    pub session: u64,
}

/// A session that wants to hear when it is worth asking again.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub session: u64,
    pub handle: Handle,
    pub events: Arc<EventQueue>,
}

/// What came of a request, and who is to hear of it, in the order in which they came.
#[derive(Debug)]
pub struct Outcome {
    pub granted: bool,
    pub told: Vec<Waiter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    process: u32,
    session: u64,
}

type Owner = (Holder, LockOwner);
type Map = LockMap<Owner, Tag>;

#[derive(Debug, Default)]
struct VolumeLocks {
    ranges: Map,
    whole: Map,
    waiters: VecDeque<Waiter>,
}

impl VolumeLocks {
    fn map(&mut self, space: LockSpace) -> &mut Map {
        match space {
            LockSpace::Ranges => &mut self.ranges,
            LockSpace::Whole => &mut self.whole,
        }
    }

    fn remove_if(&mut self, mut goes: impl FnMut(&Held<Owner, Tag>) -> bool) -> Vec<Held<Owner, Tag>> {
        let mut gone = Vec::new();
        for map in [&mut self.ranges, &mut self.whole] {
            map.remove_if(|held| {
                let goes = goes(held);
                if goes {
                    gone.push(*held);
                }
                goes
            });
        }
        gone
    }

    fn is_idle(&self) -> bool {
        self.ranges.is_empty() && self.whole.is_empty() && self.waiters.is_empty()
    }
}

/// The sessions of one holder.
#[derive(Clone, Copy, Debug)]
struct Sessions {
    latest: u64,
    /// The latest one has ended, too.
    lost: bool,
    /// When the latest one ended, or took over from the one before.
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    volumes: HashMap<NodeId, VolumeLocks>,
    sessions: HashMap<Holder, Sessions>,
    counts: HashMap<KeyId, usize>,
    linger: Duration,
    /// Until then a client may not have said yet what it held before a restart.
    grace_until: Option<Instant>,
}

impl Table {
    pub fn new(linger: Duration, grace_until: Option<Instant>) -> Self {
        Self {
            volumes: HashMap::new(),
            sessions: HashMap::new(),
            counts: HashMap::new(),
            linger,
            grace_until,
        }
    }

    /// Nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn holds(&self, volume: NodeId, holder: Holder) -> bool {
        self.volumes.get(&volume).is_some_and(|locks| {
            let mut all = locks.ranges.iter().chain(locks.whole.iter());
            all.any(|held| held.owner.0 == holder)
        })
    }

    /// Takes a lock, or gives up what the owner has of the range. `waiter` is remembered if it is refused.
    pub fn lock(
        &mut self,
        volume: NodeId,
        asker: Asker,
        request: &LockRequest,
        waiter: Option<Waiter>,
        now: Instant,
    ) -> Result<Outcome> {
        let (owner, range, space) = ((asker.holder, request.owner), request.range(), request.space);
        self.attach(asker, now);
        if let Some(kind) = request.kind {
            if self.meets(volume, owner, request, now).is_some() {
                self.remember(volume, waiter);
                return Ok(Outcome {
                    granted: false,
                    told: Vec::new(),
                });
            }
            if request.again != Some(true) {
                self.check_grace(now)?;
            }
            tracing::trace!(?kind, %range, "lock granted");
        }
        let count = self.counts.get(&asker.holder.client).copied().unwrap_or(0);
        let locks = self.volumes.entry(volume).or_default();
        let others = locks.ranges.len() + locks.whole.len();
        let map = locks.map(space);
        let before = map.len();
        let room = (VOLUME_LOCKS_MAX + before).saturating_sub(others);
        let room = room.min((CLIENT_LOCKS_MAX + before).saturating_sub(count));
        let tag = Tag {
            process: request.pid,
            session: asker.session,
        };
        let had = map.pieces(owner, range).iter().any(|(_, lock)| lock.is_some());
        let fits = map.set_within(owner, range, request.kind.map(|kind| (kind, tag)), room);
        let after = map.len();
        let told = if fits && had {
            locks.waiters.drain(..).collect()
        } else {
            Vec::new()
        };
        self.tidy(volume);
        if !fits {
            let why = format!(
                "{others} locks are held on this volume and {count} by this client; a volume has {VOLUME_LOCKS_MAX} at most, a client {CLIENT_LOCKS_MAX}"
            );
            return Err(Error::new(ErrorKind::Exhausted, why));
        }
        self.count(asker.holder.client, after, before);
        Ok(Outcome { granted: true, told })
    }

    /// The first lock that stands in the way; of its process, if that is one of the asker's host.
    pub fn test(
        &mut self,
        volume: NodeId,
        asker: Asker,
        request: &LockRequest,
        now: Instant,
    ) -> Result<Option<HeldLock>> {
        let owner = (asker.holder, request.owner);
        let Some(held) = self.meets(volume, owner, request, now) else {
            self.check_grace(now)?;
            return Ok(None);
        };
        let same_mount = held.owner.0 == asker.holder;
        Ok(Some(HeldLock {
            kind: held.kind,
            start: held.range.start(),
            end: held.range.end(),
            pid: if same_mount { held.tag.process } else { 0 },
        }))
    }

    /// The holder has closed the volume: nobody there can give up what is left.
    pub fn release(&mut self, volume: NodeId, holder: Holder) -> Vec<Waiter> {
        self.remove_if(|at, held| at == volume && held.owner.0 == holder)
    }

    /// A session ended; `left`: its client said goodbye, and does not come back.
    pub fn leave(&mut self, asker: Asker, left: bool, now: Instant) -> Vec<Waiter> {
        for locks in self.volumes.values_mut() {
            locks.waiters.retain(|waiter| waiter.session != asker.session);
        }
        self.volumes.retain(|_, locks| !locks.is_idle());
        let Some(sessions) = self.sessions.get_mut(&asker.holder) else {
            return Vec::new();
        };
        if sessions.latest != asker.session {
            // A later one took over.
            return Vec::new();
        }
        let comes_back = !left && matches!(asker.holder.mount, Mount::Instance(_));
        if comes_back {
            sessions.lost = true;
            sessions.since = now;
            return self.sweep(now);
        }
        self.sessions.remove(&asker.holder);
        self.remove_if(|_, held| held.owner.0 == asker.holder)
    }

    /// The session there is of a holder.
    fn attach(&mut self, asker: Asker, now: Instant) {
        if !self.sessions.contains_key(&asker.holder) {
            // Those who never came back must not fill the table.
            self.sweep(now);
        }
        let sessions = self.sessions.entry(asker.holder).or_insert(Sessions {
            latest: asker.session,
            lost: false,
            since: now,
        });
        if sessions.latest < asker.session {
            if !sessions.lost {
                sessions.since = now;
            }
            sessions.latest = asker.session;
            sessions.lost = false;
        }
    }

    /// A lock of somebody else, which is not gone yet, that stands in the way of a request.
    fn meets(
        &mut self,
        volume: NodeId,
        owner: Owner,
        request: &LockRequest,
        now: Instant,
    ) -> Option<Held<Owner, Tag>> {
        // What gives up needs no room; what is tested is as if it were to be taken.
        let kind = request.kind?;
        let held = |table: &mut Self| {
            let map = table.volumes.get_mut(&volume)?.map(request.space);
            map.conflict(owner, request.range(), kind).copied()
        };
        let first = held(self)?;
        if !self.is_gone(&first, now) {
            return Some(first);
        }
        // Others who wait look again by themselves; the asker is the first to know.
        self.sweep(now);
        held(self)
    }

    fn is_gone(&self, held: &Held<Owner, Tag>, now: Instant) -> bool {
        self.sessions.get(&held.owner.0).is_none_or(|sessions| {
            let was_lost = sessions.lost || held.tag.session != sessions.latest;
            was_lost && now >= sessions.since + self.linger
        })
    }

    /// Takes away all that is gone.
    fn sweep(&mut self, now: Instant) -> Vec<Waiter> {
        let linger = self.linger;
        let sessions = std::mem::take(&mut self.sessions);
        let told = self.remove_if(|_, held| {
            sessions.get(&held.owner.0).is_none_or(|sessions| {
                let was_lost = sessions.lost || held.tag.session != sessions.latest;
                was_lost && now >= sessions.since + linger
            })
        });
        self.sessions = sessions;
        self.sessions
            .retain(|_, sessions| !sessions.lost || now < sessions.since + linger);
        told
    }

    fn remove_if(&mut self, mut goes: impl FnMut(NodeId, &Held<Owner, Tag>) -> bool) -> Vec<Waiter> {
        let (mut gone, mut told) = (Vec::new(), Vec::new());
        for (volume, locks) in &mut self.volumes {
            let removed = locks.remove_if(|held| goes(*volume, held));
            if !removed.is_empty() {
                told.extend(locks.waiters.drain(..));
                gone.extend(removed);
            }
        }
        for held in gone {
            self.count(held.owner.0.client, 0, 1);
        }
        self.volumes.retain(|_, locks| !locks.is_idle());
        told
    }

    fn remember(&mut self, volume: NodeId, waiter: Option<Waiter>) {
        let (Some(waiter), Some(locks)) = (waiter, self.volumes.get_mut(&volume)) else {
            return;
        };
        let known = locks.waiters.iter().any(|other| other.session == waiter.session);
        if !known && locks.waiters.len() < WAITERS_MAX {
            locks.waiters.push_back(waiter);
        }
    }

    fn check_grace(&self, now: Instant) -> Result<()> {
        if self.grace_until.is_some_and(|until| now < until) {
            let why = "the server was just started: those who held locks before go first; ask again";
            return Err(Error::new(ErrorKind::Busy, why));
        }
        Ok(())
    }

    fn count(&mut self, client: KeyId, more: usize, less: usize) {
        let count = self.counts.entry(client).or_default();
        *count = (*count + more).saturating_sub(less);
        if *count == 0 {
            self.counts.remove(&client);
        }
    }

    fn tidy(&mut self, volume: NodeId) {
        if self.volumes.get(&volume).is_some_and(VolumeLocks::is_idle) {
            self.volumes.remove(&volume);
        }
    }
}

#[cfg(test)]
mod tests;
