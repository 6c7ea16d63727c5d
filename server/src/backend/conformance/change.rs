//! Conformance: changes of the bytes of volumes, each against a plain array of bytes.

use lacuna_transport::attr::{NewAttr, NewTime, Timestamp};
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;

use super::{Fixture, extents, kind_of_error, path, read};
use crate::backend::OpenVolume;
use crate::error::ErrorKind;

/// Around the blocks of all file systems here.
const PLACES: [u64; 9] = [0, 1, 511, 4095, 4096, 4097, 65_535, 65_536, 65_537];

fn open(fixture: &impl Fixture, path: &NodePath) -> std::sync::Arc<dyn OpenVolume> {
    let volume = fixture.backend().open(path).expect("open");
    volume.ready_to_change().expect("a volume to change");
    volume
}

/// A volume of `size` bytes, or of at least `room` where it cannot grow; its model.
fn prepared(
    fixture: &impl Fixture,
    path: &NodePath,
    size: u64,
    room: u64,
) -> (std::sync::Arc<dyn OpenVolume>, Model) {
    fixture.make_volume(path, if fixture.is_fixed() { room } else { size });
    let volume = open(fixture, path);
    let size = volume.attr().expect("attr").size;
    (volume, Model(vec![0; at(size)]))
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).expect("a range")
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("small")
}

/// What a volume should hold.
struct Model(Vec<u8>);

impl Model {
    fn grow(&mut self, end: u64) {
        self.0.resize(self.0.len().max(at(end)), 0);
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.grow(offset + u64::try_from(bytes.len()).expect("small"));
        self.0[at(offset)..at(offset) + bytes.len()].copy_from_slice(bytes);
    }

    fn clear(&mut self, range: ByteRange) {
        let end = at(range.end()).min(self.0.len());
        let start = at(range.start()).min(end);
        self.0[start..end].fill(0);
    }

    fn check(&self, volume: &dyn OpenVolume, what: &str) {
        let size = volume.attr().expect("attr").size;
        assert_eq!(at(size), self.0.len(), "size after {what}");
        assert!(read(volume, 0, self.0.len()) == self.0, "bytes after {what}");
        for extent in extents(volume) {
            let bytes = &self.0[at(extent.range.start())..at(extent.range.end())];
            let zeros = bytes.iter().all(|byte| *byte == 0);
            assert!(
                extent.kind == ExtentKind::Data || zeros,
                "data as a hole after {what}"
            );
        }
    }
}

pub fn writes_are_exact_and_grow(fixture: &impl Fixture) {
    for offset in PLACES {
        for len in [0, 1, 4095, 4096, 4097, 70_000] {
            let name = path(&format!("v{offset}-{len}"));
            let (volume, mut model) = prepared(fixture, &name, 6000, 140_000);
            let bytes = vec![7; len];
            volume.write_at(&bytes, offset).expect("a write");
            if len > 0 {
                model.write(offset, &bytes);
            }
            model.check(&*volume, &format!("{len} bytes at {offset}"));
        }
    }
}

pub fn punch_and_zero_are_exact(fixture: &impl Fixture) {
    let (volume, empty) = prepared(fixture, &path("v"), 0, 80_001);
    let full = vec![9; 80_001];
    for start in PLACES {
        for end in PLACES.iter().copied().chain([80_000, 80_001, 80_002, 200_000]) {
            if start >= end {
                continue;
            }
            for (what, grow) in [("punch", false), ("zero", false), ("zero", true)] {
                if fixture.is_fixed() {
                    volume.punch(ByteRange::ALL).expect("punch");
                } else {
                    volume.resize(0).expect("resize");
                }
                volume.write_at(&full, 0).expect("write");
                let mut model = Model(empty.0.clone());
                model.write(0, &full);
                if fixture.is_fixed() && grow && at(end) > model.0.len() {
                    let refused = kind_of_error(volume.zero(range(start, end), grow));
                    assert_eq!(refused, ErrorKind::NoSpace);
                    continue;
                }
                model.clear(range(start, end));
                if what == "punch" {
                    volume.punch(range(start, end)).expect("punch");
                } else {
                    volume.zero(range(start, end), grow).expect("zero");
                    if grow {
                        model.grow(end);
                    }
                }
                model.check(&*volume, &format!("{what} {start}..{end}, growing: {grow}"));
            }
        }
    }
    if fixture.is_fixed() {
        return;
    }
    volume.resize(0).expect("resize");
    volume.punch(range(5, 10)).expect("beyond the end");
    volume.zero(range(5, 10), false).expect("beyond the end");
    Model(Vec::new()).check(&*volume, "changes beyond the end");
}

