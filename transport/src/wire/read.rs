//! The body of a read, fixed little-endian.
//!
//! ```text
//! request:  handle u64 | count u16 | count × ( offset u64 | length u32 )
//! reply:    base u64 | payload: the ranges in the order asked, nothing between them
//! ```
//!
//! A good reply has exactly the bytes asked for: what lies beyond the end of the volume is zero.
//! The base (see [`crate::attr::Attr::base`]) is one that the bytes are not older than: if somebody else
//! changed the volume while they were read, the server reads again, and if it never stands still it names the
//! base from before, so that the client asks once more instead of keeping them.

use super::WireError;
use super::ranges::{self, Bounds};
use crate::id::{Generation, Handle};
use crate::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use crate::range::ByteRange;

const BOUNDS: Bounds = Bounds {
    ranges_max: READ_RANGES_MAX,
    bytes_max: READ_BYTES_MAX,
};

/// Most bytes of a request body.
pub const REQUEST_BYTES_MAX: u32 = BOUNDS.encoded_bytes_max();

/// Bytes in front of the payload of a reply.
pub const REPLY_HEAD_BYTES: u32 = 8;

/// A checked read: 1 to [`READ_RANGES_MAX`] ranges, none empty, [`READ_BYTES_MAX`] bytes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub handle: Handle,
    ranges: Vec<ByteRange>,
    bytes: u32,
}

impl ReadRequest {
    pub fn new(handle: Handle, ranges: Vec<ByteRange>) -> Result<Self, WireError> {
        let bytes = BOUNDS.check(&ranges)?;
        Ok(Self {
            handle,
            ranges,
            bytes,
        })
    }

    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Payload bytes of the reply.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    pub fn encode(&self) -> Vec<u8> {
        ranges::encode(self.handle, &self.ranges)
    }

    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (handle, ranges) = BOUNDS.decode(body)?;
        Self::new(handle, ranges)
    }
}

/// The head of a reply.
pub fn encode_reply_head(generation: Generation) -> [u8; 8] {
    generation.0.to_le_bytes()
}

pub fn decode_reply_head(head: [u8; 8]) -> Generation {
    Generation(u64::from_le_bytes(head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::VOLUME_BYTES_MAX;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn bounds_are_exact() {
        let max = u64::from(READ_BYTES_MAX);
        assert!(ReadRequest::new(Handle(1), vec![range(0, max)]).is_ok());
        assert!(ReadRequest::new(Handle(1), vec![range(0, max), range(0, 1)]).is_err());
        assert!(ReadRequest::new(Handle(1), vec![]).is_err());
        assert!(ReadRequest::new(Handle(1), vec![range(5, 0)]).is_err());
        assert!(ReadRequest::new(Handle(1), vec![range(0, 1); READ_RANGES_MAX]).is_ok());
        assert!(ReadRequest::new(Handle(1), vec![range(0, 1); READ_RANGES_MAX + 1]).is_err());
        assert!(ReadRequest::new(Handle(1), vec![range(VOLUME_BYTES_MAX - 1, 1)]).is_ok());
        assert!(ReadRequest::new(Handle(1), vec![range(VOLUME_BYTES_MAX, 1)]).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let body = ReadRequest::new(Handle(1), vec![range(0, 1), range(9, 9)])
            .unwrap()
            .encode();
        for length in 0..body.len() {
            assert!(
                ReadRequest::decode(&body[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
        assert!(ReadRequest::decode(&[&body[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(body: Vec<u8>) {
            if let Ok(request) = ReadRequest::decode(&body) {
                prop_assert_eq!(request.encode(), body);
            }
        }

        #[test]
        fn what_is_encoded_decodes(ranges in prop::collection::vec((0..1_u64 << 40, 1..4096_u64), 1..READ_RANGES_MAX)) {
            let ranges = ranges.into_iter().map(|(start, len)| range(start, len)).collect();
            let request = ReadRequest::new(Handle(7), ranges).unwrap();
            prop_assert_eq!(ReadRequest::decode(&request.encode()).unwrap(), request);
        }
    }
}
