//! One volume in memory: units of 4 KiB, allocated when something is in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NewTime, NodeKind, Timestamp};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use crate::backend::OpenVolume;
use crate::error::{Error, ErrorKind, Result};

/// Allocation unit.
const UNIT: u64 = 4096;

/// Counts nodes and changes; both ids and times come from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn tick(&self) -> u64 {
        // Ids 0 and 1 are taken.
        self.0.fetch_add(1, Ordering::Relaxed) + 2
    }
}

/// What a node has beside its content.
#[derive(Clone, Debug)]
pub(super) struct Face {
    pub(super) id: NodeId,
    birth: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    accessed: Timestamp,
    modified: Timestamp,
    changed: u64,
    pub(super) links: u32,
}

impl Face {
    pub(super) fn new(tick: u64, node: &NewNode) -> Self {
        Self {
            id: NodeId(tick),
            birth: tick,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            accessed: time(tick),
            modified: time(tick),
            changed: tick,
            links: 1,
        }
    }

    pub(super) fn root() -> Self {
        let node = NewNode {
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        Self {
            id: NodeId::ROOT,
            ..Self::new(0, &node)
        }
    }

    pub(super) fn touch(&mut self, tick: u64) {
        self.changed = tick;
    }

    pub(super) fn set(&mut self, new: &NewAttr, tick: u64) {
        let at = |new: Option<NewTime>, old| match new {
            None => old,
            Some(NewTime::Now) => time(tick),
            Some(NewTime::At(time)) => time,
        };
        if new.uid.is_some() || new.gid.is_some() {
            self.mode &= 0o1777;
        }
        self.mode = new.mode.unwrap_or(self.mode);
        self.uid = new.uid.unwrap_or(self.uid);
        self.gid = new.gid.unwrap_or(self.gid);
        self.accessed = at(new.accessed, self.accessed);
        self.modified = at(new.modified, self.modified);
        self.touch(tick);
    }

    /// The group and the inherited bits of what is made in this folder.
    pub(super) fn inherit(&self, node: &NewNode, kind: NodeKind) -> NewNode {
        if self.mode & 0o2000 == 0 {
            return *node;
        }
        let bits = if kind == NodeKind::Folder { 0o2000 } else { 0 };
        NewNode {
            gid: self.gid,
            mode: node.mode | bits,
            ..*node
        }
    }

    pub(super) fn attr(&self, kind: NodeKind, size: u64, allocated_bytes: u64) -> Attr {
        Attr {
            id: self.id,
            kind,
            size,
            allocated_bytes,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            links: self.links,
            accessed: self.accessed,
            modified: self.modified,
            changed: time(self.changed),
            birth_ns: self.birth,
            generation: Generation(0),
            base: Generation(0),
        }
    }
}

fn time(tick: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(tick).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

#[derive(Debug)]
pub(super) struct MemoryVolume {
    clock: Clock,
    pub(super) content: Mutex<Content>,
}

#[derive(Debug)]
pub(super) struct Content {
    pub(super) face: Face,
    size: u64,
    units: BTreeMap<u64, Box<[u8]>>,
    /// What is on the disk of the units that changed since the last flush; `None` is a hole.
    on_disk: BTreeMap<u64, Option<Box<[u8]>>>,
    /// The size on the disk, if it changed since the last flush.
    size_on_disk: Option<u64>,
}

impl MemoryVolume {
    pub(super) fn new(clock: Clock, node: &NewNode, size: u64) -> Self {
        let content = Mutex::new(Content {
            face: Face::new(clock.tick(), node),
            size,
            units: BTreeMap::new(),
            on_disk: BTreeMap::new(),
            size_on_disk: None,
        });
        Self { clock, content }
    }

    /// The host loses its power: of what changed since the last flush, each unit and the size are kept or not, as
    /// `keep` says. What comes of it is a content of its own.
    pub(super) fn lose_power(&self, keep: &mut dyn FnMut() -> bool) {
        let mut content = self.content.lock();
        let (on_disk, size) = (std::mem::take(&mut content.on_disk), content.size_on_disk.take());
        if on_disk.is_empty() && size.is_none() {
            return;
        }
        for (unit, before) in on_disk {
            match before {
                _ if keep() => {}
                Some(bytes) => drop(content.units.insert(unit, bytes)),
                None => drop(content.units.remove(&unit)),
            }
        }
        if let Some(size) = size.filter(|_| !keep()) {
            content.size = size;
        }
        let size = content.size;
        content.cut(size);
        content.flushed();
        let tick = self.clock.tick();
        content.face.touch(tick);
    }

    fn change<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        let mut content = self.content.lock();
        let tick = self.clock.tick();
        content.face.modified = time(tick);
        content.face.touch(tick);
        work(&mut content)
    }

    fn copy(&self, buffer: &mut [u8], offset: u64) {
        let content = self.content.lock();
        let (mut at, mut left) = (offset, buffer);
        while !left.is_empty() {
            let (start, next) = (within(at), at / UNIT * UNIT + UNIT);
            let part_bytes = usize::try_from(next - at).map_or(left.len(), |len| len.min(left.len()));
            let (part, rest) = left.split_at_mut(part_bytes);
            match content.units.get(&(at / UNIT)) {
                // Beyond the end nothing is kept in a unit but zeros.
                Some(unit) => part.copy_from_slice(&unit[start..start + part_bytes]),
                None => part.fill(0),
            }
            (at, left) = (next, rest);
        }
    }
}

fn within(at: u64) -> usize {
    usize::try_from(at % UNIT).expect("less than a unit")
}

impl Content {
    /// A unit is about to change.
    fn note_unit(&mut self, unit: u64) {
        let before = self.units.get(&unit);
        self.on_disk.entry(unit).or_insert_with(|| before.cloned());
    }

