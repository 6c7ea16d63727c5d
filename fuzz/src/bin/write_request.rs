//! Writes: what decodes encodes to the same bytes, in order and within the bounds of one request.
#![no_main]

use lacuna_transport::limits::{WRITE_BYTES_MAX, WRITE_RANGES_MAX};
use lacuna_transport::wire::write::{HEAD_BYTES, WriteRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| {
    if let Some((fixed, ranges)) = head.split_first_chunk::<HEAD_BYTES>() {
        let decoded = WriteRequest::decode_head(head);
        if WriteRequest::ranges_bytes(fixed).ok() != Some(ranges.len()) {
            assert!(decoded.is_err());
        }
    }
    if let Ok(request) = WriteRequest::decode_head(head) {
        assert_eq!(request.encode_head(), head);
        assert!(request.check_payload(request.bytes()).is_ok() == request.codec().is_none());
        assert!(request.check_payload(request.bytes() + 1).is_err());
        assert!(request.bytes() <= WRITE_BYTES_MAX && request.ranges().len() <= WRITE_RANGES_MAX);
        assert!(
            request
                .ranges()
                .windows(2)
                .all(|pair| pair[0].end() <= pair[1].start())
        );
        assert_eq!(
            request.ranges().iter().map(|range| range.len()).sum::<u64>(),
            u64::from(request.bytes())
        );
    }
});
