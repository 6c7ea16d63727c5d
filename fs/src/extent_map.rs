//! What this client knows of a volume's extents, at one generation.
//!
//! Every offset is `unknown`, `data`, `zero` or `hole`. The map answers lseek in O(log runs) and tells
//! which reads need no network.
//!
//! Invariants: offsets at or past the size are never asked for; a hole or zero is only what the server
//! called so at this generation; unknown is never shown as a hole.
//!
//! Zeros that the server tells of are one class with holes for lseek: a device has no holes, and its zeros are
//! what tools should skip. Zeros that this client made stay in the class of data, as local file systems show
//! parts of blocks. A second, usually empty, map holds which parts of either are zeros: alternating zeros
//! and holes cannot slow a seek down.

use lacuna_transport::extent::ExtentKind;
use lacuna_transport::range::ByteRange;

use crate::run_map::RunMap;

/// What storage allocates at least: the smallest hole is as large.
pub const BLOCK_BYTES: u64 = 4 << 10;

/// What an offset is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Not asked yet.
    Unknown,
    Data,
    Zero,
    Hole,
}

/// Answer to a seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    At(u64),
    /// There is none up to the end of the volume, or the start is at or past it: ENXIO.
    None,
    /// The map must be fetched from this offset on first.
    Unknown(u64),
}

/// How lseek sees an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Unknown,
    /// Data, or zeros of our own.
    Data,
    /// A hole, or zeros that the server found.
    Hole,
}

#[derive(Clone, Debug)]
pub struct ExtentMap {
    size: u64,
    classes: RunMap<Class>,
    zeros: RunMap<bool>,
}

