//! What a cell holds: bytes that tell which change they are of, and that they are all of one.

/// The unit of the model: a quarter of a block of the server's disk.
pub(crate) const CELL_BYTES: usize = 1024;
/// Cells of a unit that the server's disk keeps, loses or frees as one.
pub(crate) const BLOCK_CELLS: usize = 4;

/// Names one change; what it puts into a cell follows from it and the cell. 0 stands for zeros.
pub(crate) type Tag = u64;
/// The zeros of what was never written, or was punched.
pub(crate) const ZEROS: Tag = 0;

/// Bits of a word that hold the tag; the cell's number is above them.
const TAG_BITS: u32 = 40;

/// The bytes that a change puts into a cell.
pub(crate) fn fill(cell: usize, tag: Tag, bytes: &mut [u8]) {
    let word = match tag {
        ZEROS => 0,
        _ => ((u64::try_from(cell).unwrap_or(0) + 1) << TAG_BITS) | tag,
    };
    for place in bytes.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Which change the bytes of a cell are of.
pub(crate) fn tag_of(cell: usize, bytes: &[u8]) -> Result<Tag, String> {
    let words = || {
        bytes
            .chunks_exact(8)
            .map(|word| word.iter().rfold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let first = words().next().unwrap_or(0);
    if let Some(at) = words().position(|word| word != first) {
        return Err(format!("cell {cell} is torn at byte {}", at * 8));
    }
    if first == 0 {
        return Ok(ZEROS);
    }
    let of_cell = (first >> TAG_BITS).checked_sub(1);
    if of_cell != u64::try_from(cell).ok() {
        return Err(format!("cell {cell} has bytes of cell {of_cell:?}"));
    }
    Ok(first & ((1 << TAG_BITS) - 1))
}
