//! Packed payloads: any bytes unpack to exactly as much as was announced, or not at all; what is packed comes back.
#![no_main]

use lacuna_transport::compression::Contexts;
use lacuna_transport::wire::codec::Codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (announced, bytes) = input;
    let contexts = Contexts::default();
    for codec in Codec::ALL {
        let mut unpacked = vec![0; usize::from(announced)];
        // Fills all of it or fails; memory beyond it is out of reach.
        let first = contexts.unpack(codec, &bytes, &mut unpacked);
        let mut again = vec![0xff; usize::from(announced)];
        let second = contexts.unpack(codec, &bytes, &mut again);
        assert_eq!(first.is_ok(), second.is_ok());
        if first.is_ok() {
            assert_eq!(unpacked, again, "what was in the memory before shows");
        }
        if let Some(packed) = contexts.pack(codec, &[&bytes]) {
            assert!(packed.len() < bytes.len());
            let mut back = vec![0; bytes.len()];
            contexts
                .unpack(codec, &packed, &mut back)
                .expect("it was packed here");
            assert_eq!(back, bytes);
        }
    }
});
