//! Digests against the hash of the whole, at every border and with holes anywhere.

use blake3::hazmat::{Mode, merge_subtrees_root};
use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;

/// Bytes that differ from unit to unit, with no zeros in them.
fn noise(size: u64) -> Vec<u8> {
    let bytes = 0..size;
    bytes
        .map(|at| u8::try_from(at % 251 + at / UNIT_BYTES % 4 + 1).unwrap())
        .collect()
}

fn in_order(kind: DigestKind, bytes: &[u8]) -> Digest {
    let mut digest = InOrder::new(kind);
    digest.data(bytes);
    assert_eq!(digest.size(), bytes_of(bytes.len()));
    digest.finish()
}

fn slice(bytes: &[u8], range: ByteRange) -> &[u8] {
    let at = |offset| usize::try_from(offset).unwrap();
    &bytes[at(range.start())..at(range.end())]
}

/// Units of zeros are left out or set, by turns.
fn by_units(kind: DigestKind, bytes: &[u8]) -> Digest {
    let mut tree = Tree::new(kind, bytes_of(bytes.len()));
    let units = tree.units();
    for index in 0..units.count() {
        let unit = slice(bytes, units.range(index));
        if unit.iter().any(|byte| *byte != 0) || index % 2 == 0 {
            tree.set(index, units.leaf(index, unit));
        }
    }
    tree.finish()
}

/// The tree as the module describes it, top down.
fn naive_tree(bytes: &[u8]) -> [u8; 32] {
    fn node(bytes: &[u8]) -> [u8; 32] {
        let unit = usize::try_from(UNIT_BYTES).unwrap();
        if bytes.len() <= unit {
            return *blake3::hash(bytes).as_bytes();
        }
        let units = bytes.len().div_ceil(unit);
        let (left, right) = bytes.split_at(units.next_power_of_two() / 2 * unit);
        let both = [node(left), node(right)].concat();
        blake3::derive_key("lacuna volume digest, version 1, 64 KiB units: node", &both)
    }
    let mut root = bytes_of(bytes.len()).to_le_bytes().to_vec();
    root.extend_from_slice(&node(bytes));
    blake3::derive_key("lacuna volume digest, version 1, 64 KiB units: root", &root)
}

fn expected(kind: DigestKind, bytes: &[u8]) -> Digest {
    let bytes = match kind {
        DigestKind::Blake3 => *blake3::hash(bytes).as_bytes(),
        DigestKind::Tree => naive_tree(bytes),
    };
    Digest { kind, bytes }
}

#[test]
fn every_border_is_as_the_whole() {
    let mut sizes = vec![0, 1, 63, 64, 65, KIB - 1, KIB, KIB + 1, 2 * KIB, 3 * KIB + 7];
    for units in [1, 2, 3, 4, 5, 8, 9] {
        let border = units * UNIT_BYTES;
        sizes.extend([border - 1, border, border + 1, border + KIB]);
    }
    let bytes = noise(*sizes.iter().max().unwrap());
    for size in sizes {
        let bytes = slice(&bytes, ByteRange::up_to(size));
        let zeros = vec![0; bytes.len()];
        for kind in DigestKind::ALL {
            let digest = expected(kind, bytes);
            assert_eq!(in_order(kind, bytes), digest, "{size} bytes in order");
            assert_eq!(by_units(kind, bytes), digest, "{size} bytes by units");
            let mut hole = InOrder::new(kind);
            hole.zeros(size);
            assert_eq!(hole.finish(), expected(kind, &zeros), "{size} zeros in order");
            let tree = Tree::new(kind, size);
            assert_eq!(tree.finish(), expected(kind, &zeros), "{size} zeros by units");
        }
    }
}

/// Why what `b3sum` shows costs the length of every hole: no two of its zeros are alike.
#[test]
fn zeros_at_another_offset_are_not_the_same_to_blake3() {
    let chained = |offset, len| {
        let mut hasher = UnitHasher::new(Hashing::Chained, offset);
        hasher.zeros(len);
        hasher.finish()
    };
    for len in [KIB, UNIT_BYTES] {
        let (first, second) = (chained(0, len), chained(len, len));
        assert_ne!(first, second);
        let whole = in_order(DigestKind::Blake3, &vec![0; usize::try_from(2 * len).unwrap()]);
        let root = |right| *merge_subtrees_root(&first, right, Mode::Hash).as_bytes();
        assert_eq!(root(&second), whole.bytes);
        assert_ne!(
            root(&first),
            whole.bytes,
            "a zero subtree cannot stand for another"
        );
    }
    let units = Units::new(DigestKind::Tree, 4 * UNIT_BYTES);
    assert_eq!(
        units.zero_leaf(0),
        units.zero_leaf(3),
        "in the tree of ours it can"
    );
}

#[test]
fn eight_tebibytes_of_holes_cost_a_handful_of_nodes() {
    let size = 8 << 40;
    let mut tree = Tree::new(DigestKind::Tree, size);
    let units = tree.units();
    assert_eq!(units.count(), 8 << 24);
    let data = noise(UNIT_BYTES);
    let places = [0, 1, 77_777, 4 << 24, (8 << 24) - 1];
    for index in places {
        tree.set(index, units.leaf(index, &data));
    }
    let mut fold = tree.into_fold();
    let digest = fold.finish(size);
    // 27 levels: once for the zeros of each, and twice beside the way up from each unit of data.
    assert!(fold.joins <= 27 + 5 * 2 * 27, "{} nodes were joined", fold.joins);

    let mut in_order = InOrder::new(DigestKind::Tree);
    let mut at = 0;
    for index in places {
        in_order.zeros((index - at) * UNIT_BYTES);
        in_order.data(&data);
        at = index + 1;
    }
    assert_eq!(in_order.finish(), digest);
}