impl ExtentMap {
    /// Nothing is known but the size.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            classes: RunMap::new(Class::Unknown),
            zeros: RunMap::new(false),
        }
    }

    /// Size of the volume in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Runs held in memory.
    pub fn runs_held(&self) -> usize {
        self.classes.run_count() + self.zeros.run_count()
    }

    /// Takes over an extent that the server told. It is of this map's generation.
    pub fn set(&mut self, range: ByteRange, kind: ExtentKind) {
        let class = match kind {
            ExtentKind::Data => Class::Data,
            ExtentKind::Zero | ExtentKind::Hole => Class::Hole,
        };
        self.set_class(range, class, kind == ExtentKind::Zero);
    }

    fn set_class(&mut self, range: ByteRange, class: Class, zero: bool) {
        self.classes.set(range, class);
        if zero || !self.zeros.is_uniform() {
            self.zeros.set(range, zero);
        }
    }

    /// Bytes were written into `range`: storage holds the blocks they touch. Call [`Self::resize`] first.
    pub fn mark_data(&mut self, range: ByteRange) {
        let blocks = range
            .align_out(BLOCK_BYTES)
            .intersect(ByteRange::up_to(self.size));
        self.set_class(blocks, Class::Data, false);
    }

    /// `range` reads as zeros now and stays allocated.
    pub fn mark_zero(&mut self, range: ByteRange) {
        self.set_class(range.intersect(ByteRange::up_to(self.size)), Class::Data, true);
    }

    /// `range` was punched: its whole blocks are a hole, parts of others stay what they were.
    pub fn mark_hole(&mut self, range: ByteRange) {
        let range = range.intersect(ByteRange::up_to(self.size));
        let start = range.start().checked_next_multiple_of(BLOCK_BYTES);
        // The last block of the volume is whole if all there is of it was punched.
        let end = if range.end() == self.size {
            range.end()
        } else {
            range.end() / BLOCK_BYTES * BLOCK_BYTES
        };
        let whole = start.and_then(|start| ByteRange::new(start, end));
        if let Some(whole) = whole {
            self.set(whole, ExtentKind::Hole);
        }
    }

    /// Takes over another size that this client made: what is new is a hole, but for the rest of a block that
    /// is allocated already.
    pub fn resize(&mut self, size: u64) {
        let before = std::mem::replace(&mut self.size, size);
        let Some(new) = ByteRange::new(before, size) else {
            self.forget(ByteRange::new(size, u64::MAX).unwrap_or(ByteRange::EMPTY));
            return;
        };
        let (tail, rest) = new.split_at(before.next_multiple_of(BLOCK_BYTES));
        if let Some(last) = before.checked_sub(1) {
            let (class, zero) = (self.classes.run_at(last).1, self.zeros.run_at(last).1);
            self.set_class(tail, class, zero);
        }
        self.set(rest, ExtentKind::Hole);
    }

    /// What the server does not have yet, beyond its end of the volume, is a hole but for what was written.
    pub fn fill_beyond(&mut self, server_size: u64) {
        let Some(beyond) = ByteRange::new(server_size, self.size) else {
            return;
        };
        let unknown: Vec<ByteRange> = self
            .classes
            .runs(beyond)
            .filter(|(_, class)| *class == Class::Unknown)
            .map(|(run, _)| run)
            .collect();
        for run in unknown {
            self.set(run, ExtentKind::Hole);
        }
    }

    /// Bytes of `range` that are known to be holes.
    pub fn hole_bytes(&self, range: ByteRange) -> u64 {
        let holes = self.known(range).filter(|(_, known)| *known == Known::Hole);
        holes.map(|(run, _)| run.len()).sum()
    }

    /// Bytes of `range` that storage is known to hold, as data or as zeros of our own.
    pub fn held_bytes(&self, range: ByteRange) -> u64 {
        let range = range.intersect(ByteRange::up_to(self.size));
        let runs = self.classes.runs(range);
        let held = runs.filter(|(_, class)| *class == Class::Data);
        held.map(|(run, _)| run.len()).sum()
    }

    /// Makes `range` unknown again.
    pub fn forget(&mut self, range: ByteRange) {
        self.set_class(range, Class::Unknown, false);
    }

    /// What is known of `range`, in order, cut at its edges and at the end of the volume.
    pub fn known(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Known)> + '_ {
        let range = range.intersect(ByteRange::up_to(self.size));
        self.classes.runs(range).flat_map(move |(run, class)| {
            let known = match class {
                Class::Unknown => Known::Unknown,
                Class::Data => Known::Data,
                Class::Hole => Known::Hole,
            };
            // No unknown part is zero.
            let parts = self.zeros.runs(run);
            parts.map(move |(part, zero)| (part, if zero { Known::Zero } else { known }))
        })
    }

    /// The first unknown offset at or after `from`, below the size.
    pub fn first_unknown(&self, from: u64) -> Option<u64> {
        let rest = ByteRange::new(from, self.size)?;
        self.classes
            .runs(rest)
            .find(|(_, class)| *class == Class::Unknown)
            .map(|(run, _)| run.start())
    }

    /// SEEK_DATA: the first offset at or after `from` that is not in a hole.
    pub fn seek_data(&self, from: u64) -> Sought {
        self.seek(from, Class::Data, Sought::None)
    }

    /// SEEK_HOLE: the first offset at or after `from` in a hole; the end of the volume counts as one.
    pub fn seek_hole(&self, from: u64) -> Sought {
        self.seek(from, Class::Hole, Sought::At(self.size))
    }

    /// At most two steps: known classes alternate.
    fn seek(&self, from: u64, wanted: Class, at_end: Sought) -> Sought {
        let Some(rest) = ByteRange::new(from, self.size).filter(|rest| !rest.is_empty()) else {
            return Sought::None;
        };
        let found = self
            .classes
            .runs(rest)
            .find(|(_, class)| *class == wanted || *class == Class::Unknown);
        match found {
            Some((run, class)) if class == wanted => Sought::At(run.start()),
            Some((run, _)) => Sought::Unknown(run.start()),
            None => at_end,
        }
    }
}

#[cfg(test)]
mod tests;
