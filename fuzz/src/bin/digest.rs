//! Digests: a request that is taken keeps its bounds, and a reply that decodes encodes to the same bytes.
#![no_main]

use lacuna_transport::limits::{DIGEST_BYTES_MAX, DIGEST_UNITS_MAX};
use lacuna_transport::wire::digest::{DigestRequest, REPLY_BYTES_MAX, decode_reply, encode_reply};
use lacuna_transport::wire::message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (units, bytes) = input;
    if let Ok(request) = message::decode::<DigestRequest>(&bytes) {
        assert!((1..=DIGEST_UNITS_MAX).contains(&request.units()));
        assert!(request.range().len() <= DIGEST_BYTES_MAX);
        assert!(8 + 32 * request.units() <= u64::from(REPLY_BYTES_MAX));
        let encoded = message::encode(&request);
        assert_eq!(
            message::decode::<DigestRequest>(&encoded).expect("what was encoded decodes"),
            request
        );
    }
    if let Ok((base, hashes)) = decode_reply(&bytes, u64::from(units)) {
        assert_eq!(encode_reply(base, &hashes), bytes);
    }
});
