//! What a volume of the server in memory holds.

use std::collections::BTreeMap;

use lacuna_transport::attr::Timestamp;
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

use super::UNIT_BYTES;

/// Content of a volume: units that are absent are holes.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size: u64,
    pub units: BTreeMap<u64, Vec<u8>>,
    pub generation: u64,
    /// The generation of the latest change that the client did not make.
    pub base: u64,
    pub mode: u32,
    pub modified: Timestamp,
    /// Its name was taken away.
    pub unlinked: bool,
    /// Raised when somebody else gets its write lease.
    pub lease: u64,
}

impl Content {
    /// Writes `byte` over `range`, allocating the units it touches.
    pub fn write(&mut self, range: ByteRange, byte: u8) {
        let len = usize::try_from(range.len()).unwrap_or(0);
        self.write_bytes(range.start(), &vec![byte; len]);
    }

    /// Writes `bytes` at `offset`, allocating the units they touch.
    pub fn write_bytes(&mut self, offset: u64, bytes: &[u8]) {
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        let range = ByteRange::at(offset, len).unwrap_or(ByteRange::EMPTY);
        self.size = self.size.max(range.end());
        let (mut rest, mut bytes) = (range, bytes);
        while !rest.is_empty() {
            let number = rest.start() / UNIT_BYTES;
            let (part, tail) = rest.split_at((number + 1) * UNIT_BYTES);
            let unit = self.units.entry(number).or_insert_with(|| vec![0; 4096]);
            let skip = usize::try_from(part.start() % UNIT_BYTES).unwrap_or(0);
            let (front, back) = bytes.split_at(usize::try_from(part.len()).unwrap_or(0));
            unit[skip..skip + front.len()].copy_from_slice(front);
            (rest, bytes) = (tail, back);
        }
        self.generation += 1;
    }

    /// Makes a hole of whole units, zeros of parts of them.
    pub fn punch(&mut self, range: ByteRange) {
        let range = range.intersect(ByteRange::up_to(self.size));
        let inner = ByteRange::new(
            range.start().next_multiple_of(UNIT_BYTES),
            range.end() / UNIT_BYTES * UNIT_BYTES,
        );
        let units: Vec<u64> = self.units.keys().copied().collect();
        for number in units {
            let unit = ByteRange::at_saturating(number * UNIT_BYTES, UNIT_BYTES);
            if inner.is_some_and(|inner| inner.covers(unit)) {
                self.units.remove(&number);
            } else if let (part, Some(bytes)) = (unit.intersect(range), self.units.get_mut(&number)) {
                let skip = usize::try_from(part.start().saturating_sub(unit.start())).unwrap_or(0);
                let len = usize::try_from(part.len()).unwrap_or(0);
                if len > 0 {
                    bytes[skip..skip + len].fill(0);
                }
            }
        }
        self.generation += 1;
    }

    /// Zeros that stay allocated.
    pub fn zero(&mut self, range: ByteRange) {
        if !range.is_empty() {
            self.write(range, 0);
        }
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.punch(ByteRange::new(size, self.size).unwrap_or(ByteRange::EMPTY));
            self.units.retain(|number, _| number * UNIT_BYTES < size);
        }
        self.size = size;
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

    pub(super) fn extents(&self, range: ByteRange) -> Vec<Extent> {
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
