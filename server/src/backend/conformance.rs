//! What every backend must do, as tests. [`suite!`](crate::backend_conformance_suite) makes one `#[test]` of
//! each, from a [`Fixture`] that can prepare volumes behind the backend's back.

mod change;
mod name;

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;

pub use self::change::*;
pub use self::name::*;
use super::{Backend, OpenVolume};
use crate::error::ErrorKind;
use crate::generation::Stamp;

/// An empty export, and ways to fill it that do not go through the backend.
pub trait Fixture {
    fn backend(&self) -> &dyn Backend;
    fn make_folder(&self, path: &NodePath);
    /// An empty volume, all of it hole.
    fn make_volume(&self, path: &NodePath, size: u64);
    fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]);
    fn resize(&self, path: &NodePath, size: u64);
    /// Volumes keep the size they are made with, rounded up to whole sectors of 512 bytes.
    fn is_fixed(&self) -> bool {
        false
    }
    /// What nothing was ever written to.
    fn nothing(&self) -> ExtentKind {
        if self.is_fixed() {
            ExtentKind::Zero
        } else {
            ExtentKind::Hole
        }
    }
    /// Largest size a volume can have here.
    fn size_max(&self) -> u64 {
        VOLUME_BYTES_MAX
    }
}

/// Makes the tests in the module where it stands: `suite!(a new fixture)`.
#[macro_export]
macro_rules! backend_conformance_suite {
    // For volumes whose size is fixed, at the root of an export; with more tests that not all of them pass.
    (fixed $fixture:expr $(, $more:ident)*) => {
        $crate::backend_conformance_suite!(
            @each $fixture;
            what_is_not_there_is_not_found,
            reads_are_full_with_zeros_beyond_the_end,
            cached_reads_are_a_true_prefix,
            extents_tile_the_volume_and_holes_read_zero,
            extents_start_and_stop_where_asked,
            data_is_never_a_hole,
            a_large_hole_is_one_extent,
            allocated_bytes_are_those_of_the_data,
            every_change_moves_the_stamp,
            space_is_sane,
            writes_are_exact_and_grow,
            punch_and_zero_are_exact,
            copies_keep_bytes_and_holes,
            a_copy_within_a_volume_is_exact,
            a_volume_opened_before_is_changed_by_a_later_opener,
            own_changes_move_the_stamp,
            attributes_are_set_one_by_one,
            $($more,)*
        );
    };
    ($fixture:expr) => {
        $crate::backend_conformance_suite!(
            @each $fixture;
            the_root_is_a_folder_with_the_root_id,
            what_is_not_there_is_not_found,
            kinds_are_told_apart,
            listings_are_sorted_and_agree_with_stat,
            names_need_not_be_text,
            reads_are_full_with_zeros_beyond_the_end,
            cached_reads_are_a_true_prefix,
            extents_tile_the_volume_and_holes_read_zero,
            extents_start_and_stop_where_asked,
            data_is_never_a_hole,
            a_large_hole_is_one_extent,
            allocated_bytes_are_those_of_the_data,
            an_open_volume_stays_open_when_it_changes,
            every_change_moves_the_stamp,
            ids_tell_nodes_apart_and_stay,
            space_is_sane,
            writes_are_exact_and_grow,
            punch_and_zero_are_exact,
            punch_frees_and_zero_keeps,
            allocating_grows_only_if_told,
            resizing_cuts_and_grows_with_a_hole,
            copies_keep_bytes_and_holes,
            a_copy_within_a_volume_is_exact,
            a_volume_opened_before_is_changed_by_a_later_opener,
            own_changes_move_the_stamp,
            attributes_are_set_one_by_one,
            a_created_volume_is_empty_and_as_asked,
            a_taken_name_is_opened_or_refused,
            folders_are_made_and_pass_on_their_group,
            names_of_the_longest_length_work,
            removing_says_what_it_is,
            an_open_volume_outlives_its_name,
            renaming_has_three_modes,
            renaming_keeps_kinds_and_trees,
        );
    };
    (@each $fixture:expr; $($name:ident,)+) => {
        $(
            #[test]
            fn $name() {
                $crate::backend::conformance::$name(&$fixture);
            }
        )+
    };
}
pub use crate::backend_conformance_suite as suite;