pub fn punch_frees_and_zero_keeps(fixture: &impl Fixture) {
    let mib = 1 << 20;
    fixture.make_volume(&path("v"), 0);
    let volume = open(fixture, &path("v"));
    let allocated = || {
        // Some file systems allocate late.
        volume.flush(false).expect("flush");
        volume.attr().expect("attr").allocated_bytes
    };
    volume.write_at(&vec![1; at(4 * mib)], 0).expect("write");
    assert!(allocated() >= 4 * mib);
    volume.zero(range(0, 2 * mib), false).expect("zero");
    assert!(allocated() >= 4 * mib, "zeros stay allocated");
    volume.punch(range(0, 3 * mib)).expect("punch");
    assert!(allocated() < 2 * mib, "a hole is freed");
    let hole = extents(&*volume)[0];
    assert_eq!((hole.range, hole.kind), (range(0, 3 * mib), ExtentKind::Hole));
    volume.allocate(range(0, 3 * mib), false).expect("allocate");
    assert!(allocated() >= 4 * mib, "space is reserved");
    assert_eq!(
        read(&*volume, 3 * mib, 4),
        [1; 4],
        "what is there stays when space is reserved"
    );
}

pub fn allocating_grows_only_if_told(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 10);
    let volume = open(fixture, &path("v"));
    volume.write_at(b"0123456789", 0).expect("write");
    for (end, grow, size) in [(5, true, 10), (100_000, false, 10), (100_000, true, 100_000)] {
        volume.allocate(range(2, end), grow).expect("allocate");
        let mut model = Model(b"0123456789".to_vec());
        model.grow(size);
        model.check(&*volume, "an allocation");
    }
}

pub fn resizing_cuts_and_grows_with_a_hole(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 0);
    let volume = open(fixture, &path("v"));
    for size in PLACES {
        volume.resize(0).expect("resize");
        volume.write_at(&[5; 70_000], 0).expect("write");
        volume.resize(size).expect("resize");
        let mut model = Model(vec![5; at(size)]);
        model.check(&*volume, "a cut");
        volume.grow(3).expect("grow");
        model.grow(3);
        model.check(&*volume, "growing what may be larger");
        volume.resize(100_000).expect("resize");
        model.grow(100_000);
        model.check(&*volume, "what was cut does not come back");
    }
    let size = fixture.size_max();
    volume.resize(size).expect("the largest size");
    assert_eq!(volume.attr().expect("attr").size, size);
}

pub fn copies_keep_bytes_and_holes(fixture: &impl Fixture) {
    let mib = 1 << 20;
    fixture.make_volume(&path("source"), 4 * mib);
    fixture.write(&path("source"), mib, &vec![3; at(mib)]);
    fixture.write(&path("source"), 2 * mib + 777, b"odd");
    let source = fixture.backend().open(&path("source")).expect("open");
    for (start, end, to) in [
        (0, 4 * mib, 0),
        (0, u64::MAX, 4096),
        (mib - 1, mib + 1, 5),
        (mib + 4096, 2 * mib, 8192),
        (2 * mib, 2 * mib + 800, 3 * mib + 1),
        (3 * mib, 4 * mib, 9 * mib),
    ] {
        let name = path(&format!("target-{start}-{to}"));
        let (target, mut model) = prepared(fixture, &name, 0, 16 * mib);
        let before = vec![8; at(3 * mib)];
        target.write_at(&before, 0).expect("write");
        model.write(0, &before);
        let length = end.min(4 * mib) - start;
        let bytes = read(&*source, start, at(length));
        let copied = fixture.backend().copy(&*source, range(start, end), &*target, to);
        assert_eq!(copied.expect("a copy"), length);
        model.write(to, &bytes);
        model.check(&*target, &format!("a copy of {start}..{end} to {to}"));
    }
    let (sparse, _) = prepared(fixture, &path("sparse"), 0, 4 * mib);
    fixture
        .backend()
        .copy(&*source, ByteRange::ALL, &*sparse, 0)
        .expect("a copy");
    sparse.flush(false).expect("flush");
    assert!(
        sparse.attr().expect("attr").allocated_bytes < 2 * mib,
        "holes stay holes"
    );
    for start in [4 * mib, 4 * mib + 1, u64::MAX - 1] {
        let beyond = range(start, u64::MAX);
        assert_eq!(
            fixture
                .backend()
                .copy(&*source, beyond, &*sparse, 0)
                .expect("nothing"),
            0
        );
    }
    assert_eq!(sparse.attr().expect("attr").size, 4 * mib);
}

pub fn a_copy_within_a_volume_is_exact(fixture: &impl Fixture) {
    let (volume, mut model) = prepared(fixture, &path("v"), 100_000, 110_001);
    fixture.write(&path("v"), 10, &[6; 9000]);
    let copied = fixture
        .backend()
        .copy(&*volume, range(0, 20_000), &*volume, 90_001);
    assert_eq!(copied.expect("a copy"), 20_000);
    model.write(10, &[6; 9000]);
    model.grow(110_001);
    model.write(90_011, &[6; 9000]);
    model.check(&*volume, "a copy within");
}

