//! Reads: what decodes encodes to the same bytes, and asks for no more than one reply may carry. The rest of the input
//! is the head of a reply.
#![no_main]

use lacuna_transport::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use lacuna_transport::wire::read::ReadRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u32, Vec<u8>)| {
    let (head, payload_bytes, body) = input;
    if let Ok(request) = ReadRequest::decode(&body) {
        if let Ok((base, codec)) = request.decode_reply_head(head, payload_bytes) {
            assert_eq!(request.encode_reply_head(base, codec), head);
            assert!(payload_bytes <= request.bytes());
        }
        assert_eq!(request.encode(), body);
        assert!(request.bytes() <= READ_BYTES_MAX && request.ranges().len() <= READ_RANGES_MAX);
        assert_eq!(
            request.ranges().iter().map(|range| range.len()).sum::<u64>(),
            u64::from(request.bytes())
        );
    }
});
