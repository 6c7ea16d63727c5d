//! Frame headers: what decodes encodes to the same bytes, and is within its bound.
#![no_main]

use lacuna_transport::wire::frame::{Code, HEADER_BYTES, Header, Sender};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; HEADER_BYTES]| {
    for sender in [Sender::Client, Sender::Server] {
        if let Ok(header) = Header::decode(&bytes, sender) {
            assert_eq!(header.encode(), bytes);
            let bytes_max = match (sender, header.code) {
                (Sender::Client, _) => header.kind.request_bytes_max(),
                (Sender::Server, Code::Failed(_)) => 512,
                (Sender::Server, _) => header.kind.reply_bytes_max(),
            };
            assert!(header.body_bytes <= bytes_max);
        }
    }
});