/// A path of a test.
pub fn path(text: &str) -> NodePath {
    NodePath::new(text.as_bytes()).expect("a valid path")
}

fn extents(volume: &dyn OpenVolume) -> Vec<Extent> {
    volume.extents(ByteRange::ALL, usize::MAX).expect("extents")
}

fn kind_of_error<T>(result: crate::error::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

fn read(volume: &dyn OpenVolume, offset: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; len];
    volume.read_at(&mut buffer, offset).expect("a read");
    buffer
}

pub fn the_root_is_a_folder_with_the_root_id(fixture: &impl Fixture) {
    let attr = fixture.backend().stat(&NodePath::root()).expect("the root");
    assert_eq!((attr.id, attr.kind), (NodeId::ROOT, NodeKind::Folder));
    assert!(
        fixture
            .backend()
            .list(&NodePath::root())
            .expect("a listing")
            .is_empty()
    );
}

pub fn what_is_not_there_is_not_found(fixture: &impl Fixture) {
    let backend = fixture.backend();
    for name in ["x", "x/y"] {
        assert_eq!(kind_of_error(backend.stat(&path(name))), ErrorKind::NotFound);
        assert_eq!(kind_of_error(backend.list(&path(name))), ErrorKind::NotFound);
        assert_eq!(kind_of_error(backend.open(&path(name))), ErrorKind::NotFound);
    }
}

pub fn kinds_are_told_apart(fixture: &impl Fixture) {
    fixture.make_folder(&path("f"));
    fixture.make_volume(&path("v"), 1);
    let backend = fixture.backend();
    assert_eq!(backend.stat(&path("f")).expect("stat").kind, NodeKind::Folder);
    assert_eq!(backend.stat(&path("v")).expect("stat").kind, NodeKind::Volume);
    assert_eq!(kind_of_error(backend.open(&path("f"))), ErrorKind::NotVolume);
    assert_eq!(
        kind_of_error(backend.open(&NodePath::root())),
        ErrorKind::NotVolume
    );
    assert_eq!(kind_of_error(backend.list(&path("v"))), ErrorKind::NotFolder);
    assert_eq!(kind_of_error(backend.stat(&path("v/x"))), ErrorKind::NotFolder);
}

pub fn listings_are_sorted_and_agree_with_stat(fixture: &impl Fixture) {
    fixture.make_folder(&path("f"));
    for index in (0..300).rev() {
        fixture.make_volume(&path(&format!("f/{index}")), index);
    }
    fixture.make_folder(&path("f/sub"));
    fixture.make_volume(&path("f/sub/deeper"), 1);
    let list = fixture.backend().list(&path("f")).expect("a listing");
    assert_eq!(list.len(), 301);
    assert!(list.is_sorted_by(|a, b| a.0 < b.0));
    for (name, attr) in list {
        let found = fixture
            .backend()
            .stat(&path("f").join(&name).expect("a path"))
            .expect("stat");
        assert_eq!(found, attr, "{name}");
    }
}

pub fn names_need_not_be_text(fixture: &impl Fixture) {
    let odd = NodePath::new(b"\xff\xfe \n\\").expect("a valid path");
    fixture.make_volume(&odd, 5);
    assert_eq!(fixture.backend().stat(&odd).expect("stat").size, 5);
    assert_eq!(
        fixture.backend().list(&NodePath::root()).expect("list")[0]
            .0
            .as_bytes(),
        odd.as_bytes()
    );
}

pub fn reads_are_full_with_zeros_beyond_the_end(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 10_000);
    fixture.write(&path("v"), 9_990, b"0123456789");
    let volume = fixture.backend().open(&path("v")).expect("open");
    assert_eq!(read(&*volume, 9_995, 10), b"56789\0\0\0\0\0");
    assert_eq!(read(&*volume, 10_000, 4), [0; 4]);
    assert_eq!(read(&*volume, VOLUME_BYTES_MAX - 4, 4), [0; 4]);
    assert_eq!(read(&*volume, 0, 9_990), [0; 9_990]);
    assert!(read(&*volume, 3, 0).is_empty());
}

