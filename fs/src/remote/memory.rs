//! A server in memory, for tests of everything above the network.
//!
//! It counts requests, can be changed behind the client's back, and can be made to fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_transport::attr::{Attr, NodeKind, Space, Timestamp};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::map_page::MapPage;
use parking_lot::Mutex;

use super::{Remote, SharedPath};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of one unit of allocation.
pub const UNIT_BYTES: u64 = 4096;

/// Content of a volume: units that are absent are holes.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size: u64,
    pub units: BTreeMap<u64, Vec<u8>>,
    pub generation: u64,
}

impl Content {
    /// Writes `byte` over `range`, allocating the units it touches.
    pub fn write(&mut self, range: ByteRange, byte: u8) {
        self.size = self.size.max(range.end());
        let mut rest = range;
        while !rest.is_empty() {
            let number = rest.start() / UNIT_BYTES;
            let (part, tail) = rest.split_at((number + 1) * UNIT_BYTES);
            let unit = self.units.entry(number).or_insert_with(|| vec![0; 4096]);
            let skip = usize::try_from(part.start() % UNIT_BYTES).unwrap_or(0);
            let len = usize::try_from(part.len()).unwrap_or(0);
            unit[skip..skip + len].fill(byte);
            rest = tail;
        }
        self.generation += 1;
    }

    /// The bytes of `range`; zeros in holes and past the end.
    pub fn bytes(&self, range: ByteRange) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let number = rest.start() / UNIT_BYTES;
            let (part, tail) = rest.split_at((number + 1) * UNIT_BYTES);
            let skip = usize::try_from(part.start() % UNIT_BYTES).unwrap_or(0);
            let len = usize::try_from(part.len()).unwrap_or(0);
            match self.units.get(&number) {
                Some(unit) => bytes.extend_from_slice(&unit[skip..skip + len]),
                None => bytes.resize(bytes.len() + len, 0),
            }
            rest = tail;
        }
        bytes
    }

    fn extents(&self, range: ByteRange) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut at = range.start();
        let units = range.align_out(UNIT_BYTES);
        for number in self
            .units
            .range(units.start() / UNIT_BYTES..units.end() / UNIT_BYTES)
            .map(|(number, _)| *number)
        {
            let unit = ByteRange::at_saturating(number * UNIT_BYTES, UNIT_BYTES).intersect(range);
            if let Some(hole) = ByteRange::new(at, unit.start()) {
                extents.push(Extent::new(hole, ExtentKind::Hole));
            }
            extents.push(Extent::new(unit, ExtentKind::Data));
            at = unit.end();
        }
        if let Some(hole) = ByteRange::new(at, range.end()) {
            extents.push(Extent::new(hole, ExtentKind::Hole));
        }
        extents
    }
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<NodePath, Content>,
    fail: Option<ErrorKind>,
    page_bytes: Option<u64>,
}

/// The server. Clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct MemoryRemote {
    state: Arc<Mutex<State>>,
    requests: Arc<AtomicU64>,
    read_bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
pub struct MemoryVolume {
    path: NodePath,
}

impl MemoryRemote {
    /// Makes or changes a volume.
    pub fn change(&self, path: &NodePath, change: impl FnOnce(&mut Content)) {
        change(self.state.lock().volumes.entry(path.clone()).or_default());
    }

    /// Every request fails with this from now on (or works again).
    pub fn fail_with(&self, fail: Option<ErrorKind>) {
        self.state.lock().fail = fail;
    }

    /// Pages of maps cover so many bytes at most.
    pub fn limit_pages_to(&self, bytes: u64) {
        self.state.lock().page_bytes = Some(bytes);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Payload bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    fn ask<T>(&self, path: &NodePath, answer: impl FnOnce(u64, &Content) -> T) -> Result<T> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        if let Some(kind) = state.fail {
            return Err(Error::new(kind, "made to fail"));
        }
        let found = state.volumes.iter().zip(2..).find(|((name, _), _)| *name == path);
        let ((_, content), id) = found.ok_or_else(|| Error::new(ErrorKind::NotFound, path.to_string()))?;
        Ok(answer(id, content))
    }
}

