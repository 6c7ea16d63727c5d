//! Finding zeros in data that came without a map: block devices, pipes, file systems that lie about holes.
//!
//! Pure. Blocks are aligned to offsets of the volume, not of the buffer, so that what is found can become a hole.

use bytes::Bytes;
use lacuna_transport::range::ByteRange;

/// What a hole is made of: smaller ones free nothing on the file systems there are.
pub const BLOCK_BYTES: u64 = 4096;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// As many zeros as there are at hand, `len` at most.
pub fn at_hand(len: u64) -> &'static [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    &ZEROS[..len.min(ZEROS.len())]
}

/// True if [`at_hand`] gives all of so many zeros.
pub fn are_at_hand(len: u64) -> bool {
    usize::try_from(len).is_ok_and(|len| len <= ZEROS.len())
}

/// A part of a volume's content, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// So many bytes that read as zeros and need no storage.
    Hole(u64),
}

impl Piece {
    /// Logical bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Hole(len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Compared at once: both sides stay in the nearest cache.
const COMPARED_BYTES: usize = 4096;

/// True if all of `bytes` are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(COMPARED_BYTES)
        .all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Splits what stands at `offset` into data and holes: whole aligned blocks of zeros become holes, and what is
/// left of a block at the end of the volume (`is_end`) too.
pub fn split(offset: u64, bytes: &Bytes, is_end: bool) -> Vec<Piece> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let whole = ByteRange::at_saturating(offset, len);
    let mut runs: Vec<(ByteRange, bool)> = Vec::new();
    let mut rest = whole;
    while !rest.is_empty() {
        let (block, tail) = rest.split_at((rest.start() / BLOCK_BYTES + 1).saturating_mul(BLOCK_BYTES));
        let is_whole =
            block.len() == BLOCK_BYTES || is_end && tail.is_empty() && block.start() % BLOCK_BYTES == 0;
        let hole = is_whole && is_zero(&bytes[part_of(whole, block)]);
        rest = tail;
        match runs.last_mut() {
            Some((run, same)) if *same == hole => {
                *run = ByteRange::new(run.start(), block.end()).unwrap_or(*run);
            }
            _ => runs.push((block, hole)),
        }
    }
    let piece = |(run, hole): &(ByteRange, bool)| match hole {
        true => Piece::Hole(run.len()),
        false => Piece::Data(bytes.slice(part_of(whole, *run))),
    };
    runs.iter().map(piece).collect()
}

/// Where `part` stands in a buffer that holds `whole`.
fn part_of(whole: ByteRange, part: ByteRange) -> std::ops::Range<usize> {
    let at = |offset: u64| usize::try_from(offset - whole.start()).expect("a part of a buffer in memory");
    at(part.start())..at(part.end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_aligned_blocks_become_holes() {
        let zeros = Bytes::from(vec![0; 3 * 4096]);
        assert_eq!(split(0, &zeros, false), [Piece::Hole(3 * 4096)]);
        assert_eq!(
            split(100, &zeros, false),
            [
                Piece::Data(zeros.slice(..3996)),
                Piece::Hole(2 * 4096),
                Piece::Data(zeros.slice(..100))
            ]
        );
        assert_eq!(
            split(100, &zeros, true),
            [Piece::Data(zeros.slice(..3996)), Piece::Hole(2 * 4096 + 100)]
        );
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes(
            offset in 0..9000_u64,
            blocks in prop::collection::vec((any::<bool>(), 1..6000_usize), 0..8),
            is_end in any::<bool>(),
        ) {
            let bytes: Vec<u8> = blocks.iter().flat_map(|(zero, len)| vec![u8::from(!zero); *len]).collect();
            let mut joined = Vec::new();
            let mut last_was_hole = None;
            for piece in split(offset, &Bytes::from(bytes.clone()), is_end) {
                prop_assert!(!piece.is_empty());
                let is_hole = matches!(piece, Piece::Hole(_));
                prop_assert_ne!(last_was_hole, Some(is_hole));
                last_was_hole = Some(is_hole);
                match piece {
                    Piece::Data(data) => joined.extend_from_slice(&data),
                    Piece::Hole(len) => {
                        prop_assert_eq!((offset + joined.len() as u64) % BLOCK_BYTES, 0);
                        joined.resize(joined.len() + len as usize, 0);
                    }
                }
            }
            prop_assert_eq!(joined, bytes);
        }
    }
}
