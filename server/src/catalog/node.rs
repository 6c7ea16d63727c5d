//! One volume of the catalog: who has it open, who is changing it, and whose a new generation is.
//!
//! A change by a session is *begun* (a look notices what others did before), done without any lock, and
//! *ended* (a look that always counts as a change). Whoever looks meanwhile may find a part of it.
//!
//! | a look finds a new content while | its maker | told, with their new base |
//! |---|---|---|
//! | nobody is changing | another program | every session, of everything |
//! | one session is changing | that session | every other session, of the ranges it is changing |
//! | several sessions are | they | every session, of the ranges the others are changing |
//!
//! What inotify reports is such a look. It also reports what our sessions did: a report that finds the stamp
//! with which the last change ended, or a change under way, is not taken as a write of its own.
//!
//! Given up on purpose: a write of another program *during* a change by a session counts as that session's,
//! in the range that it is changing; what else it wrote is noticed by nobody until the next write behind us.
//! Who writes to a volume behind the server and through it at once has to lock it, here as on a disk. Where
//! the clock of the file system is coarse (see [`crate::generation`]) that moment is as long as its tick,
//! and a stamp that settles after it counts as a change by another program.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::compression::probe::Probe;
use lacuna_transport::id::{Generation, Handle, NodeId};
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use super::events::{EventQueue, hull};
use super::never::no_volume;
use super::watch::{Watch, Watcher};
use crate::backend::OpenVolume;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{Known, Look, Stamp};
use crate::lease::WriteLease;

/// A session as the catalog knows it.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its number.
    pub session: u64,
    /// Where it is told of changes by others.
    pub events: Arc<EventQueue>,
}