    fn set_size(&mut self, size: u64) {
        if size != self.size {
            self.size_on_disk.get_or_insert(self.size);
            self.size = size;
        }
    }

    /// All of it is on the disk.
    fn flushed(&mut self) {
        self.on_disk.clear();
        self.size_on_disk = None;
    }

    fn unit(&mut self, unit: u64) -> &mut [u8] {
        self.note_unit(unit);
        let zeros = || vec![0; usize::try_from(UNIT).expect("fits")].into_boxed_slice();
        self.units.entry(unit).or_insert_with(zeros)
    }

    /// Zeros in what is allocated of `range`, and whole units of it freed if `free`.
    fn clear(&mut self, range: ByteRange, free: bool) {
        if range.is_empty() {
            return;
        }
        let units: Vec<u64> = self
            .units
            .range(range.start() / UNIT..=(range.end() - 1) / UNIT)
            .map(|(unit, _)| *unit)
            .collect();
        for unit in units {
            let whole = ByteRange::at_saturating(unit * UNIT, UNIT);
            if free && range.covers(whole) {
                self.note_unit(unit);
                self.units.remove(&unit);
                continue;
            }
            let part = range.intersect(whole);
            let len = usize::try_from(part.len()).expect("at most a unit");
            let start = within(part.start());
            self.unit(unit)[start..start + len].fill(0);
        }
    }

    fn reserve(&mut self, range: ByteRange) {
        if !range.is_empty() {
            for unit in range.start() / UNIT..=(range.end() - 1) / UNIT {
                self.unit(unit);
            }
        }
    }

    fn resize(&mut self, size: u64) {
        if size < self.size {
            self.cut(size);
        }
        self.set_size(size);
    }

    /// Drops what lies beyond `size`.
    fn cut(&mut self, size: u64) {
        let last = ByteRange::at_saturating(size, UNIT - size % UNIT);
        self.clear(last, false);
        let beyond: Vec<u64> = self
            .units
            .range(size.div_ceil(UNIT)..)
            .map(|(unit, _)| *unit)
            .collect();
        for unit in beyond {
            self.note_unit(unit);
            self.units.remove(&unit);
        }
    }
}

fn check_end(end: Option<u64>) -> Result<u64> {
    end.filter(|end| *end <= VOLUME_BYTES_MAX)
        .ok_or_else(|| Error::new(ErrorKind::TooLarge, "beyond the largest volume"))
}

impl OpenVolume for MemoryVolume {
    fn attr(&self) -> Result<Attr> {
        let content = self.content.lock();
        let units = u64::try_from(content.units.len()).unwrap_or(u64::MAX);
        let allocated = units.saturating_mul(UNIT);
        Ok(content.face.attr(NodeKind::Volume, content.size, allocated))
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

    fn ready_to_change(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = u64::try_from(bytes.len()).ok();
        let end = check_end(len.and_then(|len| offset.checked_add(len)))?;
        self.change(|content| {
            let (mut at, mut left) = (offset, bytes);
            while !left.is_empty() {
                let start = within(at);
                let unit = &mut content.unit(at / UNIT)[start..];
                let (part, rest) = left.split_at(left.len().min(unit.len()));
                unit[..part.len()].copy_from_slice(part);
                (at, left) = (at / UNIT * UNIT + UNIT, rest);
            }
            if !bytes.is_empty() {
                content.set_size(content.size.max(end));
            }
        });
        Ok(())
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        self.change(|content| content.clear(range.intersect(ByteRange::up_to(content.size)), true));
        Ok(())
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        check_end(Some(range.end()))?;
        self.change(|content| {
            if grow {
                content.set_size(content.size.max(range.end()));
            }
            let inside = range.intersect(ByteRange::up_to(content.size));
            content.clear(inside, false);
            content.reserve(inside);
        });
        Ok(())
    }

    fn allocate(&self, range: ByteRange, grow: bool) -> Result<()> {
        check_end(Some(range.end()))?;
        self.change(|content| {
            if grow {
                content.set_size(content.size.max(range.end()));
            }
            content.reserve(range.intersect(ByteRange::up_to(content.size)));
        });
        Ok(())
    }

    fn resize(&self, size: u64) -> Result<()> {
        check_end(Some(size))?;
        self.change(|content| content.resize(size));
        Ok(())
    }

    fn grow(&self, size: u64) -> Result<()> {
        check_end(Some(size))?;
        self.change(|content| content.set_size(content.size.max(size)));
        Ok(())
    }

    fn flush(&self, _: bool) -> Result<()> {
        self.content.lock().flushed();
        Ok(())
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        let mut content = self.content.lock();
        let tick = self.clock.tick();
        content.face.set(new, tick);
        Ok(())
    }
}