pub fn cached_reads_are_a_true_prefix(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 100_000);
    let bytes: Vec<u8> = (0..90_000_u32)
        .map(|index| u8::try_from(index % 251).expect("small"))
        .collect();
    fixture.write(&path("v"), 0, &bytes);
    let volume = fixture.backend().open(&path("v")).expect("open");
    for (offset, len) in [(0, 90_000), (80_000, 50_000), (99_999, 2), (100_000, 10), (5, 0)] {
        let whole = read(&*volume, offset, len);
        let mut buffer = vec![0xee; len];
        let count = volume.read_cached(&mut buffer, offset).expect("a cached read");
        assert!(count <= len);
        assert_eq!(buffer[..count], whole[..count]);
    }
}

pub fn extents_tile_the_volume_and_holes_read_zero(fixture: &impl Fixture) {
    let size = (8 << 20) + 777;
    fixture.make_volume(&path("v"), size);
    let mut offset = 3;
    while offset < 8 << 20 {
        fixture.write(
            &path("v"),
            offset,
            &vec![7; usize::try_from(offset % 9_000 + 1).expect("small")],
        );
        offset += 100_000 + offset % 70_001;
    }
    let volume = fixture.backend().open(&path("v")).expect("open");
    let size = volume.attr().expect("attr").size;
    let extents = extents(&*volume);
    let mut at = 0;
    for (index, extent) in extents.iter().enumerate() {
        assert_eq!(extent.range.start(), at);
        assert!(!extent.range.is_empty());
        assert!(
            index == 0 || extents[index - 1].kind != extent.kind,
            "neighbours are joined"
        );
        at = extent.range.end();
        match extent.kind {
            ExtentKind::Data => {}
            ExtentKind::Zero | ExtentKind::Hole => {
                let len = usize::try_from(extent.range.len()).expect("small");
                assert!(
                    read(&*volume, extent.range.start(), len)
                        .iter()
                        .all(|byte| *byte == 0)
                );
            }
        }
    }
    assert_eq!(at, size);
    assert!(
        extents.iter().any(|extent| extent.kind == fixture.nothing()),
        "this backend knows holes"
    );
}

pub fn extents_start_and_stop_where_asked(fixture: &impl Fixture) {
    let unit = 64 << 10;
    fixture.make_volume(&path("v"), 100 * unit);
    for index in (0..100).step_by(2) {
        fixture.write(&path("v"), index * unit, &vec![1; 65536]);
    }
    let volume = fixture.backend().open(&path("v")).expect("open");
    let all = extents(&*volume);
    assert_eq!(all.len(), 100);
    for (start, end) in [
        (0, 1),
        (1, 2),
        (unit, unit + 1),
        (unit - 1, unit + 1),
        (5, 31 * unit + 5),
        (99 * unit, u64::MAX),
    ] {
        let range = ByteRange::new(start, end).expect("a range");
        let clipped: Vec<Extent> = all
            .iter()
            .filter(|extent| extent.range.overlaps(range))
            .map(|extent| Extent::new(extent.range.intersect(range), extent.kind))
            .collect();
        assert_eq!(
            volume.extents(range, usize::MAX).expect("extents"),
            clipped,
            "{range}"
        );
        assert_eq!(volume.extents(range, 1).expect("extents"), clipped[..1]);
    }
    assert_eq!(volume.extents(ByteRange::ALL, 7).expect("extents"), all[..7]);
    for start in [100 * unit, 100 * unit + 1, u64::MAX] {
        let beyond = ByteRange::new(start, u64::MAX).expect("a range");
        assert_eq!(volume.extents(beyond, 9).expect("extents"), []);
    }
    assert_eq!(
        volume
            .extents(ByteRange::at(5, 0).expect("a range"), 9)
            .expect("extents"),
        []
    );
}

