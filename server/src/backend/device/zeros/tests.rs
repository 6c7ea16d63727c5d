//! The map against an array of units.

use proptest::prelude::*;

use super::*;

/// Units of a small device, the last one short.
const UNITS: u64 = 200;
const SIZE: u64 = UNITS * UNIT_BYTES_MIN - 512;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

/// In units.
fn units(start: u64, end: u64) -> ByteRange {
    range(start * UNIT_BYTES_MIN, end * UNIT_BYTES_MIN)
}

fn all_zero(size: u64) -> ZeroMap {
    let mut map = ZeroMap::new(size);
    let ticket = map.begin_search(ByteRange::ALL);
    map.end_search(ticket, &[ByteRange::up_to(size)]);
    map
}

fn shown(map: &ZeroMap) -> Vec<(u64, u64, &'static str)> {
    let extents = map.extents(ByteRange::ALL, usize::MAX);
    let shown = extents.iter();
    shown
        .map(|extent| (extent.range.start(), extent.range.end(), extent.kind.word()))
        .collect()
}

#[test]
fn what_is_not_searched_is_data() {
    let map = ZeroMap::new(SIZE);
    assert_eq!(shown(&map), [(0, SIZE, "data")]);
    assert_eq!(map.zero_bytes(), 0);
}

#[test]
fn only_whole_units_are_zero_and_the_last_may_be_short() {
    let mut map = ZeroMap::new(SIZE);
    let ticket = map.begin_search(ByteRange::ALL);
    map.end_search(ticket, &[range(1, 3 * 4096 + 1), range(SIZE - 4000, SIZE)]);
    let last = (UNITS - 1) * 4096;
    assert_eq!(
        shown(&map),
        [
            (0, 4096, "data"),
            (4096, 3 * 4096, "zero"),
            (3 * 4096, last, "data"),
            (last, SIZE, "zero")
        ]
    );
    assert_eq!(map.zero_bytes(), 2 * 4096 + SIZE - last);
    let ticket = map.begin_write(range(SIZE - 1, SIZE));
    map.end(ticket);
    assert_eq!(map.zero_bytes(), 2 * 4096);
}

#[test]
fn a_write_is_data_before_it_ends() {
    let mut map = all_zero(SIZE);
    assert_eq!(shown(&map), [(0, SIZE, "zero")]);
    assert_eq!(map.zero_bytes(), SIZE);
    map.begin_write(range(5000, 5001));
    assert_eq!(
        shown(&map),
        [(0, 4096, "zero"), (4096, 8192, "data"), (8192, SIZE, "zero")]
    );
}

#[test]
fn a_search_takes_no_units_that_were_written_meanwhile() {
    let mut map = ZeroMap::new(SIZE);
    // One write that is under way before and after, one that begins and ends within, one after the end.
    let before = map.begin_write(range(5000, 5001));
    let search = map.begin_search(units(0, 10));
    let within = map.begin_write(units(3, 4));
    map.end(within);
    map.end_search(search, &[units(0, 20)]);
    assert_eq!(
        shown(&map),
        [
            (0, 4096, "zero"),
            (4096, 8192, "data"),
            (8192, 3 * 4096, "zero"),
            (3 * 4096, 4 * 4096, "data"),
            (4 * 4096, 10 * 4096, "zero"),
            (10 * 4096, SIZE, "data"),
        ]
    );
    map.end(before);
    let again = map.begin_search(units(0, 10));
    map.end_search(again, &[units(0, 10)]);
    assert_eq!(shown(&map)[0], (0, 10 * 4096, "zero"));
}

#[test]
fn a_search_that_is_overtaken_too_often_finds_nothing() {
    let mut map = ZeroMap::new(SIZE);
    let search = map.begin_search(units(0, 100));
    for _ in 0..=OVERTAKERS_MAX {
        let write = map.begin_write(units(50, 51));
        map.end(write);
    }
    map.end_search(search, &[units(0, 100)]);
    assert_eq!(shown(&map), [(0, SIZE, "data")]);
}

#[test]
fn a_search_that_failed_changes_nothing() {
    let mut map = ZeroMap::new(SIZE);
    let search = map.begin_search(units(0, 100));
    map.end(search);
    map.end_search(search, &[units(0, 100)]);
    assert_eq!(shown(&map), [(0, SIZE, "data")]);
}

#[test]
fn extents_stop_at_their_bound_and_at_the_end() {
    let mut map = all_zero(SIZE);
    for unit in [1, 70, 130] {
        map.begin_write(units(unit, unit + 1));
    }
    assert_eq!(map.extents(ByteRange::ALL, 3), map.extents(units(0, 70), 9));
    assert_eq!(map.extents(ByteRange::new(SIZE, u64::MAX).unwrap(), 9), []);
    assert_eq!(map.extents(range(5, 5), 9), []);
    let (data, end) = map.data(units(0, 150), 3);
    assert_eq!((data, end), (vec![units(1, 2)], 70 * 4096));
    let (data, end) = map.data(units(0, 150), 99);
    assert_eq!((data.len(), data[2], end), (3, units(130, 131), 150 * 4096));
}

