//! Against an array of bytes for each owner.

use proptest::prelude::*;

use super::*;

const CELLS: u64 = 12;
const OWNERS: u8 = 3;

/// What each owner has of each byte.
type Model = Vec<Vec<Option<LockKind>>>;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

fn cells(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}

fn kinds() -> impl Strategy<Value = Option<LockKind>> {
    prop_oneof![
        Just(None),
        Just(Some(LockKind::Shared)),
        Just(Some(LockKind::Exclusive))
    ]
}

fn ranges() -> impl Strategy<Value = ByteRange> {
    (0..CELLS, 1..=CELLS).prop_map(|(start, len)| range(start, (start + len).min(CELLS)))
}

fn conflicts(model: &Model, owner: u8, range: ByteRange, kind: LockKind) -> bool {
    (0..).zip(model).any(|(other, cells_of)| {
        other != owner
            && cells_of[cells(range)]
                .iter()
                .flatten()
                .any(|held| *held == LockKind::Exclusive || kind == LockKind::Exclusive)
    })
}

proptest! {
    #[test]
    fn equals_an_array(
        steps in prop::collection::vec((0..OWNERS, ranges(), kinds(), 0..2_u8), 1..60),
        held_max in 3_usize..40,
    ) {
        let mut map = LockMap::default();
        let mut model: Model = vec![vec![None; usize::try_from(CELLS).unwrap()]; usize::from(OWNERS)];
        for (owner, range, kind, tag) in steps {
            let stands = kind.is_some_and(|kind| conflicts(&model, owner, range, kind));
            prop_assert_eq!(kind.is_some_and(|kind| map.conflict(owner, range, kind).is_some()), stands);
            if stands {
                continue;
            }
            let before = map.clone();
            if map.set_within(owner, range, kind.map(|kind| (kind, tag)), held_max) {
                model[usize::from(owner)][cells(range)].fill(kind);
            } else {
                prop_assert_eq!(&before.held, &map.held);
                prop_assert!(map.len() + 2 > held_max);
            }
            prop_assert!(map.len() <= held_max);
            for (owner, expected) in (0..).zip(&model) {
                let mut found = Vec::new();
                for (piece, lock) in map.pieces(owner, self::range(0, CELLS)) {
                    prop_assert!(!piece.is_empty());
                    found.extend(cells(piece).map(|_| lock.map(|(kind, _)| kind)));
                }
                prop_assert_eq!(&found, expected);
            }
            for held in map.iter() {
                let joins = |other: &&Held<u8, u8>| {
                    (other.owner, other.kind, other.tag) == (held.owner, held.kind, held.tag)
                        && other.range.end() == held.range.start()
                };
                prop_assert!(!held.range.is_empty() && !map.iter().any(|other| joins(&other)));
            }
        }
    }
}

#[test]
fn the_first_conflict_by_offset_is_told() {
    let mut map = LockMap::default();
    map.set(1, range(50, 60), Some((LockKind::Exclusive, ())));
    map.set(1, range(10, 20), Some((LockKind::Shared, ())));
    let found = |start, kind| {
        map.conflict(2, range(start, u64::MAX), kind)
            .map(|held| held.range.start())
    };
    assert_eq!(found(0, LockKind::Exclusive), Some(10));
    assert_eq!(found(0, LockKind::Shared), Some(50));
    assert_eq!(found(60, LockKind::Exclusive), None);
    assert_eq!(map.conflict(1, ByteRange::ALL, LockKind::Exclusive), None);
}

#[test]
fn what_is_given_up_at_once_is_counted() {
    let mut map = LockMap::default();
    map.set(1, range(0, 1), Some((LockKind::Shared, 7)));
    map.set(2, range(0, 1), Some((LockKind::Shared, 8)));
    assert_eq!(map.remove_if(|held| held.tag == 7), 1);
    assert_eq!((map.len(), map.is_empty()), (1, false));
}
