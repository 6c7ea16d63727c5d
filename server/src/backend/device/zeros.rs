//! Which units of a device are known to be zero. Pure: no device, no clock.
//!
//! A unit is `zero` or it is taken for data, be it unknown or not. Whoever finds or makes zeros may be
//! overtaken by a write, so both say when they begin and when they end:
//!
//! | under way | effect on the map |
//! |---|---|
//! | a write | its units are data when it begins, before a byte of it is at the device |
//! | a search, or making zeros | its units become zero when it ends, but for those of which a write was under way, or began, meanwhile |
//!
//! **Invariant**: a unit is zero only while the device reads as zeros there, whatever is under way.
//!
//! Memory is one bit for a unit: units are larger on a larger device.

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

/// The smallest unit: what file systems and images allocate.
const UNIT_BYTES_MIN: u64 = 4 << 10;
/// The largest unit, so that zeros are still found where data is thinly spread.
const UNIT_BYTES_MAX: u64 = 1 << 20;
/// Units of a device, as long as they are not of the largest size: 16 MiB of memory.
const UNITS_MAX: u64 = 1 << 27;
/// Writes remembered apart for one search; with more of them all of it counts as written.
const OVERTAKERS_MAX: usize = 1024;
/// Units in a word.
const WORD: u64 = 64;

/// Names what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// See the module.
#[derive(Debug)]
pub(super) struct ZeroMap {
    size: u64,
    /// A power of two.
    unit_bytes: u64,
    /// A bit for each unit: it is zero.
    words: Vec<u64>,
    zero_bytes: u64,
    last_ticket: u64,
    writes: Vec<(Ticket, ByteRange)>,
    searches: Vec<Search>,
}

/// Zeros being found or made.
#[derive(Debug)]
struct Search {
    ticket: Ticket,
    range: ByteRange,
    overtakers: Vec<ByteRange>,
}

