//! A model: an export that lives in memory. For tests, and as the second implementation that keeps the
//! trait honest. Its clock is a counter, so that no two changes share a stamp.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NodeKind, Space, Timestamp};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use super::{Backend, OpenVolume};
use crate::error::{Error, ErrorKind, Result};

/// Allocation unit.
const UNIT: u64 = 4096;

/// An export in memory.
#[derive(Debug, Default)]
pub struct Memory {
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    /// Counts nodes and changes; both ids and times come from it.
    clock: u64,
    nodes: BTreeMap<NodePath, Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Folder { id: NodeId, birth: u64 },
    Volume(Arc<MemoryVolume>),
}

#[derive(Debug)]
struct MemoryVolume {
    id: NodeId,
    birth: u64,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    size: u64,
    changed: u64,
    units: BTreeMap<u64, Box<[u8]>>,
}

impl Memory {
    pub fn make_folder(&self, path: &NodePath) {
        let mut tree = self.tree.lock();
        let tick = tree.tick();
        tree.nodes.insert(
            path.clone(),
            Node::Folder {
                id: NodeId(tick),
                birth: tick,
            },
        );
    }

    /// Makes an empty volume, in place of what was there.
    pub fn make_volume(&self, path: &NodePath, size: u64) {
        let mut tree = self.tree.lock();
        let tick = tree.tick();
        let content = Mutex::new(Content {
            size,
            changed: tick,
            units: BTreeMap::new(),
        });
        let volume = MemoryVolume {
            id: NodeId(tick),
            birth: tick,
            content,
        };
        tree.nodes.insert(path.clone(), Node::Volume(Arc::new(volume)));
    }

    pub fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) -> Result<()> {
        let (volume, tick) = self.change(path)?;
        let mut content = volume.content.lock();
        content.changed = tick;
        for (at, byte) in (offset..).zip(bytes) {
            let zeros = || vec![0; usize::try_from(UNIT).expect("fits")].into_boxed_slice();
            let unit = content.units.entry(at / UNIT).or_insert_with(zeros);
            unit[usize::try_from(at % UNIT).expect("fits")] = *byte;
            content.size = content.size.max(at + 1);
        }
        Ok(())
    }

    pub fn resize(&self, path: &NodePath, size: u64) -> Result<()> {
        let (volume, tick) = self.change(path)?;
        let mut content = volume.content.lock();
        content.changed = tick;
        content.size = size;
        content.units.retain(|unit, _| unit * UNIT < size);
        if let Some(last) = content.units.get_mut(&(size / UNIT)) {
            last[usize::try_from(size % UNIT).expect("fits")..].fill(0);
        }
        Ok(())
    }

    fn change(&self, path: &NodePath) -> Result<(Arc<MemoryVolume>, u64)> {
        let mut tree = self.tree.lock();
        let tick = tree.tick();
        Ok((tree.volume(path)?, tick))
    }
}

impl Tree {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        // Ids 0 and 1 are taken.
        self.clock + 1
    }

    fn find(&self, path: &NodePath) -> Result<Node> {
        if path.is_root() {
            return Ok(Node::Folder {
                id: NodeId::ROOT,
                birth: 0,
            });
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
                Some(Node::Folder { .. }) => {}
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
            Node::Folder { .. } => Err(Error::new(ErrorKind::NotVolume, format!("'{path}' is a folder"))),
        }
    }
}

fn missing(path: &NodePath) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no '{path}'"))
}

impl Node {
    fn attr(&self) -> Result<Attr> {
        match self {
            Self::Folder { id, birth } => Ok(attr(*id, NodeKind::Folder, 0, 0, *birth, *birth)),
            Self::Volume(volume) => volume.attr(),
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

    fn list(&self, path: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        let tree = self.tree.lock();
        match tree.find(path)? {
            Node::Folder { .. } => {}
            Node::Volume(_) => return Err(Error::new(ErrorKind::NotFolder, format!("'{path}' is a volume"))),
        }
        let mut entries = Vec::new();
        for (at, node) in &tree.nodes {
            let name = at
                .as_bytes()
                .rsplit(|byte| *byte == b'/')
                .next()
                .unwrap_or_default();
            let Ok(name) = NodeName::new(name) else { continue };
            if path.join(&name).is_ok_and(|joined| joined == *at) {
                entries.push((name, node.attr()?));
            }
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        let volume: Arc<dyn OpenVolume> = self.tree.lock().volume(path)?;
        Ok(volume)
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

impl MemoryVolume {
    fn copy(&self, buffer: &mut [u8], offset: u64) {
        let content = self.content.lock();
        for (at, byte) in (offset..).zip(buffer) {
            let unit = content.units.get(&(at / UNIT)).filter(|_| at < content.size);
            *byte = unit.map_or(0, |unit| unit[usize::try_from(at % UNIT).expect("fits")]);
        }
    }
}

impl OpenVolume for MemoryVolume {
    fn attr(&self) -> Result<Attr> {
        let content = self.content.lock();
        let allocated = u64::try_from(content.units.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(UNIT);
        Ok(attr(
            self.id,
            NodeKind::Volume,
            content.size,
            allocated,
            self.birth,
            content.changed,
        ))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.copy(buffer, offset);
        Ok(())
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        // Half of it, so that callers meet both ways.
        let half = buffer.len() / 2;
        self.copy(&mut buffer[..half], offset);
        Ok(half)
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        let content = self.content.lock();
        let range = range.intersect(ByteRange::up_to(content.size));
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let unit = at / UNIT;
            let (kind, end) = if content.units.contains_key(&unit) {
                (ExtentKind::Data, (unit + 1).saturating_mul(UNIT))
            } else {
                let next = content
                    .units
                    .range(unit..)
                    .next()
                    .map_or(u64::MAX, |(unit, _)| unit * UNIT);
                (ExtentKind::Hole, next)
            };
            let end = end.min(range.end());
            match extents.last_mut().filter(|last| last.kind == kind) {
                Some(last) => last.range = ByteRange::new(last.range.start(), end).unwrap_or(last.range),
                None => {
                    if extents.len() == runs_max {
                        break;
                    }
                    extents.push(Extent::new(
                        ByteRange::new(at, end).unwrap_or(ByteRange::EMPTY),
                        kind,
                    ));
                }
            }
            at = end;
        }
        Ok(extents)
    }
}

fn attr(id: NodeId, kind: NodeKind, size: u64, allocated_bytes: u64, birth: u64, changed: u64) -> Attr {
    let time = |tick| Timestamp {
        seconds: i64::try_from(tick).unwrap_or(i64::MAX),
        nanos: 0,
    };
    Attr {
        id,
        kind,
        size,
        allocated_bytes,
        mode: if kind == NodeKind::Folder { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        links: 1,
        accessed: time(birth),
        modified: time(changed),
        changed: time(changed),
        birth_ns: birth,
        generation: Generation(0),
        base: Generation(0),
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
            self.0.make_folder(path);
        }

        fn make_volume(&self, path: &NodePath, size: u64) {
            self.0.make_volume(path, size);
        }

        fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) {
            self.0.write(path, offset, bytes).unwrap();
        }

        fn resize(&self, path: &NodePath, size: u64) {
            self.0.resize(path, size).unwrap();
        }
    }

    conformance::suite!(Bed::default());
}
