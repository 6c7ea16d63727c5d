//! Copying by extents: what a server does instead of sending bytes to a client and back.
//!
//! The map of the source decides: data is copied, holes and zeros become holes of the target. A source that
//! changes meanwhile gives a mixture of moments, as reading it would.

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

use super::OpenVolume;
use crate::error::{Error, ErrorKind, Result};

/// Extents asked for at once.
const RUNS: usize = 1024;
/// Bytes of a copy in memory at once.
const PIECE_BYTES: usize = 1 << 20;

/// See [`super::Backend::copy`]. `data` copies a range of data to an offset.
pub(super) fn by_extents(
    source: &dyn OpenVolume,
    range: ByteRange,
    target: &dyn OpenVolume,
    offset: u64,
    mut data: impl FnMut(ByteRange, u64) -> Result<()>,
) -> Result<u64> {
    let range = range.intersect(ByteRange::up_to(source.attr()?.size));
    let place = |at: u64| {
        let to = offset.checked_add(at - range.start());
        to.ok_or_else(|| Error::new(ErrorKind::TooLarge, "a copy ends beyond any volume"))
    };
    if range.is_empty() {
        return Ok(0);
    }
    // First: then nothing below grows the target, and a copy that ends in a hole needs no more.
    target.grow(place(range.end())?)?;
    let mut left = range;
    while !left.is_empty() {
        let mut extents = source.extents(left, RUNS)?;
        if extents.is_empty() {
            // Cut since: there are zeros now.
            extents.push(Extent::new(left, ExtentKind::Hole));
        }
        for extent in extents {
            let to = place(extent.range.start())?;
            match extent.kind {
                ExtentKind::Data => data(extent.range, to)?,
                ExtentKind::Zero | ExtentKind::Hole => {
                    target.punch(ByteRange::at_saturating(to, extent.range.len()))?;
                }
            }
            left = left.split_at(extent.range.end()).1;
        }
    }
    Ok(range.len())
}

/// Copies data through memory.
pub(super) fn by_bytes(
    source: &dyn OpenVolume,
    range: ByteRange,
    target: &dyn OpenVolume,
    offset: u64,
) -> Result<()> {
    let piece_bytes = usize::try_from(range.len()).map_or(PIECE_BYTES, |len| len.min(PIECE_BYTES));
    let mut buffer = vec![0; piece_bytes];
    let (mut left, mut to) = (range, offset);
    while !left.is_empty() {
        let len = usize::try_from(left.len()).map_or(buffer.len(), |len| len.min(buffer.len()));
        let piece = &mut buffer[..len];
        source.read_at(piece, left.start())?;
        target.write_at(piece, to)?;
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        left = left.split_at(left.start().saturating_add(len)).1;
        to = to.saturating_add(len);
    }
    Ok(())
}
