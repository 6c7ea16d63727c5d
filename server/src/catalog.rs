//! The volumes that sessions have open (and had, lately): their generation, and who is told of changes.
//!
//! **Invariants**
//!
//! * One [`VolumeNode`] for a volume, however often it is open: all sessions see one generation.
//! * A node is looked at with its lock held, so that looks are applied in the order they were made.
//! * Whoever has the volume open is told of each new generation that it did not make itself, before the look
//!   that found it returns. Its *base* is the latest of those; see [`node`] for whose a generation is.
//! * No lock is held while a volume is changed: a session changes one from many lanes at once.
//! * The table is bounded: closed volumes are forgotten first, and an open one is never forgotten.
//!
//! Lock order: table, then node, then event queue. None is held across an await.
//!
//! Left out on purpose: who may write ([`crate::lease`]). Folders have no node here: their generation follows from their stamp.

pub mod events;
mod never;
pub mod node;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::{Handle, NodeId};
use parking_lot::Mutex;

pub use self::node::{Change, OpenNode, Party, VolumeNode};
use self::watch::Watcher;
use crate::backend::OpenVolume;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::{Known, Look, Stamp};

/// Most volumes remembered: about 300 bytes and an inotify watch each.
const NODES_MAX: usize = 128 << 10;
/// The part of the table that is forgotten at once when it is full, so that it is searched rarely.
const FORGET_SHARE: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    nodes: Mutex<HashMap<NodeId, Arc<VolumeNode>>>,
    watcher: Option<Arc<Watcher>>,
    tick_ns: u64,
    nodes_max: usize,
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
            nodes_max: NODES_MAX,
        }
    }

    /// The same, which remembers no more than `nodes_max` volumes.
    #[must_use]
    pub fn with_nodes_max(self, nodes_max: usize) -> Self {
        Self {
            nodes_max: nodes_max.clamp(1, NODES_MAX),
            ..self
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

    /// Generation and base of what a look by path found, as a session sees them.
    #[must_use]
    pub fn with_generation(&self, attr: Attr, session: u64) -> Attr {
        match self.known(&attr) {
            Some(node) => node.found(attr, session),
            None => {
                let look = Look {
                    now_ns: clock::now_ns(),
                    tick_ns: self.tick_ns,
                    writes_reported: false,
                    written: false,
                };
                let generation = Known::first(Stamp::of(&attr), &look).generation();
                Attr {
                    generation,
                    base: generation,
                    ..attr
                }
            }
        }
    }

    /// Makes `volume` known as open by `handle` of a session. Blocks.
    pub fn open(
        &self,
        volume: Arc<dyn OpenVolume>,
        handle: Handle,
        party: &Party,
        for_change: bool,
    ) -> Result<(OpenNode, Attr)> {
        let id = volume.attr()?.id;
        let watcher = self.watcher.as_ref();
        self.node(id)?.open(volume, handle, party, for_change, watcher)
    }

    /// Begins a change by a session of the attributes of what a path names (its mode, its names); `None` if
    /// nobody has it open.
    pub fn change_attr(&self, attr: &Attr, session: u64) -> Option<Change> {
        self.known(attr)?.change_attr(session)
    }

    /// Volumes remembered now.
    pub fn len(&self) -> usize {
        self.nodes.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn known(&self, attr: &Attr) -> Option<Arc<VolumeNode>> {
        match attr.kind {
            NodeKind::Volume => self.nodes.lock().get(&attr.id).map(Arc::clone),
            NodeKind::Folder => None,
        }
    }

    fn node(&self, id: NodeId) -> Result<Arc<VolumeNode>> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&id) {
            return Ok(Arc::clone(node));
        }
        if nodes.len() >= self.nodes_max {
            forget(&mut nodes, (self.nodes_max / FORGET_SHARE).max(1));
        }
        if nodes.len() >= self.nodes_max {
            let why = format!("{} volumes are open on this server; close some", nodes.len());
            return Err(Error::new(ErrorKind::Exhausted, why));
        }
        let node = Arc::new(VolumeNode::new(self.tick_ns));
        nodes.insert(id, Arc::clone(&node));
        Ok(node)
    }
}

/// Forgets `count` volumes that nobody has open, first those of which nothing is lost.
fn forget(nodes: &mut HashMap<NodeId, Arc<VolumeNode>>, count: usize) {
    let mut left = count;
    for lossless in [true, false] {
        nodes.retain(|_, node| {
            // A count of one: only the table has it, and only the table's lock hands it out.
            let goes = left > 0 && Arc::strong_count(node) == 1 && node.is_closed(lossless);
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests;
