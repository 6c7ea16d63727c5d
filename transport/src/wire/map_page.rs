//! Pages of an extent map.
//!
//! ```text
//! base u64 | size u64 | start u64 | end u64 | shift u8 | runs
//! run: LEB128 varint of ( units << 2 | kind ), units >= 1, a unit is 1 << shift bytes
//! ```
//!
//! Runs follow each other from `start` without gaps and together reach `end`; the last one may be
//! cut short by it. Neighbours differ in kind. `size` is the size of the volume then,
//! `end <= size`. An empty page (`start == end`, no runs) says that nothing lies there.
//!
//! With 4 KiB extents a run takes one or two bytes: a million extents are about 3 MiB.

use super::WireError;
use crate::extent::{Extent, ExtentKind};
use crate::id::Generation;
use crate::limits::{MAP_PAGE_BYTES_MAX, MAP_PAGE_RUNS_MAX, VOLUME_BYTES_MAX};
use crate::range::ByteRange;

const HEAD_BYTES: usize = 4 * 8 + 1;
const SHIFT_MAX: u8 = 30;
/// A varint of 64 bits.
const RUN_BYTES_MAX: usize = 10;

/// A decoded page: contiguous extents that cover `range`, neighbours of different kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage {
    pub generation: Generation,
    /// Size of the volume in bytes.
    pub size: u64,
    pub range: ByteRange,
    extents: Vec<Extent>,
}

impl MapPage {
    /// Fills one page from `extents`, which follow each other without gaps from `start`. What does not
    /// fit is left for the next page: `range.end()` tells how far this one got.
    pub fn fill(
        generation: Generation,
        size: u64,
        start: u64,
        extents: impl IntoIterator<Item = Extent>,
    ) -> Self {
        let mut page = Self {
            generation,
            size,
            range: ByteRange::at_saturating(start, 0),
            extents: Vec::new(),
        };
        let runs_max = MAP_PAGE_RUNS_MAX.min((page_bytes_max() - HEAD_BYTES) / RUN_BYTES_MAX);
        for extent in extents {
            debug_assert_eq!(
                extent.range.start(),
                page.range.end(),
                "extents follow each other"
            );
            if extent.range.is_empty() {
                continue;
            }
            let full = page.extents.len() == runs_max;
            match page.extents.last_mut().filter(|last| last.kind == extent.kind) {
                Some(last) => last.range = join(last.range, extent.range),
                None if full => break,
                None => page.extents.push(extent),
            }
            page.range = join(page.range, extent.range);
        }
        page
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub fn encode(&self) -> Vec<u8> {
        let shift = self.shift();
        let mut body = Vec::with_capacity(HEAD_BYTES + self.extents.len() * 3);
        for word in [self.generation.0, self.size, self.range.start(), self.range.end()] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.push(shift);
        for extent in &self.extents {
            let units = extent.range.len().div_ceil(1 << shift);
            push_varint(&mut body, units << 2 | kind_number(extent.kind));
        }
        body
    }

    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (generation, rest) = split_u64(body)?;
        let (size, rest) = split_u64(rest)?;
        let (start, rest) = split_u64(rest)?;
        let (end, rest) = split_u64(rest)?;
        let ([shift], mut rest) = rest.split_first_chunk::<1>().ok_or(WireError::Truncated)?;
        let range = ByteRange::new(start, end).ok_or(WireError::OutOfBounds("range of a page"))?;
        // An empty page may name a start beyond the end of the volume: it answers a question there.
        if size > VOLUME_BYTES_MAX || (end > size && !range.is_empty()) || *shift > SHIFT_MAX {
            return Err(WireError::OutOfBounds("head of a page"));
        }
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = start;
        while !rest.is_empty() {
            let (run, tail) = split_varint(rest)?;
            rest = tail;
            let (units, kind) = (run >> 2, kind_of(run & 3)?);
            let bytes = units
                .checked_mul(1 << *shift)
                .filter(|bytes| *bytes > 0 && at < end);
            let bytes = bytes.ok_or(WireError::OutOfBounds("run of a page"))?;
            let covered = ByteRange::at_saturating(at, bytes).intersect(range);
            // Only the last run may be cut, and by less than a unit.
            if at.saturating_add(bytes) - covered.end() >= 1 << *shift {
                return Err(WireError::OutOfBounds("run of a page"));
            }
            if extents.len() == MAP_PAGE_RUNS_MAX || extents.last().is_some_and(|last| last.kind == kind) {
                return Err(WireError::OutOfBounds("runs of a page"));
            }
            extents.push(Extent::new(covered, kind));
            at = covered.end();
        }
        if at != end {
            return Err(WireError::OutOfBounds("runs of a page"));
        }
        Ok(Self {
            generation: Generation(generation),
            size,
            range,
            extents,
        })
    }

    /// The largest unit that divides every boundary but the last.
    fn shift(&self) -> u8 {
        let inner = self
            .extents
            .iter()
            .skip(1)
            .map(|extent| extent.range.start() - self.range.start());
        let bits = inner.fold(0, |bits, distance| bits | distance);
        u8::try_from(bits.trailing_zeros())
            .unwrap_or(SHIFT_MAX)
            .min(SHIFT_MAX)
    }
}

