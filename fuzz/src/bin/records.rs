//! Records: bytes are judged the same in one piece and cut in two, and no more comes out than a volume holds.
#![no_main]

use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::records::{Decoder, Piece, RecordError};
use libfuzzer_sys::fuzz_target;

/// The logical bytes, the bytes of data, and the verdict.
fn run(pieces: &[&[u8]]) -> (u64, Vec<u8>, Result<(), RecordError>) {
    let mut decoder = Decoder::default();
    let mut data = Vec::new();
    for mut input in pieces.iter().copied() {
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Piece::Data(bytes))) => data.extend_from_slice(bytes),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return (decoder.position(), data, Err(error)),
            }
        }
        assert!(input.is_empty());
    }
    (decoder.position(), data, decoder.finish())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    let (front, back) = stream.split_at(usize::from(cut).min(stream.len()));
    let whole = run(&[stream]);
    assert!(whole.0 <= VOLUME_BYTES_MAX);
    assert!(whole.1.len() <= stream.len());
    assert_eq!(run(&[front, back]), whole);
});
