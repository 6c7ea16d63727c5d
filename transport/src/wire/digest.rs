//! The hashes of units of a volume: the request is a message, the reply is fixed little-endian.
//!
//! ```text
//! reply:    base u64 | one hash of 32 bytes for each unit of the range, in order
//! ```
//!
//! Units count from `origin`, the start of what a digest is of, and only the last one may be short. What
//! lies beyond the end of the volume is zero. The base is as that of a read (see [`super::read`]): one that the
//! hashed bytes are not older than.

use minicbor::{Decode, Encode};

use super::WireError;
use super::message::Message;
use crate::digest::{Hashing, UNIT_LOG2_MAX, UNIT_LOG2_MIN, UnitHash};
use crate::id::{Generation, Handle};
use crate::limits::{DIGEST_BYTES_MAX, DIGEST_UNITS_MAX, VOLUME_BYTES_MAX};
use crate::range::ByteRange;

const HEAD_BYTES: usize = 8;
const HASH_BYTES: usize = 32;

/// Most bytes of a reply.
#[expect(clippy::as_conversions, reason = "a small constant, checked when compiled")]
pub const REPLY_BYTES_MAX: u32 = {
    assert!(DIGEST_UNITS_MAX <= 1 << 15);
    (HEAD_BYTES + HASH_BYTES * DIGEST_UNITS_MAX as usize) as u32
};

/// `Digest`: 1 to [`DIGEST_UNITS_MAX`] units, [`DIGEST_BYTES_MAX`] bytes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DigestRequest {
    #[n(0)]
    pub handle: Handle,
    /// Where units are counted from: 0, or the start of the range that is looked at as a file.
    #[n(1)]
    pub origin: u64,
    /// The first byte of a unit.
    #[n(2)]
    pub start: u64,
    #[n(3)]
    pub end: u64,
    /// A unit is 2 to the power of this: [`UNIT_LOG2_MIN`] to [`UNIT_LOG2_MAX`].
    #[n(4)]
    pub unit_log2: u8,
    #[n(5)]
    pub how: Hashing,
}

impl DigestRequest {
    pub const fn unit_bytes(&self) -> u64 {
        1 << self.unit_log2
    }

    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end).unwrap_or(ByteRange::EMPTY)
    }

    /// Hashes of the reply.
    pub fn units(&self) -> u64 {
        self.range().len().div_ceil(self.unit_bytes())
    }

    /// Where the range begins in what the digest is of.
    pub fn offset(&self) -> u64 {
        self.start.saturating_sub(self.origin)
    }
}

impl Message for DigestRequest {
    fn check(&self) -> Result<(), WireError> {
        let within = |holds: bool, what| holds.then_some(()).ok_or(WireError::OutOfBounds(what));
        let sizes = UNIT_LOG2_MIN..=UNIT_LOG2_MAX;
        within(sizes.contains(&self.unit_log2), "size of a unit")?;
        let ordered = self.origin <= self.start && self.start < self.end;
        within(ordered && self.end <= VOLUME_BYTES_MAX, "range to hash")?;
        within(self.offset().is_multiple_of(self.unit_bytes()), "start of a unit")?;
        within(self.range().len() <= DIGEST_BYTES_MAX, "bytes to hash")?;
        within(self.units() <= DIGEST_UNITS_MAX, "units to hash")
    }
}

pub fn encode_reply(base: Generation, hashes: &[UnitHash]) -> Vec<u8> {
    [&base.0.to_le_bytes()[..], hashes.as_flattened()].concat()
}

/// The reply to a request for so many units.
pub fn decode_reply(body: &[u8], units: u64) -> Result<(Generation, Vec<UnitHash>), WireError> {
    let (base, rest) = body.split_first_chunk().ok_or(WireError::Truncated)?;
    let (hashes, left) = rest.as_chunks();
    if !left.is_empty() || u64::try_from(hashes.len()) != Ok(units) {
        return Err(WireError::OutOfBounds("length of a digest reply"));
    }
    Ok((Generation(u64::from_le_bytes(*base)), hashes.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT_BYTES: u64 = 1 << UNIT_LOG2_MAX;

    fn request(origin: u64, start: u64, end: u64, unit_log2: u8) -> DigestRequest {
        DigestRequest {
            handle: Handle(1),
            origin,
            start,
            end,
            unit_log2,
            how: Hashing::Plain,
        }
    }

    #[test]
    fn bounds_are_exact() {
        let taken = |request: DigestRequest| request.check().is_ok();
        for (bytes_max, log2) in [(DIGEST_UNITS_MAX << 12, 12), (DIGEST_BYTES_MAX, 20)] {
            assert!(taken(request(0, 0, bytes_max, log2)));
            assert!(!taken(request(0, 0, bytes_max + 1, log2)));
        }
        for (log2, good) in [
            (0, false),
            (11, false),
            (12, true),
            (20, true),
            (21, false),
            (255, false),
        ] {
            assert_eq!(taken(request(0, 0, 1, log2)), good, "units of 2^{log2} bytes");
        }
        let odd = UNIT_BYTES + 7;
        assert!(taken(request(odd, odd, odd + 1, 20)));
        assert!(taken(request(
            odd,
            odd + 2 * UNIT_BYTES,
            odd + 3 * UNIT_BYTES,
            20
        )));
        assert!(!taken(request(odd, 2 * UNIT_BYTES, 3 * UNIT_BYTES, 20)));
        assert!(!taken(request(odd, odd - 1, odd, 20)), "before the first unit");
        assert!(!taken(request(0, 0, 0, 20)), "no unit");
        assert!(!taken(request(0, UNIT_BYTES, 0, 20)), "backwards");
        let last = VOLUME_BYTES_MAX / UNIT_BYTES * UNIT_BYTES;
        assert!(taken(request(0, last, VOLUME_BYTES_MAX, 20)));
        assert!(!taken(request(0, last, VOLUME_BYTES_MAX + 1, 20)));
    }

    #[test]
    fn replies_have_a_hash_for_each_unit() {
        let hashes = [[1; 32], [2; 32]];
        let body = encode_reply(Generation(9), &hashes);
        assert_eq!(decode_reply(&body, 2).unwrap(), (Generation(9), hashes.to_vec()));
        for units in [0, 1, 3, u64::MAX] {
            assert!(decode_reply(&body, units).is_err(), "taken for {units} units");
        }
        for length in 0..body.len() {
            assert!(
                decode_reply(&body[..length], 2).is_err(),
                "{length} bytes were taken"
            );
        }
        assert!(decode_reply(&[&body[..], &[0]].concat(), 2).is_err());
    }

    proptest! {
        #[test]
        fn what_is_taken_has_a_reply_within_its_bound(origin: u64, skip in 0..9_u64, len in 0..DIGEST_BYTES_MAX + 9, log2: u8) {
            let start = origin.saturating_add(skip << log2.min(20));
            let request = request(origin, start, start.saturating_add(len), log2);
            if request.check().is_ok() {
                let bytes = 8 + 32 * request.units();
                prop_assert!(request.units() > 0 && bytes <= u64::from(REPLY_BYTES_MAX));
            }
        }

        #[test]
        fn any_reply_decodes_to_what_encodes_to_it(body: Vec<u8>, units in 0..4_u64) {
            if let Ok((base, hashes)) = decode_reply(&body, units) {
                prop_assert_eq!(encode_reply(base, &hashes), body);
            }
        }
    }
}