#[test]
fn memory_is_bounded_by_larger_units() {
    for (size, unit_bytes) in [
        (0, 4096),
        (UNITS_MAX * 4096, 4096),
        (UNITS_MAX * 4096 + 512, 8192),
        (16 << 40, 128 << 10),
        (1 << 50, 1 << 20),
    ] {
        let map = ZeroMap::new(size);
        assert_eq!(map.unit_bytes, unit_bytes, "of {size} bytes");
        assert_eq!(map.extents(ByteRange::ALL, 9).len(), usize::from(size > 0));
    }
}

/// Of the model: what the device holds in a unit, and the writes and searches under way.
#[derive(Clone, Debug)]
enum Step {
    BeginWrite(u64, u64),
    BeginZeros(u64, u64),
    BeginSearch(u64, u64),
    EndOldest,
    EndNewest,
}

enum Under {
    Write(Ticket, ByteRange),
    Zeros(Ticket, ByteRange),
    /// With the units that were zero when they were read.
    Search(Ticket, Vec<ByteRange>),
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SIZE, 1..60_000_u64);
    prop_oneof![
        place().prop_map(|(start, len)| Step::BeginWrite(start, len)),
        place().prop_map(|(start, len)| Step::BeginZeros(start, len)),
        place().prop_map(|(start, len)| Step::BeginSearch(start, len)),
        Just(Step::EndOldest),
        Just(Step::EndNewest),
    ]
}

/// Units as the device has them: one is zero if no byte of it was ever written and not zeroed since.
struct Device(Vec<bool>);

impl Device {
    fn touched(range: ByteRange) -> std::ops::Range<usize> {
        let out = range.align_out(4096);
        usize::try_from(out.start() / 4096).unwrap()..usize::try_from(out.end() / 4096).unwrap()
    }

    fn write(&mut self, range: ByteRange) {
        self.0[Self::touched(range)].fill(false);
    }

    /// Units it has a part of stay what they were.
    fn make_zeros(&mut self, whole: ByteRange) {
        self.0[Self::touched(whole)].fill(true);
    }

    fn zeros(&self, range: ByteRange) -> Vec<ByteRange> {
        let units = ByteRange::up_to(SIZE).intersect(range.align_out(4096));
        let starts = (units.start()..units.end()).step_by(4096);
        let zeros = starts.map(|start| ByteRange::at_saturating(start, 4096).intersect(range));
        zeros
            .filter(|unit| self.0[Self::touched(*unit)] == [true])
            .collect()
    }
}

proptest! {
    /// Whatever is under way and in whatever order it ends, what the map calls zero is zero at the device.
    /// A write is at the device at an unknown moment: here it is when it ends and maybe at once; so are zeros.
    #[test]
    fn data_is_never_zero(steps in prop::collection::vec(step(), 0..60), early: bool) {
        let mut map = ZeroMap::new(SIZE);
        let mut device = Device(vec![true; usize::try_from(UNITS).unwrap()]);
        let mut under: Vec<Under> = Vec::new();
        let clip = |start, len| ByteRange::at_saturating(start, len).intersect(ByteRange::up_to(SIZE));
        for step in steps {
            match step {
                Step::BeginWrite(start, len) => {
                    let range = clip(start, len);
                    under.push(Under::Write(map.begin_write(range), range));
                    if early {
                        device.write(range);
                    }
                }
                Step::BeginZeros(start, len) => {
                    let range = clip(start, len);
                    under.push(Under::Zeros(map.begin_search(range), range));
                    if !early {
                        device.make_zeros(map.whole(range));
                    }
                }
                Step::BeginSearch(start, len) => {
                    let range = clip(start, len);
                    let ticket = map.begin_search(range);
                    under.push(Under::Search(ticket, device.zeros(range)));
                }
                Step::EndOldest | Step::EndNewest => {
                    if under.is_empty() {
                        continue;
                    }
                    let index = if matches!(step, Step::EndOldest) { 0 } else { under.len() - 1 };
                    match under.remove(index) {
                        Under::Write(ticket, range) => {
                            device.write(range);
                            map.end(ticket);
                        }
                        Under::Zeros(ticket, range) => {
                            if early {
                                device.make_zeros(map.whole(range));
                            }
                            // What is still being written may come after the zeros.
                            for other in &under {
                                if let Under::Write(_, write) = other {
                                    device.write(*write);
                                }
                            }
                            map.end_search(ticket, &[range]);
                        }
                        Under::Search(ticket, zeros) => map.end_search(ticket, &zeros),
                    }
                }
            }
            let mut zero_bytes = 0;
            let mut at = 0;
            for extent in map.extents(ByteRange::ALL, usize::MAX) {
                prop_assert_eq!(extent.range.start(), at);
                at = extent.range.end();
                if extent.kind == ExtentKind::Zero {
                    zero_bytes += extent.range.len();
                    for unit in Device::touched(extent.range) {
                        prop_assert!(device.0[unit], "unit {} is data and shown as zero", unit);
                    }
                }
            }
            prop_assert_eq!(at, SIZE);
            prop_assert_eq!(zero_bytes, map.zero_bytes());
        }
    }
}
