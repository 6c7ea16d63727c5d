//! The body of a write, fixed little-endian.
//!
//! ```text
//! request:  handle u64 | count u16 | count × ( offset u64 | length u32 ) | payload
//! reply:    Attr
//! ```
//!
//! The payload has the bytes of the ranges in their order, nothing between them. Ranges are in ascending
//! order and do not overlap, so that the order in which a server applies them does not matter.

use super::WireError;
use crate::id::Handle;
use crate::limits::{VOLUME_BYTES_MAX, WRITE_BYTES_MAX, WRITE_RANGES_MAX};
use crate::range::ByteRange;

/// Bytes of a head before its ranges.
pub const HEAD_BYTES: usize = 8 + 2;
const RANGE_BYTES: usize = 8 + 4;

/// Most bytes of a request in front of its payload.
#[expect(clippy::as_conversions, reason = "a small constant, checked when compiled")]
pub const REQUEST_HEAD_BYTES_MAX: u32 = {
    assert!(WRITE_RANGES_MAX <= 1 << 15);
    (HEAD_BYTES + WRITE_RANGES_MAX * RANGE_BYTES) as u32
};

/// A checked head: 1 to [`WRITE_RANGES_MAX`] ranges in order, none empty, [`WRITE_BYTES_MAX`] bytes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    pub handle: Handle,
    ranges: Vec<ByteRange>,
    bytes: u32,
}

impl WriteRequest {
    pub fn new(handle: Handle, ranges: Vec<ByteRange>) -> Result<Self, WireError> {
        if ranges.is_empty() || ranges.len() > WRITE_RANGES_MAX {
            return Err(WireError::OutOfBounds("count of ranges"));
        }
        let mut bytes = 0_u32;
        let mut end = 0;
        for range in &ranges {
            if range.is_empty() || range.start() < end || range.end() > VOLUME_BYTES_MAX {
                return Err(WireError::OutOfBounds("range of a write"));
            }
            end = range.end();
            bytes = u32::try_from(range.len())
                .ok()
                .and_then(|length| bytes.checked_add(length))
                .filter(|bytes| *bytes <= WRITE_BYTES_MAX)
                .ok_or(WireError::OutOfBounds("bytes of a write"))?;
        }
        Ok(Self {
            handle,
            ranges,
            bytes,
        })
    }

    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Payload bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The body up to the payload.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(HEAD_BYTES + self.ranges.len() * RANGE_BYTES);
        head.extend_from_slice(&self.handle.0.to_le_bytes());
        let count = u16::try_from(self.ranges.len()).expect("at most WRITE_RANGES_MAX ranges");
        head.extend_from_slice(&count.to_le_bytes());
        for range in &self.ranges {
            let length = u32::try_from(range.len()).expect("at most WRITE_BYTES_MAX bytes");
            head.extend_from_slice(&range.start().to_le_bytes());
            head.extend_from_slice(&length.to_le_bytes());
        }
        head
    }

    /// How many bytes of ranges follow the first [`HEAD_BYTES`] of a body.
    pub fn ranges_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, WireError> {
        let count = usize::from(u16::from_le_bytes([head[8], head[9]]));
        if count == 0 || count > WRITE_RANGES_MAX {
            return Err(WireError::OutOfBounds("count of ranges"));
        }
        Ok(count * RANGE_BYTES)
    }

    /// Decodes a whole head. The caller checks that what is left of the body is [`Self::bytes`].
    pub fn decode_head(head: &[u8]) -> Result<Self, WireError> {
        let (fixed, mut rest) = head
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(WireError::Truncated)?;
        let expected = Self::ranges_bytes(fixed)?;
        match rest.len().cmp(&expected) {
            std::cmp::Ordering::Less => return Err(WireError::Truncated),
            std::cmp::Ordering::Greater => return Err(WireError::Trailing(rest.len() - expected)),
            std::cmp::Ordering::Equal => {}
        }
        let mut ranges = Vec::with_capacity(expected / RANGE_BYTES);
        while let Some((offset, tail)) = rest.split_first_chunk::<8>() {
            let (length, tail) = tail.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
            let (offset, length) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
            let range = ByteRange::at(offset, u64::from(length));
            ranges.push(range.ok_or(WireError::OutOfBounds("range of a write"))?);
            rest = tail;
        }
        let handle = fixed.first_chunk::<8>().copied().unwrap_or_default();
        Self::new(Handle(u64::from_le_bytes(handle)), ranges)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn bounds_and_order_are_exact() {
        let max = u64::from(WRITE_BYTES_MAX);
        let new = |ranges| WriteRequest::new(Handle(1), ranges);
        assert!(new(vec![range(0, max)]).is_ok());
        assert!(new(vec![range(0, max), range(max, 1)]).is_err());
        assert!(new(vec![]).is_err());
        assert!(new(vec![range(5, 0)]).is_err());
        assert!(new(vec![range(0, 2), range(2, 1)]).is_ok());
        assert!(new(vec![range(0, 2), range(1, 2)]).is_err());
        assert!(new(vec![range(9, 1), range(0, 1)]).is_err());
        let many = |count: usize| {
            (0..)
                .step_by(2)
                .take(count)
                .map(|start| range(start, 1))
                .collect()
        };
        assert!(new(many(WRITE_RANGES_MAX)).is_ok());
        assert!(new(many(WRITE_RANGES_MAX + 1)).is_err());
        assert!(new(vec![range(VOLUME_BYTES_MAX - 1, 1)]).is_ok());
        assert!(new(vec![range(VOLUME_BYTES_MAX, 1)]).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let head = WriteRequest::new(Handle(1), vec![range(0, 1), range(9, 9)])
            .unwrap()
            .encode_head();
        for length in 0..head.len() {
            assert!(
                WriteRequest::decode_head(&head[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
        assert!(WriteRequest::decode_head(&[&head[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(head: Vec<u8>) {
            if let Ok(request) = WriteRequest::decode_head(&head) {
                prop_assert_eq!(request.encode_head(), head);
            }
        }
    }
}
