//! The map against a model with one entry for each byte.

use proptest::prelude::*;

use super::*;

const SIZE: usize = 48;

fn range(start: usize, end: usize) -> ByteRange {
    ByteRange::new(start as u64, end as u64).unwrap()
}

fn model_seek(model: &[Known], from: usize, hole: bool) -> Sought {
    for (offset, known) in model.iter().enumerate().skip(from) {
        match known {
            Known::Unknown => return Sought::Unknown(offset as u64),
            Known::Zero | Known::Hole if hole => return Sought::At(offset as u64),
            Known::Data if !hole => return Sought::At(offset as u64),
            Known::Data | Known::Zero | Known::Hole => {}
        }
    }
    if hole && from < model.len() {
        Sought::At(model.len() as u64)
    } else {
        Sought::None
    }
}

proptest! {
    #[test]
    fn equals_a_model_byte_for_byte(
        sets in prop::collection::vec((0..=SIZE, 0..=SIZE, 0..4_u8), 0..30),
    ) {
        let mut map = ExtentMap::new(SIZE as u64);
        let mut model = [Known::Unknown; SIZE];
        for (a, b, kind) in sets {
            let (start, end) = (a.min(b), a.max(b));
            let (kind, known) = match kind {
                0 => (Some(ExtentKind::Data), Known::Data),
                1 => (Some(ExtentKind::Zero), Known::Zero),
                2 => (Some(ExtentKind::Hole), Known::Hole),
                _ => (None, Known::Unknown),
            };
            match kind {
                Some(kind) => map.set(range(start, end), kind),
                None => map.forget(range(start, end)),
            }
            model[start..end].fill(known);
        }
        let mut told = Vec::new();
        for (run, known) in map.known(ByteRange::ALL) {
            prop_assert_eq!(run.start(), told.len() as u64);
            told.extend((run.start()..run.end()).map(|_| known));
        }
        prop_assert_eq!(&told[..], &model[..]);
        for from in 0..=SIZE + 1 {
            prop_assert_eq!(map.seek_data(from as u64), model_seek(&model, from, false), "data from {}", from);
            prop_assert_eq!(map.seek_hole(from as u64), model_seek(&model, from, true), "hole from {}", from);
            let unknown = model.iter().skip(from).position(|known| *known == Known::Unknown);
            prop_assert_eq!(map.first_unknown(from as u64), unknown.map(|index| (index + from) as u64));
        }
    }
}

#[test]
fn zeros_of_our_own_are_shown_as_data_and_those_of_the_server_as_a_hole() {
    let mut map = ExtentMap::new(8192);
    map.set(ByteRange::new(0, 4096).unwrap(), ExtentKind::Zero);
    map.set(ByteRange::new(4096, 8192).unwrap(), ExtentKind::Data);
    map.mark_zero(ByteRange::new(5000, 8192).unwrap());
    let known: Vec<_> = map.known(ByteRange::ALL).map(|(_, known)| known).collect();
    assert_eq!(known, [Known::Zero, Known::Data, Known::Zero]);
    assert_eq!(map.hole_bytes(ByteRange::ALL), 0, "zeros take space");
    assert_eq!(
        (map.seek_hole(0), map.seek_data(0)),
        (Sought::At(0), Sought::At(4096))
    );
    assert_eq!(map.seek_hole(4096), Sought::At(8192));
}

#[test]
fn an_empty_volume_has_neither_data_nor_hole() {
    let map = ExtentMap::new(0);
    assert_eq!(map.seek_data(0), Sought::None);
    assert_eq!(map.seek_hole(0), Sought::None);
    assert_eq!(map.known(ByteRange::ALL).count(), 0);
}

#[test]
fn what_lies_past_the_end_is_enxio() {
    let mut map = ExtentMap::new(10);
    map.set(ByteRange::up_to(10), ExtentKind::Data);
    assert_eq!(map.seek_hole(9), Sought::At(10));
    assert_eq!(map.seek_hole(10), Sought::None);
    assert_eq!(map.seek_data(u64::MAX), Sought::None);
}

#[test]
fn alternating_zeros_do_not_lengthen_a_seek() {
    let mut map = ExtentMap::new(1 << 40);
    map.set(ByteRange::up_to(1 << 40), ExtentKind::Data);
    for index in 0..10_000_u64 {
        let kind = if index % 2 == 0 {
            ExtentKind::Hole
        } else {
            ExtentKind::Zero
        };
        map.set(ByteRange::at(index * 4096, 4096).unwrap(), kind);
    }
    assert_eq!(map.classes.run_count(), 3, "hole, data, and unknown past the end");
    assert_eq!(map.seek_data(0), Sought::At(10_000 * 4096));
}

#[test]
fn extents_fill_the_map() {
    let mut map = ExtentMap::new(8192);
    map.set(ByteRange::new(0, 4096).unwrap(), ExtentKind::Hole);
    map.set(ByteRange::new(4096, 8192).unwrap(), ExtentKind::Data);
    assert_eq!(map.seek_data(0), Sought::At(4096));
    assert_eq!(map.first_unknown(0), None);
}
