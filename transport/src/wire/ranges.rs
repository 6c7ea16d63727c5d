//! The list of ranges that reads and writes begin with, fixed little-endian:
//!
//! ```text
//! handle u64 | count u16 | count × ( offset u64 | length u32 ) | tail u8, if the top bit of count is set
//! ```
//!
//! The tail says how a payload is packed, or may be ([`super::codec`]); a session without codecs has none. Other high
//! bits of the count are flags, where a kind of list has some.

use super::WireError;
use crate::id::Handle;
use crate::limits::VOLUME_BYTES_MAX;
use crate::range::ByteRange;

/// Bytes before the ranges.
pub(super) const HEAD_BYTES: usize = 8 + 2;
pub(super) const RANGE_BYTES: usize = 8 + 4;
/// Bit of the count that announces a tail: far above the most ranges of any list.
const TAIL: u16 = 1 << 15;

/// What a list may hold at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) ranges_max: usize,
    pub(super) bytes_max: u32,
    /// Bits of the count that may be set beside [`TAIL`]: above all counts there are.
    pub(super) flags: u16,
}

impl Bounds {
    /// Bytes of the longest list.
    #[expect(clippy::as_conversions, reason = "a small constant, checked when compiled")]
    pub(super) const fn encoded_bytes_max(self) -> u32 {
        assert!(self.ranges_max < 1 << 13 && self.flags.trailing_zeros() >= 13);
        (HEAD_BYTES + self.ranges_max * RANGE_BYTES + 1) as u32
    }

    /// The bytes of all ranges. At least one range, and none of them empty.
    pub(super) fn check(self, ranges: &[ByteRange]) -> Result<u32, WireError> {
        self.check_count(ranges.len())?;
        let mut bytes = 0_u32;
        for range in ranges {
            if range.is_empty() || range.end() > VOLUME_BYTES_MAX {
                return Err(WireError::OutOfBounds("range"));
            }
            bytes = u32::try_from(range.len())
                .ok()
                .and_then(|length| bytes.checked_add(length))
                .filter(|bytes| *bytes <= self.bytes_max)
                .ok_or(WireError::OutOfBounds("bytes of all ranges"))?;
        }
        Ok(bytes)
    }

    fn check_count(self, count: usize) -> Result<(), WireError> {
        if count == 0 || count > self.ranges_max {
            return Err(WireError::OutOfBounds("count of ranges"));
        }
        Ok(())
    }

    /// How many bytes of ranges, and of a tail, follow a head.
    pub(super) fn ranges_bytes(self, head: &[u8; HEAD_BYTES]) -> Result<usize, WireError> {
        let count = u16::from_le_bytes([head[8], head[9]]);
        let ranges = usize::from(count & !(TAIL | self.flags));
        self.check_count(ranges)?;
        Ok(ranges * RANGE_BYTES + usize::from(count & TAIL != 0))
    }

    /// Decodes a list that is all of `encoded`. What its ranges may be is for [`Self::check`].
    pub(super) fn decode(self, encoded: &[u8]) -> Result<List, WireError> {
        let (head, mut rest) = encoded
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(WireError::Truncated)?;
        let expected = self.ranges_bytes(head)?;
        match rest.len().cmp(&expected) {
            std::cmp::Ordering::Less => return Err(WireError::Truncated),
            std::cmp::Ordering::Greater => return Err(WireError::Trailing(rest.len() - expected)),
            std::cmp::Ordering::Equal => {}
        }
        let mut ranges = Vec::with_capacity(expected / RANGE_BYTES);
        let mut tail = None;
        let count = u16::from_le_bytes([head[8], head[9]]);
        if count & TAIL != 0 {
            let (last, before) = rest.split_last().ok_or(WireError::Truncated)?;
            (tail, rest) = (Some(*last), before);
        }
        while let Some((offset, after)) = rest.split_first_chunk::<8>() {
            let (length, after) = after.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
            let (offset, length) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
            let range = ByteRange::at(offset, u64::from(length));
            ranges.push(range.ok_or(WireError::OutOfBounds("range"))?);
            rest = after;
        }
        let handle = head.first_chunk::<8>().copied().unwrap_or_default();
        Ok(List {
            handle: Handle(u64::from_le_bytes(handle)),
            ranges,
            tail,
            flags: count & self.flags,
        })
    }
}

/// A decoded list.
#[derive(Debug)]
pub(super) struct List {
    pub(super) handle: Handle,
    pub(super) ranges: Vec<ByteRange>,
    pub(super) tail: Option<u8>,
    pub(super) flags: u16,
}

/// Encodes a list that was checked.
pub(super) fn encode(handle: Handle, ranges: &[ByteRange], tail: Option<u8>, flags: u16) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(HEAD_BYTES + ranges.len() * RANGE_BYTES + 1);
    encoded.extend_from_slice(&handle.0.to_le_bytes());
    let count = u16::try_from(ranges.len()).expect("a list was checked");
    let count = flags | if tail.is_some() { count | TAIL } else { count };
    encoded.extend_from_slice(&count.to_le_bytes());
    for range in ranges {
        let length = u32::try_from(range.len()).expect("a list was checked");
        encoded.extend_from_slice(&range.start().to_le_bytes());
        encoded.extend_from_slice(&length.to_le_bytes());
    }
    encoded.extend(tail);
    encoded
}
