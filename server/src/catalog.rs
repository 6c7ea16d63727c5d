//! The volumes that sessions have open (and had, lately): their generation, and who is told of changes.
//!
//! **Invariants**
//!
//! * One [`VolumeNode`] for a volume, however often it is open: all sessions see one generation.
//! * A node is looked at with its lock held, so that looks are applied in the order they were made.
//! * Whoever has the volume open is told of each new generation, before the look that found it returns.
//! * The table is bounded: closed volumes are forgotten first, and an open one is never forgotten.
//!
//! Lock order: table, then node, then event queue. None is held across an await.
//!
//! Left out on purpose: leases (step 2). Folders have no node here: their generation follows from
//! their stamp.

pub mod events;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::{Generation, Handle, NodeId};
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use self::events::EventQueue;
use self::watch::{Watch, Watcher};
use crate::backend::OpenVolume;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{Known, Look, Stamp};

/// Most volumes remembered: about 300 bytes and an inotify watch each.
const NODES_MAX: usize = 128 << 10;
/// Closed volumes forgotten at once when the table is full, so that it is searched rarely.
const FORGET_AT_ONCE: usize = NODES_MAX / 16;

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    nodes: Mutex<HashMap<NodeId, Arc<VolumeNode>>>,
    watcher: Option<Arc<Watcher>>,
    tick_ns: u64,
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
    openers: Vec<(Handle, Arc<EventQueue>)>,
    volume: Weak<dyn OpenVolume>,
    watch: Option<Watch>,
}

/// A volume opened by a session. Dropping it ends the interest in its changes.
#[derive(Debug)]
pub struct OpenNode {
    node: Arc<VolumeNode>,
    volume: Arc<dyn OpenVolume>,
    handle: Handle,
    events: Arc<EventQueue>,
}

impl Catalog {
    /// `tick` is that of the backend. Without inotify changes are still noticed, at the next look.
    pub fn new(tick: Duration) -> Self {
        let watcher = match Watcher::new() {
            Ok(watcher) => Some(Arc::new(watcher)),
            Err(error) => {
                tracing::warn!(%error, "no inotify: changes by other programs are noticed late");
                None
            }
        };
        let tick_ns = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX);
        Self {
            nodes: Mutex::default(),
            watcher,
            tick_ns,
        }
    }

    /// Passes on the kernel's reports of writes by other programs, until dropped. Needs a runtime.
    pub async fn watch(&self) {
        if let Some(watcher) = &self.watcher
            && let Err(error) = watcher.run().await
        {
            tracing::error!(%error, "changes by other programs are noticed late from now on");
        }
        std::future::pending().await
    }

    /// The generation of what a look by path found.
    #[must_use]
    pub fn with_generation(&self, attr: Attr) -> Attr {
        let node = match attr.kind {
            NodeKind::Volume => self.nodes.lock().get(&attr.id).map(Arc::clone),
            NodeKind::Folder => None,
        };
        match node {
            Some(node) => node.found(attr),
            None => {
                let look = self.look();
                Attr {
                    generation: Known::first(Stamp::of(&attr), &look).generation(),
                    ..attr
                }
            }
        }
    }

    /// Makes `volume` known as open by `handle` of the session of `events`. Blocks.
    pub fn open(
        &self,
        volume: Arc<dyn OpenVolume>,
        handle: Handle,
        events: &Arc<EventQueue>,
    ) -> Result<(OpenNode, Attr)> {
        let id = volume.attr()?.id;
        let node = self.node(id)?;
        let volume = {
            let mut state = node.state.lock();
            // One descriptor for all: while it is open no other inode can have this id.
            let volume = match state.volume.upgrade() {
                Some(open) => open,
                None => {
                    state.volume = Arc::downgrade(&volume);
                    volume
                }
            };
            if state.watch.is_none() {
                state.watch = self
                    .watcher
                    .as_ref()
                    .and_then(|watcher| watcher.add(&*volume, &node));
            }
            state.openers.push((handle, Arc::clone(events)));
            volume
        };
        let open = OpenNode {
            node,
            volume,
            handle,
            events: Arc::clone(events),
        };
        // Looked at after the watch is there: what changes from here on is reported.
        let attr = open.look()?;
        Ok((open, attr))
    }

    /// Volumes remembered now.
    pub fn len(&self) -> usize {
        self.nodes.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn node(&self, id: NodeId) -> Result<Arc<VolumeNode>> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&id) {
            return Ok(Arc::clone(node));
        }
        if nodes.len() >= NODES_MAX {
            forget(&mut nodes, FORGET_AT_ONCE);
        }
        if nodes.len() >= NODES_MAX {
            let why = format!("{NODES_MAX} volumes are open on this server; close some");
            return Err(Error::new(ErrorKind::Exhausted, why));
        }
        let state = State {
            known: None,
            written: false,
            openers: Vec::new(),
            volume: no_volume(),
            watch: None,
        };
        let node = Arc::new(VolumeNode {
            tick_ns: self.tick_ns,
            state: Mutex::new(state),
        });
        nodes.insert(id, Arc::clone(&node));
        Ok(node)
    }

    fn look(&self) -> Look {
        Look {
            now_ns: now_ns(),
            tick_ns: self.tick_ns,
            writes_reported: false,
            written: false,
        }
    }
}