impl ZeroMap {
    /// Nothing is known of a device of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let wanted = size.div_ceil(UNITS_MAX).checked_next_power_of_two();
        let unit_bytes = wanted.map_or(UNIT_BYTES_MAX, |unit| unit.clamp(UNIT_BYTES_MIN, UNIT_BYTES_MAX));
        let words = size.div_ceil(unit_bytes).div_ceil(WORD);
        Self {
            size,
            unit_bytes,
            words: vec![0; usize::try_from(words).unwrap_or(usize::MAX)],
            zero_bytes: 0,
            last_ticket: 0,
            writes: Vec::new(),
            searches: Vec::new(),
        }
    }

    pub(super) const fn zero_bytes(&self) -> u64 {
        self.zero_bytes
    }

    /// A write of `range` begins.
    pub(super) fn begin_write(&mut self, range: ByteRange) -> Ticket {
        self.set(self.touched(range), false);
        for search in &mut self.searches {
            search.overtaken(range);
        }
        let ticket = self.ticket();
        self.writes.push((ticket, range));
        ticket
    }

    /// A search for zeros in `range`, or the making of them, begins.
    pub(super) fn begin_search(&mut self, range: ByteRange) -> Ticket {
        let ticket = self.ticket();
        let mut search = Search {
            ticket,
            range,
            overtakers: Vec::new(),
        };
        for (_, write) in &self.writes {
            search.overtaken(*write);
        }
        self.searches.push(search);
        ticket
    }

    /// A search ends: `zeros`, in its range, were found or made.
    pub(super) fn end_search(&mut self, ticket: Ticket, zeros: &[ByteRange]) {
        let Some(index) = self.searches.iter().position(|search| search.ticket == ticket) else {
            return;
        };
        let mut search = self.searches.swap_remove(index);
        search.overtakers.sort_unstable_by_key(|range| range.start());
        for zero in zeros {
            let mut left = zero.intersect(search.range);
            for write in &search.overtakers {
                let write = self.touched(*write);
                let (before, rest) = left.split_at(write.start());
                self.set(self.whole(before), true);
                left = rest.split_at(write.end()).1;
            }
            self.set(self.whole(left), true);
        }
    }

    /// A write ends, or a search ends without any zeros.
    pub(super) fn end(&mut self, ticket: Ticket) {
        self.writes.retain(|(write, _)| *write != ticket);
        self.searches.retain(|search| search.ticket != ticket);
    }

    /// The parts of `range` that are not known to be zero, in order; at most `runs_max` extents are looked
    /// at, so that they may end before the range does. Tells where it ended.
    pub(super) fn data(&self, range: ByteRange, runs_max: usize) -> (Vec<ByteRange>, u64) {
        let extents = self.extents(range, runs_max);
        let end = extents.last().map_or(range.end(), |last| last.range.end());
        let data = extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
        (data.map(|extent| extent.range).collect(), end)
    }

    /// See [`crate::backend::OpenVolume::extents`].
    pub(super) fn extents(&self, range: ByteRange, runs_max: usize) -> Vec<Extent> {
        let range = range.intersect(ByteRange::up_to(self.size));
        let mut extents = Vec::new();
        let mut left = range;
        while !left.is_empty() && extents.len() < runs_max {
            let unit = left.start() / self.unit_bytes;
            let zero = self.is_zero(unit);
            let end = self.run_end(unit, zero).saturating_mul(self.unit_bytes);
            let (run, rest) = left.split_at(end);
            let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
            extents.push(Extent::new(run, kind));
            left = rest;
        }
        extents
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// All units that `range` has bytes of.
    fn touched(&self, range: ByteRange) -> ByteRange {
        range
            .align_out(self.unit_bytes)
            .intersect(ByteRange::up_to(self.size))
    }

    /// The units that lie in `range` as a whole; the last one of a device may be short.
    fn whole(&self, range: ByteRange) -> ByteRange {
        let start = range.start().checked_next_multiple_of(self.unit_bytes);
        let end = if range.end() >= self.size {
            self.size
        } else {
            range.end() / self.unit_bytes * self.unit_bytes
        };
        let whole = start.and_then(|start| ByteRange::new(start, end));
        whole.unwrap_or(ByteRange::EMPTY)
    }

    /// Sets whole units.
    fn set(&mut self, range: ByteRange, zero: bool) {
        if range.is_empty() {
            return;
        }
        let units = range.start() / self.unit_bytes..range.end().div_ceil(self.unit_bytes);
        let mut at = units.start;
        while at < units.end {
            let end = units.end.min((at / WORD + 1) * WORD);
            let mask = bits(at % WORD, end - at);
            let Some(word) = word_of(at).and_then(|index| self.words.get_mut(index)) else {
                return;
            };
            let changed = if zero { !*word & mask } else { *word & mask };
            *word ^= changed;
            let bytes = u64::from(changed.count_ones()) * self.unit_bytes;
            // The last unit may be short.
            let short = end.saturating_mul(self.unit_bytes).saturating_sub(self.size);
            let last = bits((end - 1) % WORD, 1) & changed != 0;
            let bytes = bytes - if last { short } else { 0 };
            if zero {
                self.zero_bytes += bytes;
            } else {
                self.zero_bytes -= bytes;
            }
            at = end;
        }
    }

    fn is_zero(&self, unit: u64) -> bool {
        self.word(unit) & bits(unit % WORD, 1) != 0
    }

    /// The first unit after `unit` that is not as it is, or the first that does not exist.
    fn run_end(&self, unit: u64, zero: bool) -> u64 {
        let units = self.size.div_ceil(self.unit_bytes);
        let mut at = unit;
        while at < units {
            let word = self.word(at);
            let differs = if zero { !word } else { word } & bits(at % WORD, WORD - at % WORD);
            if differs != 0 {
                return (at / WORD * WORD + u64::from(differs.trailing_zeros())).min(units);
            }
            at = (at / WORD + 1) * WORD;
        }
        units
    }

    fn word(&self, unit: u64) -> u64 {
        let word = word_of(unit).and_then(|index| self.words.get(index));
        word.copied().unwrap_or(0)
    }
}

impl Search {
    fn overtaken(&mut self, write: ByteRange) {
        if !write.overlaps(self.range) {
            return;
        }
        if self.overtakers.len() == OVERTAKERS_MAX {
            self.overtakers = vec![self.range];
        }
        self.overtakers.push(write);
    }
}

fn word_of(unit: u64) -> Option<usize> {
    usize::try_from(unit / WORD).ok()
}

/// So many bits from this one on; they fit a word.
const fn bits(first: u64, count: u64) -> u64 {
    if count == 0 {
        return 0;
    }
    (u64::MAX >> (WORD - count)) << first
}

#[cfg(test)]
mod tests;
