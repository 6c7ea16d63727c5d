//! What the kernel knows: inodes, and what is open.
//!
//! An inode number is the server's [`NodeId`]; the kernel counts its references, and an entry goes when
//! they are gone. Paths are what requests to the server carry; a node found under a new name takes it.
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
}

#[derive(Debug)]
pub struct Namespace<R: Remote> {
    nodes: HashMap<NodeId, Node<R>>,
}

impl<R: Remote> Namespace<R> {
    /// Knows the root folder only, which is `root` at the server.
    pub fn new(root: NodePath) -> Self {
        let node = Node {
            path: root,
            kind: NodeKind::Folder,
            birth_ns: 0,
            lookups: 1,
            volume: None,
        };
        Self {
            nodes: HashMap::from([(NodeId::ROOT, node)]),
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
    pub fn remember(&mut self, path: NodePath, attr: &Attr, shared: &Arc<Shared<R>>) {
        let node = self.nodes.entry(attr.id).or_insert_with(|| Node {
            path: path.clone(),
            kind: attr.kind,
            birth_ns: attr.birth_ns,
            lookups: 0,
            volume: None,
        });
        if node.birth_ns != attr.birth_ns || node.kind != attr.kind {
            node.volume = None;
            node.kind = attr.kind;
            node.birth_ns = attr.birth_ns;
        }
        node.lookups += 1;
        match (attr.kind, &node.volume) {
            (NodeKind::Volume, None) => {
                node.volume = Some(Arc::new(Volume::new(Arc::clone(shared), path.clone(), *attr)));
            }
            (NodeKind::Volume, Some(volume)) if node.path != path => volume.set_path(path.clone()),
            (NodeKind::Volume, Some(_)) | (NodeKind::Folder, _) => {}
        }
        node.path = path;
    }

    /// The kernel dropped `lookups` references. If those were the last, the node goes; its volume is given
    /// back, to be dropped outside of the lock. The root stays.
    pub fn forget(&mut self, id: NodeId, lookups: u64) -> Option<Arc<Volume<R>>> {
        let node = self.nodes.get_mut(&id).filter(|_| id != NodeId::ROOT)?;
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups > 0 {
            return None;
        }
        self.nodes.remove(&id)?.volume
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
