//! Packing and unpacking, also of what a hostile peer sends.

use proptest::prelude::*;

use super::*;

/// Bytes of splitmix64: nothing packs them.
fn random(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn text(len: usize) -> Vec<u8> {
    let lines = (0..).map(|n| format!("{n}: the quick brown fox jumps over the lazy dog\n"));
    lines.flat_map(String::into_bytes).take(len).collect()
}

fn unpacked(codec: Codec, packed: &[u8], len: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0xee; len];
    Contexts::default().unpack(codec, packed, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn what_shrinks_comes_back_the_same() {
    let contexts = Contexts::default();
    for codec in Codec::ALL {
        for len in [PACK_BYTES_MIN, 4096, 65_535, 65_536, 1 << 20] {
            let bytes = text(len);
            let packed = contexts.pack(codec, &[&bytes]).unwrap();
            assert!(packed.len() < len / 2, "{codec:?}: {} of {len}", packed.len());
            assert!(
                unpacked(codec, &packed, len).unwrap() == bytes,
                "{codec:?}: {len}"
            );
            // In pieces of any length, also empty ones, it is the same payload.
            let (first, rest) = bytes.split_at(len / 3);
            let pieces = [first, b"", &rest[..1], &rest[1..]];
            assert!(
                contexts.pack(codec, &pieces).unwrap() == packed,
                "{codec:?}: {len}"
            );
        }
    }
}

#[test]
fn what_does_not_shrink_enough_is_left_alone() {
    let contexts = Contexts::default();
    for codec in Codec::ALL {
        let none: [&[u8]; 0] = [];
        assert_eq!(contexts.pack(codec, &none), None);
        for len in [1, PACK_BYTES_MIN, 1 << 20] {
            assert_eq!(contexts.pack(codec, &[random(len)]), None, "{codec:?}: {len}");
        }
        // All but a 32nd of it is random: shorter, but not by enough.
        let mut bytes = random(1 << 20);
        bytes.resize((1 << 20) + (1 << 15), 0);
        assert_eq!(contexts.pack(codec, &[&bytes]), None, "{codec:?}");
        bytes.resize((1 << 20) + (1 << 18), 0);
        assert!(contexts.pack(codec, &[&bytes]).is_some(), "{codec:?}");
    }
}

#[test]
fn samples_tell_what_shrinks() {
    let contexts = Contexts::default();
    let (text, random) = (text(1 << 20), random(1 << 20));
    for codec in Codec::ALL {
        assert!(contexts.sample_shrinks(codec, &[&text]), "{codec:?}");
        assert!(!contexts.sample_shrinks(codec, &[&random]), "{codec:?}");
        let halves = [&random[..1 << 19], &text[..1 << 19]];
        assert!(contexts.sample_shrinks(codec, &halves), "{codec:?}: one half");
    }
    assert_eq!(
        sample_of(&[&text[..1 << 18], &text[1 << 18..]]),
        sample_of(&[&text])
    );
    assert_eq!(sample_of(&[&text]).len(), 2 * SAMPLE_BYTES);
}

/// One byte of output more than there is room for, one less, a part of the input, garbage: an error each.
#[test]
fn other_lengths_are_refused() {
    let bytes = text(100_000);
    for codec in Codec::ALL {
        let packed = Contexts::default().pack(codec, &[&bytes]).unwrap();
        for len in [0, 1, bytes.len() - 1, bytes.len() + 1, 1 << 20] {
            let error = unpacked(codec, &packed, len).unwrap_err().to_string();
            assert!(error.contains(codec.word()), "{error}");
        }
        for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
            assert!(
                unpacked(codec, &packed[..cut], bytes.len()).is_err(),
                "{codec:?}: {cut}"
            );
        }
        assert!(unpacked(codec, &random(5000), bytes.len()).is_err(), "{codec:?}");
    }
}

/// A gibibyte in a few KiB: it ends where the room does.
#[test]
fn a_bomb_is_refused() {
    let zeros = vec![0; 1 << 20];
    let frame = Contexts::default().pack(Codec::Zstd, &[&zeros]).unwrap();
    assert!(frame.len() < 200, "{} bytes for a MiB of zeros", frame.len());
    assert!(unpacked(Codec::Zstd, &frame.repeat(1024), 1 << 20).is_err());
    // One literal, then a match of it that is a gibibyte long.
    let mut block = vec![0x1f, 0, 1, 0];
    block.resize(4 + (1 << 22), 0xff);
    block.extend([0, 0]);
    assert!(unpacked(Codec::Lz4, &block, 1 << 20).is_err());
}

/// What was in the memory before, maybe of another client, cannot be referred to.
#[test]
fn nothing_from_before_shows() {
    for (offset, what) in [
        (0_u16, "itself"),
        (2, "before the start"),
        (u16::MAX, "far before"),
    ] {
        // One literal, a match at that distance of what is there, and five literals to end with.
        let mut block = vec![0x1f, 7];
        block.extend_from_slice(&offset.to_le_bytes());
        block.extend([75, 0x50, 1, 2, 3, 4, 5]);
        assert!(unpacked(Codec::Lz4, &block, 100).is_err(), "{what}");
        let good = [&block[..2], &[1, 0], &block[4..]].concat();
        let bytes = unpacked(Codec::Lz4, &good, 100).unwrap();
        assert!(bytes[..95].iter().all(|byte| *byte == 7));
    }
}

#[test]
fn kept_contexts_are_bounded() {
    let contexts = Contexts::default();
    nested(&contexts, 2 * KEPT_MAX);
    assert_eq!(contexts.unused.lock().len(), KEPT_MAX);
}

fn nested(contexts: &Contexts, depth: usize) {
    if depth > 0 {
        contexts.with(|_| nested(contexts, depth - 1));
    }
}

proptest! {
    #[test]
    fn any_payload_comes_back(
        runs in prop::collection::vec((any::<u8>(), any::<bool>(), 1..3000_usize), 1..12),
    ) {
        let noise = random(3000);
        let pieces: Vec<_> = runs
            .into_iter()
            .map(|(byte, noisy, len)| if noisy { noise[..len].to_vec() } else { vec![byte; len] })
            .collect();
        let bytes = pieces.concat();
        for codec in Codec::ALL {
            if let Some(packed) = Contexts::default().pack(codec, &pieces) {
                prop_assert!(packed.len() <= bytes.len() - bytes.len() / SHRINK_FRACTION);
                prop_assert_eq!(&unpacked(codec, &packed, bytes.len()).unwrap(), &bytes);
            }
        }
    }

    #[test]
    fn any_bytes_unpack_or_do_not(packed: Vec<u8>, len in 0..5000_usize) {
        for codec in Codec::ALL {
            if let Ok(bytes) = unpacked(codec, &packed, len) {
                prop_assert_eq!(bytes.len(), len);
            }
        }
    }
}