/// What is known of one volume, shared by all who have it open.
#[derive(Debug)]
pub struct VolumeNode {
    tick_ns: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` until the first look.
    known: Option<Known>,
    /// A write was reported and nobody looked since.
    written: bool,
    /// The stamp that the last change by a session ended with.
    own: Option<Stamp>,
    changes: Vec<UnderWay>,
    last_change: u64,
    openers: Vec<Opener>,
    volume: Weak<dyn OpenVolume>,
    watch: Option<Watch>,
    /// Flushes that failed, and how the last one did.
    flushes_failed: (u64, ErrorKind),
}

/// A change that a session is making.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    session: u64,
    range: ByteRange,
}

#[derive(Debug)]
struct Opener {
    handle: Handle,
    party: Party,
    /// Of the latest content that its session did not make; the same for all handles of a session.
    base: Generation,
}

impl VolumeNode {
    pub(super) fn new(tick_ns: u64) -> Self {
        let state = State {
            known: None,
            written: false,
            own: None,
            changes: Vec::new(),
            last_change: 0,
            openers: Vec::new(),
            volume: no_volume(),
            watch: None,
            flushes_failed: (0, ErrorKind::Io),
        };
        Self {
            tick_ns,
            state: Mutex::new(state),
        }
    }

    /// Adds an opener and looks. The descriptor is the one that all share.
    pub(super) fn open(
        self: &Arc<Self>,
        volume: Arc<dyn OpenVolume>,
        handle: Handle,
        party: &Party,
        for_change: bool,
        watcher: Option<&Arc<Watcher>>,
    ) -> Result<(OpenNode, Attr)> {
        let mut state = self.state.lock();
        // One descriptor for all: while it is open no other inode can have this id.
        let volume = match state.volume.upgrade() {
            Some(open) => open,
            None => {
                state.volume = Arc::downgrade(&volume);
                volume
            }
        };
        if for_change {
            volume.ready_to_change()?;
        }
        if state.watch.is_none() {
            state.watch = watcher.and_then(|watcher| watcher.add(&*volume, self));
        }
        // Looked at after the watch is there: what changes from here on is reported.
        let attr = volume.attr()?;
        let attr = state.apply(attr, self.tick_ns, false);
        let base = state.base(party.session).unwrap_or(attr.generation);
        state.openers.push(Opener {
            handle,
            party: party.clone(),
            base,
        });
        let flushes_failed = AtomicU64::new(state.flushes_failed.0);
        drop(state);
        let open = OpenNode {
            node: Arc::clone(self),
            volume,
            id: attr.id,
            handle,
            session: party.session,
            for_change,
            flushes_failed,
            shrinking: Probe::default(),
            lease: None,
        };
        Ok((open, Attr { base, ..attr }))
    }

    /// Applies a look by path, for a session.
    pub(super) fn found(&self, attr: Attr, session: u64) -> Attr {
        let mut state = self.state.lock();
        let stamp = Stamp::of(&attr);
        // It may be older than what is known. If the volume is open, look again: that one is not.
        let attr = match state.volume.upgrade().map(|volume| volume.attr()) {
            Some(Ok(now)) if now.id == attr.id && Stamp::of(&now) != stamp => now,
            _ => attr,
        };
        let attr = state.apply(attr, self.tick_ns, false);
        state.seen_by(session, attr)
    }

    /// Something was written, or attributes changed, says the kernel.
    pub(super) fn reported(&self, written: bool) {
        let mut state = self.state.lock();
        state.written |= written && state.changes.is_empty();
        if let Some(Ok(attr)) = state.volume.upgrade().map(|volume| volume.attr()) {
            state.apply(attr, self.tick_ns, false);
        }
    }

    pub(super) fn unwatched(&self) {
        self.state.lock().watch = None;
    }

    /// Nobody has it open; `lossless`: and forgetting it loses nothing.
    pub(super) fn is_closed(&self, lossless: bool) -> bool {
        let state = self.state.lock();
        let known_again = state.known.is_none_or(|known| known.follows_from_stamp());
        state.openers.is_empty() && (!lossless || (known_again && !state.written))
    }

    /// Begins a change of attributes alone by a session; `None` if nobody has the volume open.
    pub(super) fn change_attr(self: &Arc<Self>, session: u64) -> Option<Change> {
        let volume = self.state.lock().volume.upgrade()?;
        self.begin(volume, session, |_| ByteRange::EMPTY).ok()
    }

    fn begin(
        self: &Arc<Self>,
        volume: Arc<dyn OpenVolume>,
        session: u64,
        range: impl FnOnce(&Attr) -> ByteRange,
    ) -> Result<Change> {
        let mut state = self.state.lock();
        let attr = volume.attr()?;
        let range = range(&attr);
        state.apply(attr, self.tick_ns, false);
        state.last_change += 1;
        let number = state.last_change;
        state.changes.push(UnderWay {
            number,
            session,
            range,
        });
        drop(state);
        Ok(Change {
            node: Arc::clone(self),
            volume,
            number,
            session,
            ended: false,
        })
    }
}

impl State {
    /// `ended`: a change by a session is done, and still among `changes`.
    fn apply(&mut self, attr: Attr, tick_ns: u64, ended: bool) -> Attr {
        let stamp = Stamp::of(&attr);
        let written = std::mem::take(&mut self.written) && self.own != Some(stamp);
        let look = Look {
            now_ns: clock::now_ns(),
            tick_ns,
            writes_reported: self.watch.is_some(),
            written: written || ended,
        };
        let next = self
            .known
            .map_or_else(|| Known::first(stamp, &look), |known| known.then(stamp, &look));
        let attr = Attr {
            generation: next.generation(),
            base: next.generation(),
            ..attr
        };
        let before = self.known.replace(next).map(|known| known.generation());
        if before.is_some_and(|before| before != attr.generation) {
            self.tell(attr);
        }
        if ended {
            self.own = Some(stamp);
        }
        attr
    }

    /// See the table of the module.
    fn tell(&mut self, attr: Attr) {
        for opener in &mut self.openers {
            let others = self
                .changes
                .iter()
                .filter(|change| change.session != opener.party.session);
            let range = match others.map(|change| change.range).reduce(hull) {
                Some(range) => range,
                None if self.changes.is_empty() => ByteRange::ALL,
                None => continue,
            };
            opener.base = attr.generation;
            opener.party.events.push(opener.handle, attr, range);
        }
    }

    /// `None` if that session does not have it open.
    fn base(&self, session: u64) -> Option<Generation> {
        self.openers
            .iter()
            .find(|opener| opener.party.session == session)
            .map(|opener| opener.base)
    }

    fn seen_by(&self, session: u64, attr: Attr) -> Attr {
        let base = self.base(session).unwrap_or(attr.generation);
        Attr { base, ..attr }
    }
}

/// A change by a session that is under way; ends when dropped.
#[derive(Debug)]
pub struct Change {
    node: Arc<VolumeNode>,
    volume: Arc<dyn OpenVolume>,
    number: u64,
    session: u64,
    ended: bool,
}

impl Change {
    /// Attributes after it, as its session sees them.
    pub fn end(mut self) -> Result<Attr> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Attr> {
        self.ended = true;
        let mut state = self.node.state.lock();
        let looked = self.volume.attr();
        let attr = match looked {
            Ok(attr) => Ok(state.apply(attr, self.node.tick_ns, true)),
            Err(error) => {
                // Nobody saw what was done: the next look counts, as by another program.
                state.written = true;
                Err(error)
            }
        };
        state.changes.retain(|change| change.number != self.number);
        attr.map(|attr| state.seen_by(self.session, attr))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.ended {
            // Whoever drops it has an error of its own to report.
            let _ = self.finish();
        }
    }
}

/// A volume opened by a session. Dropping it ends the interest in its changes.
#[derive(Debug)]
pub struct OpenNode {
    node: Arc<VolumeNode>,
    volume: Arc<dyn OpenVolume>,
    id: NodeId,
    handle: Handle,
    session: u64,
    for_change: bool,
    /// Failed flushes that this opener was told of, or that were before it.
    flushes_failed: AtomicU64,
    shrinking: Probe,
    lease: Option<WriteLease>,
}

impl OpenNode {
    /// Changes of its content are made under this lease.
    #[must_use]
    pub fn under(mut self, lease: Option<WriteLease>) -> Self {
        self.lease = lease;
        self
    }

    pub const fn lease(&self) -> Option<&WriteLease> {
        self.lease.as_ref()
    }

    pub fn volume(&self) -> &dyn OpenVolume {
        &*self.volume
    }

    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// Opened for changes.
    pub const fn is_for_change(&self) -> bool {
        self.for_change
    }

    /// Whether what is read of it was found to shrink.
    pub const fn shrinking(&self) -> &Probe {
        &self.shrinking
    }

    /// The same volume, maybe opened twice.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.node, &other.node)
    }

    /// Attributes now, as this session sees them.
    pub fn look(&self) -> Result<Attr> {
        let mut state = self.node.state.lock();
        let attr = self.volume.attr()?;
        let attr = state.apply(attr, self.node.tick_ns, false);
        Ok(state.seen_by(self.session, attr))
    }

    /// The base of the last look; changes since then are still to be noticed ([`Self::is_still`]).
    pub fn last_base(&self) -> Result<Generation> {
        let base = self.node.state.lock().base(self.session);
        base.map_or_else(|| Ok(self.look()?.base), Ok)
    }

    /// True if nobody else changed the volume since its base was this. An error counts as "no": the caller
    /// tries again and meets it.
    pub fn is_still(&self, base: Generation) -> bool {
        self.look().is_ok_and(|attr| attr.base == base)
    }

    /// A change of content by this session: `range`, of the attributes before, is what it can touch. Refused
    /// (`Fenced`) once another client may write. Blocks.
    pub fn change<T>(
        &self,
        range: impl FnOnce(&Attr) -> ByteRange,
        work: impl FnOnce(&dyn OpenVolume) -> Result<T>,
    ) -> Result<(T, Attr)> {
        let under_lease = self.lease.as_ref().map(WriteLease::begin).transpose()?;
        let change = self.node.begin(Arc::clone(&self.volume), self.session, range)?;
        let done = work(&*self.volume);
        let attr = change.end();
        drop(under_lease);
        Ok((done?, attr?))
    }

    /// A change of mode, owner or times, which needs no lease. Blocks.
    pub fn set_attr(&self, new: &NewAttr) -> Result<Attr> {
        let volume = Arc::clone(&self.volume);
        let change = self.node.begin(volume, self.session, |_| ByteRange::EMPTY)?;
        let done = self.volume.set_attr(new);
        let attr = change.end();
        done?;
        attr
    }

    /// Makes earlier changes durable. The kernel tells of what it lost once for the descriptor that all
    /// share; here each opener is told once.
    pub fn flush(&self, data_only: bool) -> Result<()> {
        let flushed = self.volume.flush(data_only);
        let mut state = self.node.state.lock();
        if let Err(error) = &flushed {
            state.flushes_failed = (state.flushes_failed.0 + 1, error.kind());
        }
        let (failed, kind) = state.flushes_failed;
        drop(state);
        let told = self.flushes_failed.swap(failed, Ordering::Relaxed);
        flushed?;
        if told < failed {
            let text = "earlier changes of this volume were lost; write them again";
            return Err(Error::new(kind, text));
        }
        Ok(())
    }
}

impl Drop for OpenNode {
    fn drop(&mut self) {
        let mut state = self.node.state.lock();
        let (handle, session) = (self.handle, self.session);
        state
            .openers
            .retain(|opener| opener.handle != handle || opener.party.session != session);
    }
}