fn page_bytes_max() -> usize {
    usize::try_from(MAP_PAGE_BYTES_MAX).unwrap_or(usize::MAX)
}

/// Two ranges of which the second starts where the first ends.
fn join(first: ByteRange, second: ByteRange) -> ByteRange {
    ByteRange::new(first.start(), second.end()).unwrap_or(first)
}

const fn kind_number(kind: ExtentKind) -> u64 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero => 1,
        ExtentKind::Hole => 2,
    }
}

fn kind_of(number: u64) -> Result<ExtentKind, WireError> {
    match number {
        0 => Ok(ExtentKind::Data),
        1 => Ok(ExtentKind::Zero),
        2 => Ok(ExtentKind::Hole),
        _ => Err(WireError::OutOfBounds("kind of an extent")),
    }
}

fn split_u64(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let (word, rest) = bytes.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
    Ok((u64::from_le_bytes(*word), rest))
}

fn push_varint(body: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            body.push(low & 0x7f);
            return;
        }
        body.push(low | 0x80);
    }
}

/// The shortest form only: every value has one encoding.
fn split_varint(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(RUN_BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * index);
        if shifted >> (7 * index) != bits {
            return Err(WireError::OutOfBounds("varint"));
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(WireError::OutOfBounds("varint"));
            }
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(WireError::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents_of(start: u64, runs: &[(u64, ExtentKind)]) -> Vec<Extent> {
        let mut at = start;
        runs.iter()
            .map(|(len, kind)| {
                let range = ByteRange::at(at, *len).unwrap();
                at = range.end();
                Extent::new(range, *kind)
            })
            .collect()
    }

    #[test]
    fn a_page_of_4_kib_extents_takes_a_byte_or_two_a_run() {
        let runs: Vec<_> = (0..4000)
            .map(|index| {
                (
                    4096 * (1 + index % 3),
                    if index % 2 == 0 {
                        ExtentKind::Data
                    } else {
                        ExtentKind::Hole
                    },
                )
            })
            .collect();
        let page = MapPage::fill(Generation(1), 1 << 40, 0, extents_of(0, &runs));
        assert_eq!(page.extents().len(), 4000);
        assert!(page.encode().len() <= HEAD_BYTES + 4000);
    }

    #[test]
    fn a_full_page_stops_and_says_where() {
        let runs = [(1_u64 << 62 >> 16, ExtentKind::Data), (3, ExtentKind::Hole)].repeat(6600);
        let page = MapPage::fill(Generation(1), VOLUME_BYTES_MAX, 0, extents_of(0, &runs));
        assert!(page.range.end() > 0 && page.extents().len() < runs.len());
        let body = page.encode();
        assert!(body.len() <= page_bytes_max());
        assert_eq!(MapPage::decode(&body).unwrap(), page);
    }

    #[test]
    fn a_hole_of_nearly_2_to_the_63_is_one_run() {
        let runs = [(VOLUME_BYTES_MAX, ExtentKind::Hole)];
        let page = MapPage::fill(Generation(1), VOLUME_BYTES_MAX, 0, extents_of(0, &runs));
        let body = page.encode();
        assert!(body.len() < 64);
        assert_eq!(MapPage::decode(&body).unwrap(), page);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let runs = [
            (4096, ExtentKind::Data),
            (1 << 30, ExtentKind::Hole),
            (100, ExtentKind::Zero),
        ];
        let body = MapPage::fill(Generation(1), 1 << 40, 8192, extents_of(8192, &runs)).encode();
        for length in 0..body.len() {
            assert!(
                MapPage::decode(&body[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_joined() {
        let runs = [
            (10, ExtentKind::Data),
            (10, ExtentKind::Data),
            (10, ExtentKind::Hole),
        ];
        let page = MapPage::fill(Generation(1), 30, 0, extents_of(0, &runs));
        assert_eq!(page.extents().len(), 2);
        assert_eq!(MapPage::decode(&page.encode()).unwrap(), page);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_sound_page(body: Vec<u8>) {
            if let Ok(page) = MapPage::decode(&body) {
                let mut at = page.range.start();
                for extent in page.extents() {
                    prop_assert_eq!(extent.range.start(), at);
                    prop_assert!(!extent.range.is_empty());
                    at = extent.range.end();
                }
                prop_assert_eq!(at, page.range.end());
            }
        }

        #[test]
        fn what_is_encoded_decodes(
            start in 0..1_u64 << 40,
            lengths in prop::collection::vec((1..1_u64 << 33, 0..3_u64), 0..200),
            shift in 0..13_u32,
        ) {
            let runs: Vec<_> = lengths.iter().map(|(len, kind)| (len << shift, kind_of(*kind).unwrap())).collect();
            let page = MapPage::fill(Generation(3), VOLUME_BYTES_MAX, start << shift, extents_of(start << shift, &runs));
            prop_assert_eq!(MapPage::decode(&page.encode()).unwrap(), page);
        }
    }
}