fn attr_of(id: u64, content: &Content) -> Attr {
    let units = u64::try_from(content.units.len()).unwrap_or(u64::MAX);
    Attr {
        id: NodeId(id),
        kind: NodeKind::Volume,
        size: content.size,
        allocated_bytes: units * UNIT_BYTES,
        mode: 0o644,
        uid: 0,
        gid: 0,
        links: 1,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        birth_ns: 1,
        generation: Generation(content.generation),
        base: Generation(content.generation),
    }
}

impl Remote for MemoryRemote {
    type Volume = MemoryVolume;

    async fn stat(&self, path: &NodePath) -> Result<Attr> {
        if path.is_root() {
            let root = Content::default();
            return Ok(Attr {
                kind: NodeKind::Folder,
                mode: 0o755,
                ..attr_of(1, &root)
            });
        }
        self.ask(path, attr_of)
    }

    async fn list(&self, _path: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        let state = self.state.lock();
        let entries = state.volumes.iter().zip(2..);
        Ok(entries
            .filter_map(|((path, content), id)| {
                Some((NodeName::new(path.as_bytes()).ok()?, attr_of(id, content)))
            })
            .collect())
    }

    async fn open(&self, path: &SharedPath, _id: NodeId) -> Result<(MemoryVolume, Attr)> {
        let path = path.path();
        let attr = self.ask(&path, attr_of)?;
        Ok((MemoryVolume { path }, attr))
    }

    async fn stat_open(&self, volume: &MemoryVolume) -> Result<Attr> {
        self.ask(&volume.path, attr_of)
    }

    async fn read(
        &self,
        volume: &MemoryVolume,
        ranges: Vec<ByteRange>,
        buffers: &mut [Box<[u8]>],
    ) -> Result<Generation> {
        tokio::task::yield_now().await;
        self.ask(&volume.path, |_, content| {
            let bytes = ranges
                .iter()
                .map(|range| content.bytes(*range))
                .collect::<Vec<_>>()
                .concat();
            let mut rest = &bytes[..];
            for buffer in buffers.iter_mut() {
                let (front, back) = rest.split_at(buffer.len());
                buffer.copy_from_slice(front);
                rest = back;
            }
            assert!(rest.is_empty(), "buffers and ranges agree");
            self.read_bytes
                .fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
            Generation(content.generation)
        })
    }

    async fn map(
        &self,
        volume: &MemoryVolume,
        range: ByteRange,
        pages_max: u32,
        mut sink: impl FnMut(MapPage) -> bool + Send,
    ) -> Result<()> {
        tokio::task::yield_now().await;
        let page_bytes = self.state.lock().page_bytes.unwrap_or(u64::MAX);
        let mut at = range.start();
        let pages: Result<Vec<MapPage>> = self.ask(&volume.path, |_, content| {
            let mut pages = Vec::new();
            let end = range.end().min(content.size);
            loop {
                let part =
                    ByteRange::new(at, at.saturating_add(page_bytes).min(end).max(at)).expect("in order");
                let extents = content.extents(part);
                pages.push(MapPage::fill(
                    Generation(content.generation),
                    content.size,
                    at,
                    extents,
                ));
                at = part.end();
                if at >= end || pages.len() >= usize::try_from(pages_max).unwrap_or(usize::MAX) {
                    return pages;
                }
            }
        });
        for page in pages? {
            if !sink(page) {
                break;
            }
        }
        Ok(())
    }

    async fn space(&self) -> Result<Space> {
        Ok(Space {
            block_bytes: 4096,
            blocks: 1,
            blocks_free: 0,
            blocks_available: 0,
            nodes: 1,
            nodes_free: 0,
            name_bytes_max: 255,
        })
    }
}