pub fn data_is_never_a_hole(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 1 << 30);
    let mut written = Vec::new();
    let volume = fixture.backend().open(&path("v")).expect("open");
    for round in 0..64_u64 {
        let offset = round * round * 131_071 % (1 << 30);
        fixture.write(&path("v"), offset, b"x");
        written.push(offset);
        let extents = extents(&*volume);
        for offset in &written {
            let extent = extents
                .iter()
                .find(|extent| extent.range.contains(*offset))
                .expect("tiled");
            assert_eq!(
                extent.kind,
                ExtentKind::Data,
                "byte {offset} after {round} writes"
            );
        }
    }
}

pub fn a_large_hole_is_one_extent(fixture: &impl Fixture) {
    let size = fixture.size_max();
    fixture.make_volume(&path("v"), size);
    let volume = fixture.backend().open(&path("v")).expect("open");
    let hole = Extent::new(ByteRange::up_to(size), fixture.nothing());
    assert_eq!(extents(&*volume), [hole]);
    assert_eq!(volume.attr().expect("attr").size, size);
}

pub fn allocated_bytes_are_those_of_the_data(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 1 << 30);
    let allocated = || fixture.backend().stat(&path("v")).expect("stat").allocated_bytes;
    let empty = allocated();
    assert!(empty <= 64 << 10, "an empty volume has {empty} bytes");
    fixture.write(&path("v"), 1 << 20, &vec![1; 1 << 20]);
    let filled = allocated();
    assert!(
        (1 << 20..2 << 20).contains(&filled),
        "a mebibyte of data has {filled} bytes"
    );
}

pub fn an_open_volume_stays_open_when_it_changes(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 10);
    let volume = fixture.backend().open(&path("v")).expect("open");
    fixture.write(&path("v"), 5, b"hello, world");
    assert_eq!(volume.attr().expect("attr").size, 17);
    assert_eq!(read(&*volume, 5, 12), b"hello, world");
    fixture.resize(&path("v"), 8);
    assert_eq!(read(&*volume, 5, 5), b"hel\0\0");
    fixture.resize(&path("v"), 1 << 20);
    assert_eq!(
        read(&*volume, 5, 5),
        b"hel\0\0",
        "what was cut does not come back"
    );
}

pub fn every_change_moves_the_stamp(fixture: &impl Fixture) {
    fixture.make_volume(&path("v"), 4096);
    if !fixture.backend().clock_tick().is_zero() {
        // Told apart by `crate::generation` instead.
        return;
    }
    let volume = fixture.backend().open(&path("v")).expect("open");
    let stamp = || Stamp::of(&volume.attr().expect("attr"));
    let mut before = stamp();
    for round in 0..200_u8 {
        fixture.write(&path("v"), 0, &[round]);
        let after = stamp();
        assert_ne!(before, after, "write {round} left no trace");
        assert_eq!(after, stamp(), "looking changes nothing");
        before = after;
    }
}

pub fn ids_tell_nodes_apart_and_stay(fixture: &impl Fixture) {
    let names = ["a", "b", "c", "c/d"];
    fixture.make_volume(&path("a"), 1);
    fixture.make_volume(&path("b"), 1);
    fixture.make_folder(&path("c"));
    fixture.make_volume(&path("c/d"), 1);
    let ids = || -> Vec<Attr> {
        names
            .iter()
            .map(|name| fixture.backend().stat(&path(name)).expect("stat"))
            .collect()
    };
    let first = ids();
    fixture.write(&path("a"), 100, b"more");
    for (before, after) in first.iter().zip(ids()) {
        assert_eq!((before.id, before.birth_ns), (after.id, after.birth_ns));
        assert!(before.id.0 > 1);
    }
    let mut all: Vec<_> = first.iter().map(|attr| attr.id).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), names.len());
    let open = fixture.backend().open(&path("c/d")).expect("open");
    assert_eq!(open.attr().expect("attr").id, first[3].id);
}

pub fn space_is_sane(fixture: &impl Fixture) {
    let space = fixture.backend().space().expect("space");
    assert!(space.block_bytes > 0 && space.blocks > 0 && space.name_bytes_max > 0);
    assert!(space.blocks_available <= space.blocks_free && space.blocks_free <= space.blocks);
}
