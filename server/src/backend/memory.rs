//! A model: an export that lives in memory. For tests, and as the second implementation that keeps the
//! trait honest. Its clock is a counter, so that no two changes share a stamp. It knows what was flushed, so that it can
//! lose its power; names are on its disk at once.

mod volume;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NodeKind, Space};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;
use parking_lot::Mutex;

use self::volume::{Clock, Face, MemoryVolume};
use super::{Backend, Created, OpenVolume, copy};
use crate::error::{Error, ErrorKind, Result};

/// What tests make things with.
const PLAIN: NewNode = NewNode {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// An export in memory.
#[derive(Debug, Default)]
pub struct Memory {
    clock: Clock,
    tree: Mutex<Tree>,
}

#[derive(Debug)]
struct Tree {
    root: Face,
    nodes: BTreeMap<NodePath, Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Face::root(),
            nodes: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    Folder(Face),
    Volume(Arc<MemoryVolume>),
}

impl Memory {
    /// Makes a folder, in place of what was there.
    pub fn put_folder(&self, path: &NodePath) {
        let face = Face::new(self.clock.tick(), &PLAIN);
        self.tree.lock().nodes.insert(path.clone(), Node::Folder(face));
    }

    /// Makes an empty volume, in place of what was there.
    pub fn put_volume(&self, path: &NodePath, size: u64) {
        let volume = Arc::new(MemoryVolume::new(self.clock.clone(), &PLAIN, size));
        self.tree.lock().nodes.insert(path.clone(), Node::Volume(volume));
    }

    /// The host loses its power: of what was not flushed, each unit of 4 KiB is kept or not, as `keep` says.
    pub fn lose_power(&self, mut keep: impl FnMut() -> bool) {
        for node in self.tree.lock().nodes.values() {
            if let Node::Volume(volume) = node {
                volume.lose_power(&mut keep);
            }
        }
    }
}

impl Tree {
    fn find(&self, path: &NodePath) -> Result<Node> {
        if path.is_root() {
            return Ok(Node::Folder(self.root.clone()));
        }
        let bytes = path.as_bytes();
        let folders = bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| &bytes[..at]);
        for folder in folders {
            let above = NodePath::new(folder).map_err(|_| missing(path))?;
            match self.nodes.get(&above) {
                Some(Node::Folder(_)) => {}
                Some(Node::Volume(_)) => {
                    return Err(Error::new(ErrorKind::NotFolder, format!("'{above}' is a volume")));
                }
                None => return Err(missing(path)),
            }
        }
        self.nodes.get(path).cloned().ok_or_else(|| missing(path))
    }

    fn volume(&self, path: &NodePath) -> Result<Arc<MemoryVolume>> {
        match self.find(path)? {
            Node::Volume(volume) => Ok(volume),
            Node::Folder(_) => Err(Error::new(ErrorKind::NotVolume, format!("'{path}' is a folder"))),
        }
    }

    /// The folder that the last name of `path` is in.
    fn above(&self, path: &NodePath) -> Result<Face> {
        let folder = path.parent();
        match self.find(&folder)? {
            Node::Folder(face) => Ok(face),
            Node::Volume(_) => Err(Error::new(
                ErrorKind::NotFolder,
                format!("'{folder}' is a volume"),
            )),
        }
    }

    fn optional(&self, path: &NodePath) -> Result<Option<Node>> {
        match self.find(path) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_empty(&self, path: &NodePath) -> bool {
        !self.nodes.keys().any(|other| is_below(other, path))
    }

    /// Takes a node and all below it out, under their paths relative to it.
    fn take(&mut self, path: &NodePath) -> Vec<(Vec<u8>, Node)> {
        let moved: Vec<NodePath> = self
            .nodes
            .keys()
            .filter(|other| *other == path || is_below(other, path))
            .cloned()
            .collect();
        let rest = |other: &NodePath| other.as_bytes()[path.as_bytes().len()..].to_vec();
        moved
            .into_iter()
            .filter_map(|other| Some((rest(&other), self.nodes.remove(&other)?)))
            .collect()
    }

    fn put(&mut self, path: &NodePath, nodes: Vec<(Vec<u8>, Node)>) -> Result<()> {
        for (rest, node) in nodes {
            let to = NodePath::new(&[path.as_bytes(), &rest].concat())
                .map_err(|error| Error::with_source(ErrorKind::NameTooLong, "cannot rename", error))?;
            self.nodes.insert(to, node);
        }
        Ok(())
    }
}

fn is_below(path: &NodePath, folder: &NodePath) -> bool {
    let rest = path.as_bytes().strip_prefix(folder.as_bytes());
    rest.is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn missing(path: &NodePath) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no '{path}'"))
}

fn named(path: &NodePath, at_root: ErrorKind) -> Result<()> {
    if path.is_root() {
        return Err(Error::new(at_root, "the exported folder has no name"));
    }
    Ok(())
}

impl Node {
    fn kind(&self) -> NodeKind {
        match self {
            Self::Folder(_) => NodeKind::Folder,
            Self::Volume(_) => NodeKind::Volume,
        }
    }

    fn attr(&self) -> Result<Attr> {
        match self {
            Self::Folder(face) => Ok(face.attr(NodeKind::Folder, 0, 0)),
            Self::Volume(volume) => volume.attr(),
        }
    }

    /// A name of it is gone.
    fn unlinked(&self, tick: u64) {
        if let Self::Volume(volume) = self {
            let mut content = volume.content.lock();
            content.face.links = 0;
            content.face.touch(tick);
        }
    }
}

impl Backend for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn stat(&self, path: &NodePath) -> Result<Attr> {
        self.tree.lock().find(path)?.attr()
    }

    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()> {
        let tree = self.tree.lock();
        match tree.find(path)? {
            Node::Folder(_) => {}
            Node::Volume(_) => return Err(Error::new(ErrorKind::NotFolder, format!("'{path}' is a volume"))),
        }
        let mut nodes = Vec::new();
        for (at, node) in &tree.nodes {
            if let Some((_, name)) = at.split().filter(|(folder, _)| folder == path) {
                nodes.push((name, node.attr()?));
            }
        }
        drop(tree);
        nodes.into_iter().try_for_each(|(name, attr)| tell(name, attr))
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        let volume: Arc<dyn OpenVolume> = self.tree.lock().volume(path)?;
        Ok(volume)
    }

    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        named(path, ErrorKind::Exists)?;
        let mut tree = self.tree.lock();
        let above = tree.above(path)?;
        if tree.optional(path)?.is_some() {
            if exclusive {
                return Err(Error::new(ErrorKind::Exists, format!("'{path}' exists")));
            }
            return Ok(Created {
                volume: tree.volume(path)?,
                is_new: false,
            });
        }
        let node = above.inherit(node, NodeKind::Volume);
        let volume = Arc::new(MemoryVolume::new(self.clock.clone(), &node, 0));
        announce(Some(&volume.attr()?));
        tree.nodes.insert(path.clone(), Node::Volume(Arc::clone(&volume)));
        Ok(Created { volume, is_new: true })
    }

    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        named(path, ErrorKind::Exists)?;
        let mut tree = self.tree.lock();
        let above = tree.above(path)?;
        if tree.optional(path)?.is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("'{path}' exists")));
        }
        let face = Face::new(self.clock.tick(), &above.inherit(node, NodeKind::Folder));
        let made = Node::Folder(face);
        let attr = made.attr();
        tree.nodes.insert(path.clone(), made);
        attr
    }

    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        named(path, ErrorKind::Busy)?;
        let mut tree = self.tree.lock();
        let node = tree.find(path)?;
        if id.is_some_and(|id| node.attr().is_ok_and(|attr| attr.id != id)) {
            return Err(Error::new(ErrorKind::Stale, format!("'{path}' is another one")));
        }
        match (folder, node.kind()) {
            (false, NodeKind::Folder) => {
                return Err(Error::new(ErrorKind::NotVolume, format!("'{path}' is a folder")));
            }
            (true, NodeKind::Volume) => {
                return Err(Error::new(ErrorKind::NotFolder, format!("'{path}' is a volume")));
            }
            (true, NodeKind::Folder) if !tree.is_empty(path) => {
                return Err(Error::new(ErrorKind::NotEmpty, format!("'{path}' is not empty")));
            }
            (true, NodeKind::Folder) | (false, NodeKind::Volume) => {}
        }
        node.unlinked(self.clock.tick());
        tree.nodes.remove(path);
        Ok(())
    }

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        named(from, ErrorKind::Busy)?;
        named(to, ErrorKind::Busy)?;
        let mut tree = self.tree.lock();
        let source = tree.find(from)?;
        tree.above(to)?;
        let target = tree.optional(to)?;
        if is_below(to, from) || (mode == RenameMode::Exchange && is_below(from, to)) {
            let text = format!("'{to}' is within '{from}', or around it");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let error = match (mode, &target) {
            (RenameMode::Keep, Some(_)) => Some(ErrorKind::Exists),
            (RenameMode::Exchange, None) => Some(ErrorKind::NotFound),
            (RenameMode::Replace, Some(target)) => match (source.kind(), target.kind()) {
                (NodeKind::Volume, NodeKind::Folder) => Some(ErrorKind::NotVolume),
                (NodeKind::Folder, NodeKind::Volume) => Some(ErrorKind::NotFolder),
                (NodeKind::Folder, NodeKind::Folder) if from != to && !tree.is_empty(to) => {
                    Some(ErrorKind::NotEmpty)
                }
                _ => None,
            },
            _ => None,
        };
        if let Some(kind) = error {
            return Err(Error::new(kind, format!("cannot rename '{from}' to '{to}'")));
        }
        if from == to {
            return Ok(());
        }
        let moved = tree.take(from);
        let other = tree.take(to);
        tree.put(to, moved)?;
        match mode {
            RenameMode::Exchange => tree.put(from, other),
            RenameMode::Replace | RenameMode::Keep => {
                if let Some(target) = target {
                    target.unlinked(self.clock.tick());
                }
                Ok(())
            }
        }
    }

    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr> {
        let mut tree = self.tree.lock();
        let tick = self.clock.tick();
        if path.is_root() {
            tree.root.set(new, tick);
            return Ok(tree.root.attr(NodeKind::Folder, 0, 0));
        }
        match tree.find(path)? {
            Node::Volume(volume) => {
                volume.set_attr(new)?;
                volume.attr()
            }
            Node::Folder(mut face) => {
                face.set(new, tick);
                let node = Node::Folder(face);
                tree.nodes.insert(path.clone(), node.clone());
                node.attr()
            }
        }
    }

    fn flush_folder(&self, path: &NodePath) -> Result<()> {
        self.list(path).map(drop)
    }

    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64> {
        copy::by_extents(source, range, target, offset, |piece, to| {
            copy::by_bytes(source, piece, target, to)
        })
    }

    fn space(&self) -> Result<Space> {
        Ok(Space {
            block_bytes: 4096,
            blocks: 1 << 20,
            blocks_free: 1 << 19,
            blocks_available: 1 << 19,
            nodes: 1 << 20,
            nodes_free: 1 << 19,
            name_bytes_max: 255,
        })
    }

    fn clock_tick(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Fixture};
    use super::*;

    #[derive(Debug, Default)]
    struct Bed(Memory);

    impl Fixture for Bed {
        fn backend(&self) -> &dyn Backend {
            &self.0
        }

        fn make_folder(&self, path: &NodePath) {
            self.0.put_folder(path);
        }

        fn make_volume(&self, path: &NodePath, size: u64) {
            self.0.put_volume(path, size);
        }

        fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) {
            self.0.open(path).unwrap().write_at(bytes, offset).unwrap();
        }

        fn resize(&self, path: &NodePath, size: u64) {
            self.0.open(path).unwrap().resize(size).unwrap();
        }
    }

    #[test]
    fn power_is_lost_with_what_was_not_flushed() {
        let (memory, path) = (Memory::default(), NodePath::new(b"v").unwrap());
        memory.put_volume(&path, 0);
        let volume = memory.open(&path).unwrap();
        let read = |length: usize| {
            let mut bytes = vec![9; length];
            volume.read_at(&mut bytes, 0).unwrap();
            bytes
        };
        volume.write_at(&[1; 8192], 0).unwrap();
        volume.flush(true).unwrap();
        let flushed = volume.attr().unwrap();
        memory.lose_power(|| false);
        assert_eq!(volume.attr().unwrap(), flushed, "nothing was there to lose");
        volume.write_at(&[2; 8192], 4096).unwrap();
        volume.punch(ByteRange::at(0, 4096).unwrap()).unwrap();
        memory.lose_power(|| false);
        assert_eq!(read(8192), [1; 8192]);
        assert_eq!(volume.attr().unwrap().size, 8192);
        assert!(volume.attr().unwrap().changed > flushed.changed);
        volume.resize(100).unwrap();
        memory.lose_power(|| true);
        assert_eq!(read(200)[..100], [1; 100]);
        assert_eq!(read(8192)[100..], [0; 8092], "kept, and what was cut stays away");
        memory.lose_power(|| false);
        assert_eq!(volume.attr().unwrap().size, 100);
    }

    conformance::suite!(Bed::default());
}
