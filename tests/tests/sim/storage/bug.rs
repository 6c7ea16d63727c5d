//! Bugs to put into the server's storage, each a promise that is broken somewhere below the protocol. The simulation
//! must find every one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lacuna_server::backend::OpenVolume;
use lacuna_server::error::Result;
use lacuna_transport::attr::{Attr, Timestamp};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::id::NodeId;
use parking_lot::Mutex;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// After a power loss the first write is answered and not done: a replay that is dropped.
    DroppedReplay,
    /// A flush is answered and nothing is flushed.
    LyingFlush,
    /// A write takes effect once more after later ones: what a fence must refuse.
    LateWrite,
    /// The map calls data a hole now and then.
    DataCalledHole,
    /// Attributes stay as they were, so that nobody sees that a volume was changed.
    FrozenStamp,
    /// A restarted server does not remember which changes of names it made: see [`super::super::host`].
    ForgottenOperations,
    /// A client that comes back for its lease is let in though another one has got it: its late writes are made.
    IgnoredFence,
    /// A lease is granted to everybody who asks for it.
    LeaseForEveryone,
    /// A restarted server does not remember who has which lease.
    ForgottenLeases,
}

/// All of them.
pub(crate) const BUGS: [Bug; 9] = [
    Bug::DroppedReplay,
    Bug::LyingFlush,
    Bug::LateWrite,
    Bug::DataCalledHole,
    Bug::FrozenStamp,
    Bug::ForgottenOperations,
    Bug::IgnoredFence,
    Bug::LeaseForEveryone,
    Bug::ForgottenLeases,
];

/// Writes between the two effects of a late one, and from one of those to the next.
const LATE_AFTER_WRITES: u64 = 3;
const LATE_EVERY_WRITES: u64 = 7;
/// Each so many looks at a map one is wrong.
const WRONG_EVERY_LOOKS: u64 = 5;

#[derive(Debug)]
pub(super) struct Bugs {
    bug: Option<Bug>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    writes: u64,
    looks: u64,
    drop_next: bool,
    late: Option<(Vec<u8>, u64)>,
    /// Volumes whose leases were asked for, each with how many are asking now.
    asking: BTreeMap<NodeId, usize>,
    /// Volumes that never were.
    phantoms: u64,
    stamps: BTreeMap<NodeId, Timestamp>,
}

impl Bugs {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self {
            bug,
            state: Mutex::default(),
        }
    }

    pub(super) fn restarted(&self) {
        self.state.lock().drop_next = self.bug == Some(Bug::DroppedReplay);
    }

    pub(super) fn write(&self, volume: &Arc<dyn OpenVolume>, bytes: &[u8], offset: u64) -> Result<()> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.drop_next) {
            return Ok(());
        }
        volume.write_at(bytes, offset)?;
        if self.bug == Some(Bug::LateWrite) {
            state.writes += 1;
            match state.writes % LATE_EVERY_WRITES {
                0 => state.late = Some((bytes.to_vec(), offset)),
                LATE_AFTER_WRITES => {
                    if let Some((bytes, offset)) = state.late.take() {
                        volume.write_at(&bytes, offset)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn flush(&self, volume: &dyn OpenVolume, data_only: bool) -> Result<()> {
        if self.bug == Some(Bug::LyingFlush) {
            return Ok(());
        }
        volume.flush(data_only)
    }

    pub(super) fn extents(&self, extents: Vec<Extent>) -> Vec<Extent> {
        if self.bug != Some(Bug::DataCalledHole) {
            return extents;
        }
        let mut state = self.state.lock();
        state.looks += 1;
        if !state.looks.is_multiple_of(WRONG_EVERY_LOOKS) {
            return extents;
        }
        let whole = extents.first().zip(extents.last()).and_then(|(first, last)| {
            lacuna_transport::range::ByteRange::new(first.range.start(), last.range.end())
        });
        whole.map_or(extents, |whole| vec![Extent::new(whole, ExtentKind::Hole)])
    }

    /// A client asks for the lease of a volume from now on; see [`Self::asked`].
    pub(super) fn asks(&self, volume: NodeId) {
        *self.state.lock().asking.entry(volume).or_default() += 1;
    }

    pub(super) fn asked(&self, volume: NodeId) {
        *self.state.lock().asking.entry(volume).or_default() -= 1;
    }

    /// The first look at a volume that was opened: with these bugs it seems to be another one, whose lease nobody has.
    /// Nothing but the lease follows from the birth that this look tells.
    pub(super) fn first_attr(&self, attr: Attr) -> Attr {
        let mut state = self.state.lock();
        let asking = state.asking.get(&attr.id).copied();
        let is_phantom = match self.bug {
            Some(Bug::IgnoredFence) => asking == Some(0),
            Some(Bug::LeaseForEveryone) => asking.is_some_and(|clients| clients > 0),
            _ => false,
        };
        if !is_phantom {
            return attr;
        }
        state.phantoms += 1;
        Attr {
            birth_ns: attr.birth_ns.wrapping_add(state.phantoms),
            ..attr
        }
    }

    pub(super) fn attr(&self, attr: Attr) -> Attr {
        if self.bug != Some(Bug::FrozenStamp) {
            return attr;
        }
        let changed = *self.state.lock().stamps.entry(attr.id).or_insert(attr.changed);
        Attr {
            changed,
            modified: changed,
            ..attr
        }
    }
}
