//! What the kernel knows: inodes, and what is open.
//!
//! An inode number is the server's [`NodeId`]; the kernel counts its references, and an entry goes when
//! they are gone. Paths are what requests to the server carry; a node found under a new name takes it, and
//! one whose name we took away keeps its last path but is not found by it.
//! Plain data: no IO, no lock of its own.

use std::collections::HashMap;
use std::sync::Arc;

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodePath;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::volume::{Shared, Volume};

#[derive(Debug)]
struct Node<R: Remote> {
    path: NodePath,
    kind: NodeKind,
    birth_ns: u64,
    lookups: u64,
    volume: Option<Arc<Volume<R>>>,
    /// As the server said last; `None` once it said that the name is gone.
    told: Option<Attr>,
}

impl<R: Remote> Node<R> {
    /// Takes another path and gives back the one before.
    fn set_path(&mut self, path: NodePath) -> NodePath {
        if let Some(volume) = self.volume.as_ref().filter(|_| self.path != path) {
            volume.set_path(path.clone());
        }
        std::mem::replace(&mut self.path, path)
    }
}

#[derive(Debug)]
pub struct Namespace<R: Remote> {
    nodes: HashMap<NodeId, Node<R>>,
    /// The named ones.
    by_path: HashMap<NodePath, NodeId>,
}

impl<R: Remote> Namespace<R> {
    /// Knows the root folder only, which is `root` at the server.
    pub fn new(root: NodePath) -> Self {
        let by_path = HashMap::from([(root.clone(), NodeId::ROOT)]);
        let node = Node {
            path: root,
            kind: NodeKind::Folder,
            birth_ns: 0,
            lookups: 1,
            volume: None,
            told: None,
        };
        Self {
            nodes: HashMap::from([(NodeId::ROOT, node)]),
            by_path,
        }
    }

    /// The path of a known node.
    pub fn path(&self, id: NodeId) -> Result<NodePath> {
        self.node(id).map(|node| node.path.clone())
    }

    pub fn kind(&self, id: NodeId) -> Result<NodeKind> {
        self.node(id).map(|node| node.kind)
    }

    /// The kernel learns of a node once more. A node that took over the number of a removed one starts
    /// afresh, but for the references still out.
    ///
    /// A volume that the kernel had forgotten, but with changes the server has not flushed, is the same one.
    pub fn remember(&mut self, path: NodePath, attr: &Attr, shared: &Arc<Shared<R>>) {
        let node = self.nodes.entry(attr.id).or_insert_with(|| Node {
            path: path.clone(),
            kind: attr.kind,
            birth_ns: attr.birth_ns,
            lookups: 0,
            volume: None,
            told: None,
        });
        if node.birth_ns != attr.birth_ns || node.kind != attr.kind {
            node.volume = None;
            node.kind = attr.kind;
            node.birth_ns = attr.birth_ns;
        }
        node.told = Some(*attr);
        node.lookups += 1;
        if attr.kind == NodeKind::Volume && node.volume.is_none() {
            let known = shared.unsettled(attr.id, attr.birth_ns);
            let new = || Arc::new(Volume::new(Arc::clone(shared), path.clone(), *attr));
            let volume = known.unwrap_or_else(new);
            volume.set_path(path.clone());
            node.volume = Some(volume);
        }
        let before = node.set_path(path.clone());
        self.unindex(&before, attr.id);
        self.by_path.insert(path, attr.id);
    }

    /// The kernel dropped `lookups` references. If those were the last, the node goes; its path and its volume are
    /// given back, the latter to be dropped outside of the lock. The root stays.
    pub fn forget(&mut self, id: NodeId, lookups: u64) -> Option<(NodePath, Option<Arc<Volume<R>>>)> {
        let node = self.nodes.get_mut(&id).filter(|_| id != NodeId::ROOT)?;
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups > 0 {
            return None;
        }
        let node = self.nodes.remove(&id)?;
        self.unindex(&node.path, id);
        Some((node.path, node.volume))
    }

