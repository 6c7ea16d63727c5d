//! The body of a write, fixed little-endian.
//!
//! ```text
//! request:  handle u64 | count u16 | count × ( offset u64 | length u32 ) | codec u8, if the top bit of count is set | payload
//! reply:    Attr
//! ```
//!
//! Bit 14 of the count asks for a flush of the data after the write, bit 13 for one of all there is; not both.
//!
//! The payload, unpacked, has the bytes of the ranges in their order, nothing between them. Ranges are in ascending
//! order and do not overlap, so that the order in which a server applies them does not matter.

use super::WireError;
use super::codec::{self, Codec};
use super::ranges::{self, Bounds};
use crate::id::Handle;
use crate::limits::{WRITE_BYTES_MAX, WRITE_RANGES_MAX};
use crate::range::ByteRange;

/// Bytes of a head before its ranges.
pub const HEAD_BYTES: usize = ranges::HEAD_BYTES;

const BOUNDS: Bounds = Bounds {
    ranges_max: WRITE_RANGES_MAX,
    bytes_max: WRITE_BYTES_MAX,
    flags: FLUSH_DATA | FLUSH_ALL,
};

/// Bits of the count, see [`Flush`].
const FLUSH_DATA: u16 = 1 << 14;
const FLUSH_ALL: u16 = 1 << 13;

/// What of a volume is made durable once the write is done, before it is answered: all that was answered before too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// As fdatasync(2) does.
    Data,
    /// As fsync(2) does.
    All,
}

/// Most bytes of a request in front of its payload.
pub const REQUEST_HEAD_BYTES_MAX: u32 = BOUNDS.encoded_bytes_max();

/// A checked head: 1 to [`WRITE_RANGES_MAX`] ranges in order, none empty, [`WRITE_BYTES_MAX`] bytes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    pub handle: Handle,
    ranges: Vec<ByteRange>,
    bytes: u32,
    codec: Option<Codec>,
    flush: Option<Flush>,
}

impl WriteRequest {
    pub fn new(handle: Handle, ranges: Vec<ByteRange>) -> Result<Self, WireError> {
        let bytes = BOUNDS.check(&ranges)?;
        if ranges.windows(2).any(|pair| pair[1].start() < pair[0].end()) {
            return Err(WireError::OutOfBounds("order of ranges"));
        }
        Ok(Self {
            handle,
            ranges,
            bytes,
            codec: None,
            flush: None,
        })
    }

    /// The same write, with a flush of the volume after it.
    #[must_use]
    pub fn flushed(self, flush: Option<Flush>) -> Self {
        Self { flush, ..self }
    }

    pub fn flush(&self) -> Option<Flush> {
        self.flush
    }

    /// The same write, its payload packed.
    #[must_use]
    pub fn packed(self, codec: Codec) -> Self {
        let codec = Some(codec);
        Self { codec, ..self }
    }

    pub fn codec(&self) -> Option<Codec> {
        self.codec
    }

    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Payload bytes, once unpacked.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The body up to the payload.
    pub fn encode_head(&self) -> Vec<u8> {
        let flags = match self.flush {
            None => 0,
            Some(Flush::Data) => FLUSH_DATA,
            Some(Flush::All) => FLUSH_ALL,
        };
        ranges::encode(self.handle, &self.ranges, self.codec.map(Codec::number), flags)
    }

    /// How many bytes of the head follow the first [`HEAD_BYTES`] of a body.
    pub fn ranges_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, WireError> {
        BOUNDS.ranges_bytes(head)
    }

    /// Decodes a whole head.
    pub fn decode_head(head: &[u8]) -> Result<Self, WireError> {
        let list = BOUNDS.decode(head)?;
        let codec = list.tail.map(Codec::try_from).transpose()?;
        let flush = match list.flags {
            0 => None,
            FLUSH_DATA => Some(Flush::Data),
            FLUSH_ALL => Some(Flush::All),
            _ => return Err(WireError::OutOfBounds("flush of a write")),
        };
        let request = Self::new(list.handle, list.ranges)?;
        Ok(Self {
            codec,
            flush,
            ..request
        })
    }

    /// Checks that `payload_bytes` can follow the head.
    pub fn check_payload(&self, payload_bytes: u32) -> Result<(), WireError> {
        match codec::is_length(self.codec, self.bytes, payload_bytes) {
            true => Ok(()),
            false => Err(WireError::OutOfBounds("length of a write's payload")),
        }
    }
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

    #[test]
    fn lengths_of_payloads_are_bounded() {
        let raw = WriteRequest::new(Handle(1), vec![range(0, 4000), range(5000, 96)]).unwrap();
        let taken = |request: &WriteRequest| {
            [0, 1, 4095, 4096, 4097, u32::MAX].map(|bytes| request.check_payload(bytes).is_ok())
        };
        assert_eq!(taken(&raw), [false, false, false, true, false, false]);
        for codec in Codec::ALL {
            let packed = raw.clone().packed(codec);
            assert_eq!(WriteRequest::decode_head(&packed.encode_head()).unwrap(), packed);
            assert_eq!(taken(&packed), [false, true, true, false, false, false]);
        }
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
