//! Finding what is the same at both ends without moving it.

use std::collections::VecDeque;

use bytes::Bytes;
use lacuna_transport::digest::{Hashing, InUnits, UNIT_LOG2_MAX, UNIT_LOG2_MIN, UnitHash};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

use crate::client::Volume;
use crate::error::{ErrorKind, Result};
use crate::remote::{Remote, UnitRange};

/// Units compared at once: their bytes are held meanwhile.
pub(super) const UNITS_MAX: usize = 16;

const UNIT_BYTES: u64 = 1 << UNIT_LOG2_MAX;
const BLOCK_BYTES: u64 = 1 << UNIT_LOG2_MIN;

/// A part of a volume, as it is compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Hole(u64),
    /// Data, a unit at most, cut where units of the range are.
    Data(ByteRange),
}

/// Walks the extents of a range.
#[derive(Debug)]
pub(super) struct Units<R: Remote> {
    volume: Volume<R>,
    origin: u64,
    rest: ByteRange,
    extents: VecDeque<Extent>,
}

impl<R: Remote> Units<R> {
    pub(super) fn new(volume: Volume<R>, range: ByteRange) -> Self {
        Self {
            volume,
            origin: range.start(),
            rest: range,
            extents: VecDeque::new(),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Found>> {
        if self.extents.is_empty() && !self.rest.is_empty() {
            self.extents = self.volume.take_extents(&mut self.rest).await?.into();
        }
        let Some(extent) = self.extents.front_mut() else {
            return Ok(None);
        };
        if extent.kind != ExtentKind::Data {
            let len = extent.range.len();
            self.extents.pop_front();
            return Ok(Some(Found::Hole(len)));
        }
        let unit = (extent.range.start() - self.origin) / UNIT_BYTES + 1;
        let cut = self.origin.saturating_add(unit.saturating_mul(UNIT_BYTES));
        let (part, tail) = extent.range.split_at(cut);
        if tail.is_empty() {
            self.extents.pop_front();
        } else {
            extent.range = tail;
        }
        Ok(Some(Found::Data(part)))
    }
}

/// Which parts of `range`, a unit at most, are `bytes` at the server too: in order, true where they are the same.
/// With `blocks` a unit that differs is looked at block by block. A server that knows no digests differs
/// everywhere.
pub(super) async fn differences<R: Remote>(
    volume: &Volume<R>,
    range: ByteRange,
    bytes: &Bytes,
    blocks: bool,
) -> Result<Vec<(ByteRange, bool)>> {
    let Some(there) = hashes(volume, range, UNIT_LOG2_MAX).await? else {
        return Ok(vec![(range, false)]);
    };
    if there == local(bytes, UNIT_BYTES) {
        return Ok(vec![(range, true)]);
    }
    if !blocks || range.len() <= BLOCK_BYTES {
        return Ok(vec![(range, false)]);
    }
    let there = hashes(volume, range, UNIT_LOG2_MIN).await?.unwrap_or_default();
    let here = local(bytes, BLOCK_BYTES);
    let mut parts: Vec<(ByteRange, bool)> = Vec::new();
    let mut at = range.start();
    for (index, hash) in here.iter().enumerate() {
        let same = there.get(index) == Some(hash);
        let end = at.saturating_add(BLOCK_BYTES).min(range.end());
        match parts.last_mut() {
            Some((part, before)) if *before == same => {
                *part = ByteRange::new(part.start(), end).unwrap_or(*part);
            }
            _ => parts.push((ByteRange::new(at, end).unwrap_or(ByteRange::EMPTY), same)),
        }
        at = end;
    }
    Ok(parts)
}

/// Hashes of the units of a range, counted from its start; `None` if the server knows no digests.
async fn hashes<R: Remote>(
    volume: &Volume<R>,
    range: ByteRange,
    unit_log2: u8,
) -> Result<Option<Vec<UnitHash>>> {
    let units = UnitRange {
        origin: range.start(),
        range,
        unit_log2,
        how: Hashing::Plain,
    };
    match volume.digest(units).await {
        Ok(hashes) => Ok(Some(hashes)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

fn local(bytes: &[u8], unit_bytes: u64) -> Vec<UnitHash> {
    let mut units = InUnits::new(Hashing::Plain, 0, unit_bytes);
    units.data(bytes);
    units.finish()
}

/// The bytes of `part`, of a buffer that holds `whole`.
pub(super) fn part_of(bytes: &Bytes, whole: ByteRange, part: ByteRange) -> Bytes {
    let at = |offset: u64| usize::try_from(offset - whole.start()).expect("a part of a buffer in memory");
    bytes.slice(at(part.start())..at(part.end()))
}