    /// The server said what a known node is.
    pub fn told(&mut self, attr: &Attr) {
        if let Some(node) = self.nodes.get_mut(&attr.id) {
            node.told = Some(*attr);
        }
    }

    /// The server said that nothing has this name.
    pub fn told_gone(&mut self, path: &NodePath) {
        let node = self.by_path.get(path).and_then(|id| self.nodes.get_mut(id));
        if let Some(node) = node {
            node.told = None;
        }
    }

    /// What a node was last known to be, if the server did not say since that it is gone. This client's own changes
    /// included.
    pub fn known(&self, id: NodeId) -> Option<Attr> {
        let node = self.nodes.get(&id)?;
        let told = node.told?;
        Some(node.volume.as_ref().map_or(told, |volume| volume.attr()))
    }

    /// The named node at `path`, if the kernel knows it.
    pub fn id_at(&self, path: &NodePath) -> Option<NodeId> {
        self.by_path.get(path).copied()
    }

    /// A name was taken away. The node stays while the kernel refers to it; what is open goes on.
    pub fn removed(&mut self, path: &NodePath) -> Option<Arc<Volume<R>>> {
        let id = self.by_path.remove(path)?;
        let node = self.nodes.get_mut(&id)?;
        let volume = node.volume.clone()?;
        volume.unlinked();
        Some(volume)
    }

    /// A node, and all that is below it, got another name; what had that name is gone, or has the old one.
    /// Returns a volume that lost its name by this.
    pub fn renamed(&mut self, from: &NodePath, to: &NodePath, exchange: bool) -> Option<Arc<Volume<R>>> {
        let replaced = if exchange { None } else { self.removed(to) };
        let kind = |path| {
            self.by_path
                .get(path)
                .and_then(|id| self.nodes.get(id))
                .map(|node| node.kind)
        };
        let folders = kind(from) == Some(NodeKind::Folder) || kind(to) == Some(NodeKind::Folder);
        let moved: Vec<(NodePath, NodeId)> = if folders {
            let rebased = |(path, id): (&NodePath, &NodeId)| (path.clone(), *id);
            self.by_path.iter().map(rebased).collect()
        } else {
            let both = [from, to].into_iter();
            both.filter_map(|path| Some((path.clone(), *self.by_path.get(path)?)))
                .collect()
        };
        let moved: Vec<(NodePath, NodePath, NodeId)> = moved
            .into_iter()
            .filter_map(|(path, id)| {
                let there = path.rebase(from, to);
                let back = || exchange.then(|| path.rebase(to, from)).flatten();
                Some((path.clone(), there.or_else(back)?, id))
            })
            .collect();
        for (before, _, id) in &moved {
            self.unindex(before, *id);
        }
        for (_, path, id) in moved {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.set_path(path.clone());
            }
            self.by_path.insert(path, id);
        }
        replaced
    }

    fn unindex(&mut self, path: &NodePath, id: NodeId) {
        if self.by_path.get(path) == Some(&id) {
            self.by_path.remove(path);
        }
    }

    /// A volume the kernel knows.
    pub fn volume(&self, id: NodeId) -> Result<Arc<Volume<R>>> {
        let node = self.node(id)?;
        let folder = || Error::new(ErrorKind::NotVolume, format!("{} is a folder", node.path));
        node.volume.clone().ok_or_else(folder)
    }

    /// All volumes the kernel knows.
    pub fn volumes(&self) -> Vec<Arc<Volume<R>>> {
        self.nodes
            .values()
            .filter_map(|node| node.volume.clone())
            .collect()
    }

    fn node(&self, id: NodeId) -> Result<&Node<R>> {
        self.nodes
            .get(&id)
            .ok_or_else(|| Error::new(ErrorKind::Stale, format!("node {} is not known", id.0)))
    }
}
