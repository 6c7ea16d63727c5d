//! The body of a read, fixed little-endian.
//!
//! ```text
//! request:  handle u64 | count u16 | count × ( offset u64 | length u32 ) | offer u8, if the top bit of count is set
//! reply:    base u64 | codec u8, if there was an offer | payload: the ranges in the order asked, nothing between them
//! ```
//!
//! The payload is packed only with a codec of the offer. A good reply has exactly the bytes asked for: what lies beyond the end of the volume is zero.
//! The base (see [`crate::attr::Attr::base`]) is one that the bytes are not older than: if somebody else
//! changed the volume while they were read, the server reads again, and if it never stands still it names the
//! base from before, so that the client asks once more instead of keeping them.

use super::WireError;
use super::codec::{self, Codec, Offer};
use super::ranges::{self, Bounds};
use crate::id::{Generation, Handle};
use crate::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use crate::range::ByteRange;

const BOUNDS: Bounds = Bounds {
    ranges_max: READ_RANGES_MAX,
    bytes_max: READ_BYTES_MAX,
    flags: 0,
};

/// Most bytes of a request body.
pub const REQUEST_BYTES_MAX: u32 = BOUNDS.encoded_bytes_max();

/// Most bytes in front of the payload of a reply.
pub const REPLY_HEAD_BYTES_MAX: u32 = 9;

/// A checked read: 1 to [`READ_RANGES_MAX`] ranges, none empty, [`READ_BYTES_MAX`] bytes at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub handle: Handle,
    ranges: Vec<ByteRange>,
    bytes: u32,
    offer: Option<Offer>,
}

impl ReadRequest {
    pub fn new(handle: Handle, ranges: Vec<ByteRange>) -> Result<Self, WireError> {
        let bytes = BOUNDS.check(&ranges)?;
        Ok(Self {
            handle,
            ranges,
            bytes,
            offer: None,
        })
    }

    /// The same read, with an offer of how the payload of its reply may be packed.
    #[must_use]
    pub fn offering(self, offer: Option<Offer>) -> Self {
        Self { offer, ..self }
    }

    pub fn offer(&self) -> Option<Offer> {
        self.offer
    }

    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Payload bytes of the reply, once unpacked.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    pub fn encode(&self) -> Vec<u8> {
        ranges::encode(self.handle, &self.ranges, self.offer.map(Offer::encode), 0)
    }

    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let list = BOUNDS.decode(body)?;
        let offer = list.tail.map(Offer::decode).transpose()?;
        Ok(Self::new(list.handle, list.ranges)?.offering(offer))
    }

    /// Bytes in front of the payload of the reply.
    pub fn reply_head_bytes(&self) -> usize {
        8 + usize::from(self.offer.is_some())
    }

    /// The head of the reply. Without an offer there is no codec.
    pub fn encode_reply_head(&self, base: Generation, codec: Option<Codec>) -> Vec<u8> {
        debug_assert!(codec.is_none_or(|codec| self.offer.is_some_and(|offer| offer.contains(codec))));
        let mut head = base.0.to_le_bytes().to_vec();
        head.extend(self.offer.map(|_| codec.map_or(0, Codec::number)));
        head
    }

    /// Decodes the head of the reply, which has [`Self::reply_head_bytes`], and checks that `payload_bytes` can
    /// follow it.
    pub fn decode_reply_head(
        &self,
        head: &[u8],
        payload_bytes: u32,
    ) -> Result<(Generation, Option<Codec>), WireError> {
        let (base, tail) = head.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
        let codec = match (self.offer, tail) {
            (None, []) | (Some(_), [0]) => None,
            (Some(offer), [number]) => {
                let codec = Codec::try_from(*number)?;
                let offered = offer.contains(codec).then_some(codec);
                Some(offered.ok_or(WireError::OutOfBounds("codec of a read reply"))?)
            }
            _ => return Err(WireError::OutOfBounds("head of a read reply")),
        };
        if !codec::is_length(codec, self.bytes, payload_bytes) {
            return Err(WireError::OutOfBounds("length of a read reply"));
        }
        Ok((Generation(u64::from_le_bytes(*base)), codec))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::VOLUME_BYTES_MAX;
    use crate::wire::codec::When;

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

    fn offering(codecs: &[Codec]) -> ReadRequest {
        let request = ReadRequest::new(Handle(1), vec![range(0, 4096)]).unwrap();
        request.offering(Offer::new(codecs, When::Always))
    }

    #[test]
    fn a_reply_is_packed_only_as_offered() {
        let plain = offering(&[]);
        let head = plain.encode_reply_head(Generation(9), None);
        assert_eq!(head.len(), plain.reply_head_bytes());
        assert_eq!(
            plain.decode_reply_head(&head, 4096).unwrap(),
            (Generation(9), None)
        );
        let lz4 = offering(&[Codec::Lz4]);
        assert!(lz4.decode_reply_head(&head, 4096).is_err(), "no codec");
        for codec in [None, Some(Codec::Lz4)] {
            let head = lz4.encode_reply_head(Generation(9), codec);
            assert_eq!(head.len(), lz4.reply_head_bytes());
            let good = if codec.is_some() { 4095 } else { 4096 };
            assert_eq!(
                lz4.decode_reply_head(&head, good).unwrap(),
                (Generation(9), codec)
            );
            assert!(plain.decode_reply_head(&head, good).is_err(), "no offer");
        }
        let zstd = offering(&[Codec::Zstd]).encode_reply_head(Generation(9), Some(Codec::Zstd));
        assert!(lz4.decode_reply_head(&zstd, 100).is_err(), "not offered");
    }

    #[test]
    fn lengths_of_replies_are_bounded() {
        let request = offering(&Codec::ALL);
        let taken = |codec, payload_bytes| {
            let head = request.encode_reply_head(Generation(9), codec);
            request.decode_reply_head(&head, payload_bytes).is_ok()
        };
        assert_eq!(
            [0, 4095, 4096, 4097].map(|bytes| taken(None, bytes)),
            [false, false, true, false]
        );
        let packed = |bytes| taken(Some(Codec::Zstd), bytes);
        assert_eq!(
            [0, 1, 4095, 4096, u32::MAX].map(packed),
            [false, true, true, false, false]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(body: Vec<u8>) {
            if let Ok(request) = ReadRequest::decode(&body) {
                prop_assert_eq!(request.encode(), body);
            }
        }

        #[test]
        fn what_is_encoded_decodes(
            ranges in prop::collection::vec((0..1_u64 << 40, 1..4096_u64), 1..READ_RANGES_MAX),
            offer: u8,
        ) {
            let ranges = ranges.into_iter().map(|(start, len)| range(start, len)).collect();
            let request = ReadRequest::new(Handle(7), ranges).unwrap().offering(Offer::decode(offer).ok());
            prop_assert_eq!(ReadRequest::decode(&request.encode()).unwrap(), request);
        }
    }
}