pub fn a_volume_opened_before_is_changed_by_a_later_opener(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 3);
    let reader = fixture.backend().open(&path("v")).expect("open");
    let writer = open(fixture, &path("v"));
    writer.write_at(b"abc", 0).expect("write");
    assert_eq!(read(&*reader, 0, 3), b"abc");
    reader.ready_to_change().expect("the same inode again");
    reader.write_at(b"x", 1).expect("write");
    assert_eq!(read(&*writer, 0, 3), b"axc");
}

pub fn own_changes_move_the_stamp(fixture: &impl Fixture) {
    use crate::generation::Stamp;

    if !fixture.backend().clock_tick().is_zero() {
        return;
    }
    fixture.make_volume(&path("v"), 100_000);
    let volume = open(fixture, &path("v"));
    let stamp = || Stamp::of(&volume.attr().expect("attr"));
    let mut before = stamp();
    let mut moved = |what: &str| {
        let after = stamp();
        assert_ne!(before, after, "{what} left no trace");
        before = after;
    };
    for _ in 0..20 {
        volume.write_at(b"x", 5000).expect("write");
        moved("a write");
        volume.punch(range(0, 8192)).expect("punch");
        moved("a punch");
        volume.zero(range(0, 8192), false).expect("zero");
        moved("zeros");
        if !fixture.is_fixed() {
            volume.resize(100_000).expect("resize");
            volume.resize(99_999).expect("resize");
            moved("a resize");
        }
        let new = NewAttr {
            mode: Some(0o600),
            ..NewAttr::default()
        };
        volume.set_attr(&new).expect("set attributes");
        moved("a change of mode");
    }
}

pub fn attributes_are_set_one_by_one(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 3);
    fixture.make_folder(&path("f"));
    let backend = fixture.backend();
    let when = |seconds| {
        let time = Timestamp { seconds, nanos: 5 };
        (Some(NewTime::At(time)), time)
    };
    let volume = open(fixture, &path("v"));
    for name in ["v", "f"] {
        let before = backend.stat(&path(name)).expect("stat");
        let (modified, at) = when(-77);
        let new = NewAttr {
            modified,
            ..NewAttr::default()
        };
        let attr = backend.set_attr(&path(name), &new).expect("set");
        assert_eq!(
            (attr.modified, attr.accessed, attr.mode),
            (at, before.accessed, before.mode)
        );
        let (accessed, at) = when(1 << 33);
        let new = NewAttr {
            accessed,
            modified: Some(NewTime::Now),
            mode: Some(0o1751),
            ..NewAttr::default()
        };
        let attr = backend.set_attr(&path(name), &new).expect("set");
        assert_eq!((attr.accessed, attr.mode), (at, 0o1751));
        assert!(attr.modified.seconds >= 0);
        assert_eq!(attr, backend.stat(&path(name)).expect("stat"));
    }
    // The bits that a change of owner takes are there if they were asked for.
    let new = NewAttr {
        uid: Some(54_321),
        gid: Some(12_345),
        mode: Some(0o6755),
        ..NewAttr::default()
    };
    match volume.set_attr(&new) {
        Ok(()) => {
            let attr = volume.attr().expect("attr");
            assert_eq!((attr.uid, attr.gid, attr.mode), (54_321, 12_345, 0o6755));
        }
        Err(error) => eprintln!("SKIPPED: giving a volume away needs root: {error}"),
    }
}

pub fn a_fixed_size_stays(fixture: &impl Fixture) {
    let (volume, mut model) = prepared(fixture, &path("v"), 0, 8192);
    volume.write_at(&[4; 8192], 0).expect("write");
    model.write(0, &[4; 8192]);
    volume.resize(8192).expect("the size it has");
    volume.grow(8192).expect("the size it has");
    volume
        .allocate(range(0, 8192), true)
        .expect("space that is there");
    for size in [0, 1, 4096, 8191, 8193, u64::MAX] {
        assert_eq!(kind_of_error(volume.resize(size)), ErrorKind::Invalid, "{size}");
    }
    for (what, refused) in [
        ("growing", volume.grow(8193)),
        ("a write at the end", volume.write_at(b"x", 8192)),
        ("a write over the end", volume.write_at(b"xy", 8191)),
        ("a write at no offset", volume.write_at(b"xy", u64::MAX)),
        ("zeros", volume.zero(range(0, 8193), true)),
        ("space", volume.allocate(range(0, 8193), true)),
        ("space without a size", volume.allocate(range(0, 8193), false)),
    ] {
        assert_eq!(kind_of_error(refused), ErrorKind::NoSpace, "{what}");
    }
    model.check(&*volume, "what was refused");
    volume.write_at(&[], 9000).expect("nothing");
    volume.punch(range(8192, 10_000)).expect("beyond the end");
    model.check(&*volume, "nothing");
}