/// Forgets `count` volumes that nobody has open, first those of which nothing is lost.
fn forget(nodes: &mut HashMap<NodeId, Arc<VolumeNode>>, count: usize) {
    let mut left = count;
    for lossless in [true, false] {
        nodes.retain(|_, node| {
            // A count of one: only the table has it, and only the table's lock hands it out.
            let state = node.state.lock();
            let closed = state.openers.is_empty() && Arc::strong_count(node) == 1;
            let known_again = state.known.is_none_or(|known| known.follows_from_stamp());
            let keep = left == 0 || !closed || (lossless && (!known_again || state.written));
            left -= usize::from(!keep);
            keep
        });
    }
}

impl VolumeNode {
    /// Applies a look by path.
    fn found(&self, attr: Attr) -> Attr {
        let mut state = self.state.lock();
        let stamp = Stamp::of(&attr);
        // It may be older than what is known. If the volume is open, look again: that one is not.
        let attr = match state.volume.upgrade().map(|volume| volume.attr()) {
            Some(Ok(now)) if now.id == attr.id && Stamp::of(&now) != stamp => now,
            _ => attr,
        };
        state.apply(attr, self.tick_ns)
    }

    /// Something was written, or attributes changed, says the kernel.
    fn reported(&self, written: bool) {
        let mut state = self.state.lock();
        state.written |= written;
        if let Some(Ok(attr)) = state.volume.upgrade().map(|volume| volume.attr()) {
            state.apply(attr, self.tick_ns);
        }
    }

    fn unwatched(&self) {
        self.state.lock().watch = None;
    }
}

impl State {
    fn apply(&mut self, attr: Attr, tick_ns: u64) -> Attr {
        let look = Look {
            now_ns: now_ns(),
            tick_ns,
            writes_reported: self.watch.is_some(),
            written: std::mem::take(&mut self.written),
        };
        let stamp = Stamp::of(&attr);
        let next = self
            .known
            .map_or_else(|| Known::first(stamp, &look), |known| known.then(stamp, &look));
        let attr = Attr {
            generation: next.generation(),
            ..attr
        };
        let before = self.known.replace(next).map(|known| known.generation());
        if before.is_some_and(|before| before != attr.generation) {
            for (handle, events) in &self.openers {
                events.push(*handle, attr, ByteRange::ALL);
            }
        }
        attr
    }
}

impl OpenNode {
    pub fn volume(&self) -> &dyn OpenVolume {
        &*self.volume
    }

    /// Attributes and generation now.
    pub fn look(&self) -> Result<Attr> {
        let mut state = self.node.state.lock();
        let attr = self.volume.attr()?;
        Ok(state.apply(attr, self.node.tick_ns))
    }

    /// True if the volume still has this generation. An error counts as "no": the caller tries again
    /// and meets it.
    pub fn is_still(&self, generation: Generation) -> bool {
        self.look().is_ok_and(|attr| attr.generation == generation)
    }
}

impl Drop for OpenNode {
    fn drop(&mut self) {
        let mut state = self.node.state.lock();
        state
            .openers
            .retain(|(handle, events)| *handle != self.handle || !Arc::ptr_eq(events, &self.events));
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A `Weak` of nothing; an unsized one needs a type to start from.
fn no_volume() -> Weak<dyn OpenVolume> {
    Weak::<never::Never>::new()
}

mod never {
    //! A volume that cannot exist, to name a type.

    use lacuna_transport::attr::Attr;
    use lacuna_transport::extent::Extent;
    use lacuna_transport::range::ByteRange;

    use crate::backend::OpenVolume;
    use crate::error::Result;

    #[derive(Debug)]
    pub(super) enum Never {}

    impl OpenVolume for Never {
        fn attr(&self) -> Result<Attr> {
            match *self {}
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            match *self {}
        }

        fn read_cached(&self, _: &mut [u8], _: u64) -> Result<usize> {
            match *self {}
        }

        fn extents(&self, _: ByteRange, _: usize) -> Result<Vec<Extent>> {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests;
