//! Reads: what decodes encodes to the same bytes, and asks for no more than one reply may carry.
#![no_main]

use lacuna_transport::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use lacuna_transport::wire::read::ReadRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = ReadRequest::decode(body) {
        assert_eq!(request.encode(), body);
        assert!(request.bytes() <= READ_BYTES_MAX && request.ranges().len() <= READ_RANGES_MAX);
        assert_eq!(
            request.ranges().iter().map(|range| range.len()).sum::<u64>(),
            u64::from(request.bytes())
        );
    }
});