#[test]
fn size_and_kind_are_part_of_a_digest() {
    let digests: Vec<_> = [0, 1, UNIT_BYTES, UNIT_BYTES + 1, 2 * UNIT_BYTES]
        .into_iter()
        .flat_map(|size| DigestKind::ALL.map(|kind| Tree::new(kind, size).finish()))
        .collect();
    for (index, digest) in digests.iter().enumerate() {
        assert!(!digests[..index].contains(digest));
    }
}

#[test]
fn digests_are_as_they_were() {
    // The first is what `b3sum` prints for an empty file.
    let pinned = [
        (
            in_order(DigestKind::Blake3, b""),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        ),
        (
            in_order(DigestKind::Tree, b""),
            "tree:9e81ff72f5e3607a6f7ab1d1f811d7ad246cd698bfb2ecf4326faf19acff6e8b",
        ),
        (
            Tree::new(DigestKind::Tree, 3 << 40).finish(),
            "tree:f9f3ea527af545d1091fa64510ef6eb0bc8a273ba24834b5ab426ce1aad36679",
        ),
    ];
    for (digest, text) in pinned {
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
    }
}

#[test]
fn what_is_no_digest_is_refused() {
    let digits = "0123456789abcdef".repeat(4);
    assert!(format!("tree:{digits}").parse::<Digest>().is_ok());
    assert!(
        format!("blake3:{}", digits.to_uppercase())
            .parse::<Digest>()
            .is_ok()
    );
    for text in [
        digits.clone(),
        format!("sha256:{digits}"),
        format!("tree:{digits}0"),
        format!("tree:{}", &digits[1..]),
        format!("tree:{}g", &digits[1..]),
        format!("tree:{}é", &digits[2..]),
        "tree".to_owned(),
        String::new(),
    ] {
        assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text:?} was taken");
    }
    assert_eq!("tree".parse(), Ok(DigestKind::Tree));
    assert!("Tree".parse::<DigestKind>().is_err());
}

/// A volume in pieces: how long each is, and whether it is zeros.
fn pieces() -> impl Strategy<Value = Vec<(u64, bool)>> {
    let len = prop_oneof![
        1..5000_u64,
        UNIT_BYTES - 2..UNIT_BYTES + 3,
        0..3 * UNIT_BYTES,
        Just(UNIT_BYTES),
        Just(2 * UNIT_BYTES),
    ];
    prop::collection::vec((len, any::<bool>()), 0..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn holes_and_cuts_make_no_difference(pieces in pieces()) {
        let size = pieces.iter().map(|(len, _)| len).sum();
        let noise = noise(size);
        for kind in DigestKind::ALL {
            let (mut holes, mut zeros) = (InOrder::new(kind), InOrder::new(kind));
            let mut bytes = Vec::new();
            for (len, hole) in &pieces {
                let piece = ByteRange::at(bytes_of(bytes.len()), *len).unwrap();
                if *hole {
                    bytes.resize(bytes.len() + usize::try_from(*len).unwrap(), 0);
                    holes.zeros(*len);
                } else {
                    bytes.extend_from_slice(slice(&noise, piece));
                    holes.data(slice(&noise, piece));
                }
                zeros.data(slice(&bytes, piece));
            }
            let digest = expected(kind, &bytes);
            prop_assert_eq!(holes.finish(), digest);
            prop_assert_eq!(zeros.finish(), digest);
            prop_assert_eq!(by_units(kind, &bytes), digest);
        }
    }

    #[test]
    fn units_of_any_size_are_hashed_each(pieces in pieces(), log2 in UNIT_LOG2_MIN..=UNIT_LOG2_MAX, skipped in 0..3_u64) {
        let unit = 1 << log2;
        for how in [Hashing::Plain, Hashing::Chained] {
            let mut in_units = InUnits::new(how, skipped * unit, unit);
            let mut bytes = Vec::new();
            for (len, hole) in &pieces {
                let piece = if *hole { vec![0; usize::try_from(*len).unwrap()] } else { noise(*len) };
                if *hole { in_units.zeros(*len) } else { in_units.data(&piece) }
                bytes.extend_from_slice(&piece);
            }
            let hashes = in_units.finish();
            prop_assert_eq!(bytes_of(hashes.len()), bytes_of(bytes.len()).div_ceil(unit));
            let units = bytes.chunks(usize::try_from(unit).unwrap());
            for (index, (hash, bytes)) in (skipped..).zip(hashes.iter().zip(units)) {
                let mut hasher = UnitHasher::new(how, index * unit);
                hasher.data(bytes);
                prop_assert_eq!(*hash, hasher.finish());
            }
        }
    }

    #[test]
    fn a_unit_in_pieces_is_the_unit(cut in 0..=UNIT_BYTES, index in 0..4_u64) {
        let bytes = noise(UNIT_BYTES);
        let (front, back) = bytes.split_at(usize::try_from(cut).unwrap());
        for kind in DigestKind::ALL {
            let units = Units::new(kind, 4 * UNIT_BYTES);
            let mut hasher = units.hasher(index);
            hasher.data(front);
            hasher.data(back);
            prop_assert_eq!(hasher.finish(), units.leaf(index, &bytes));
        }
    }
}
