//! The conformance suite and more over loop devices, where the tests run as root.

mod bed;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

use self::bed::{Bed, LoopDevice};
use super::scan::Searcher;
use super::*;
use crate::backend::conformance;
use crate::wanted::Unwanted;

const MIB: u64 = 1 << 20;

mod on_loop_devices {
    super::conformance::suite!(fixed super::Bed::default(), a_fixed_size_stays);
}

fn name(text: &str) -> NodeName {
    NodeName::new(text.as_bytes()).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

fn search(device: &Device) {
    let mut searcher = Searcher::default();
    while searcher.step(&device.volume) {}
}

fn extents(device: &Device) -> Vec<(u64, u64, &'static str)> {
    let volume: Arc<dyn OpenVolume> = device.open().unwrap();
    let extents = volume.extents(ByteRange::ALL, usize::MAX).unwrap();
    let shown = |extent: &Extent| (extent.range.start(), extent.range.end(), extent.kind.word());
    extents.iter().map(shown).collect()
}

#[test]
fn zeros_are_found_by_reading() {
    let disk = LoopDevice::of(4 * MIB + 512);
    disk.backing().write_all_at(b"data", MIB + 5).unwrap();
    disk.backing().write_all_at(&[0; 8192], 2 * MIB).unwrap();
    disk.backing().write_all_at(b"end", 4 * MIB + 509).unwrap();
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    assert_eq!(
        extents(&device),
        [(0, 4 * MIB + 512, "data")],
        "nothing is known yet"
    );
    assert_eq!(device.attr().unwrap().allocated_bytes, 4 * MIB + 512);
    search(&device);
    let found = [
        (0, MIB, "zero"),
        (MIB, MIB + 4096, "data"),
        (MIB + 4096, 4 * MIB, "zero"),
        (4 * MIB, 4 * MIB + 512, "data"),
    ];
    assert_eq!(extents(&device), found);
    let attr = device.attr().unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (4 * MIB + 512, 4096 + 512));
    assert_eq!((attr.mode, attr.links), (0o600, 1));
}

#[test]
fn the_background_finds_them_too_and_ends() {
    let disk = LoopDevice::of(3 * MIB);
    let mut device = Device::open(&name("d"), disk.path(), false).unwrap();
    let before = device.attr().unwrap().changed;
    device.search_in_background().unwrap();
    let volume = Arc::downgrade(&device.volume);
    // The stamp moves at its end, so that those who know an older map ask again.
    while device.attr().unwrap().changed == before {
        std::thread::yield_now();
    }
    assert_eq!(device.attr().unwrap().allocated_bytes, 0);
    drop(device);
    // The search holds the device while it reads, and no longer.
    while volume.upgrade().is_some() {
        std::thread::yield_now();
    }
}

/// A search beside writers: what they wrote is never shown as zero, not for a moment.
#[test]
fn a_search_beside_writes_never_takes_data_for_zeros() {
    let disk = LoopDevice::of(8 * MIB);
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let volume: Arc<dyn OpenVolume> = device.open().unwrap();
            let mut written = Vec::new();
            for round in 0..500_u64 {
                let offset = round * 1_234_577 % (8 * MIB - 8);
                volume.write_at(b"x", offset).unwrap();
                written.push(offset);
                let extents = volume.extents(ByteRange::ALL, usize::MAX).unwrap();
                for offset in &written {
                    let extent = extents.iter().find(|extent| extent.range.contains(*offset));
                    assert_eq!(extent.unwrap().kind, ExtentKind::Data, "byte {offset}");
                }
            }
            done.store(true, Ordering::Relaxed);
            written
        });
        while !done.load(Ordering::Relaxed) && !writer.is_finished() {
            search(&device);
        }
        assert!(!writer.join().unwrap().is_empty());
    });
    search(&device);
    assert!(device.attr().unwrap().allocated_bytes <= 500 * 4096);
}

#[test]
fn punching_frees_what_is_below_and_zeroing_reads_zero() {
    let disk = LoopDevice::of(16 * MIB);
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    let volume: Arc<dyn OpenVolume> = device.open().unwrap();
    let full = vec![7; 16 << 20];
    volume.write_at(&full, 0).unwrap();
    volume.flush(true).unwrap();
    let taken = || disk.backing().metadata().unwrap().blocks() * 512;
    assert!(taken() >= 16 * MIB);
    // With edges that no sector has.
    volume.punch(range(MIB + 5, 13 * MIB + 5)).unwrap();
    volume.flush(true).unwrap();
    assert!(taken() < 5 * MIB, "{} bytes are still taken", taken());
    volume.zero(range(14 * MIB + 1, 15 * MIB), false).unwrap();
    let mut expected = full;
    expected[(1 << 20) + 5..(13 << 20) + 5].fill(0);
    expected[(14 << 20) + 1..15 << 20].fill(0);
    let mut found = vec![1; 16 << 20];
    volume.read_at(&mut found, 0).unwrap();
    assert!(found == expected);
    volume.flush(true).unwrap();
    disk.backing().read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected, "what is on the device differs");
    assert_eq!(
        extents(&device),
        [
            (0, MIB + 4096, "data"),
            (MIB + 4096, 13 * MIB, "zero"),
            (13 * MIB, 14 * MIB + 4096, "data"),
            (14 * MIB + 4096, 15 * MIB, "zero"),
            (15 * MIB, 16 * MIB, "data"),
        ]
    );
}

/// Without discard the kernel writes the zeros; the bytes are the same.
#[test]
fn a_device_without_discard_gets_zeros_written() {
    let disk = LoopDevice::without_discard(4 * MIB);
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    let volume: Arc<dyn OpenVolume> = device.open().unwrap();
    volume.write_at(&vec![7; 4 << 20], 0).unwrap();
    volume.punch(range(MIB, 3 * MIB + 100)).unwrap();
    let mut found = vec![1; 4 << 20];
    volume.read_at(&mut found, 0).unwrap();
    let mut expected = vec![7; 4 << 20];
    expected[1 << 20..(3 << 20) + 100].fill(0);
    assert!(found == expected);
    assert_eq!(extents(&device)[1], (MIB, 3 * MIB, "zero"));
}

#[test]
fn what_is_no_device_to_serve_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    let taken = LoopDevice::of(MIB);
    let _holder = Device::open(&name("a"), taken.path(), false).unwrap();
    for (path, kind, advice) in [
        (
            folder.path().join("missing"),
            ErrorKind::NotFound,
            "name a block device",
        ),
        (
            folder.path().join("file"),
            ErrorKind::Invalid,
            "not a block device",
        ),
        ("/dev/null".into(), ErrorKind::Invalid, "not a block device"),
        (taken.path().to_owned(), ErrorKind::Busy, "release it first"),
    ] {
        let error = Device::open(&name("d"), &path, false).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains(advice),
            "{text}"
        );
    }
}

#[test]
fn a_read_only_device_is_read_and_never_written() {
    for (disk, read_only) in [(LoopDevice::read_only(MIB), false), (LoopDevice::of(MIB), true)] {
        let device = Device::open(&name("d"), disk.path(), read_only).unwrap();
        let volume: Arc<dyn OpenVolume> = device.open().unwrap();
        let everything = range(0, MIB);
        for refused in [
            volume.ready_to_change(),
            volume.write_at(b"x", 0),
            volume.punch(everything),
            volume.zero(everything, false),
            volume.allocate(everything, false),
            volume.resize(0),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
        }
        let mut bytes = [1; 512];
        volume.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 512]);
        search(&device);
        assert_eq!(extents(&device), [(0, MIB, "zero")]);
    }
}

/// A later run never gives a number again, or a lower one.
#[test]
fn the_stamp_of_a_later_run_is_later() {
    let disk = LoopDevice::of(MIB);
    let mut last = None;
    for _ in 0..3 {
        let device = Device::open(&name("d"), disk.path(), false).unwrap();
        let first = device.attr().unwrap().changed;
        assert!(last < Some(first), "{last:?} is not before {first:?}");
        let volume: Arc<dyn OpenVolume> = device.open().unwrap();
        for _ in 0..100 {
            volume.write_at(b"x", 7).unwrap();
        }
        last = Some(device.attr().unwrap().changed);
        assert!(last > Some(first));
    }
}

#[test]
fn attributes_last_as_long_as_the_device() {
    let disk = LoopDevice::of(MIB);
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    let new = NewAttr {
        mode: Some(0o640),
        gid: Some(77),
        ..NewAttr::default()
    };
    let attr = device.set_attr(&new).unwrap();
    assert_eq!((attr.mode, attr.gid), (0o640, 77));
    assert_eq!(device.attr().unwrap(), attr);
    let nobody = NewAttr {
        uid: Some(u32::MAX),
        ..NewAttr::default()
    };
    assert_eq!(device.set_attr(&nobody).unwrap_err().kind(), ErrorKind::Invalid);
    drop(device);
    let again = Device::open(&name("d"), disk.path(), false).unwrap();
    let attr = again.attr().unwrap();
    assert_eq!((attr.mode, attr.id), (0o600, named_id(&name("d"))));
}

#[test]
fn zeros_that_nobody_wants_any_more_are_not_made() {
    let disk = LoopDevice::of(2 * MIB);
    disk.backing().write_all_at(b"data", 4096).unwrap();
    let device = Device::open(&name("d"), disk.path(), false).unwrap();
    let volume = device.open().unwrap();
    let unwanted = Unwanted::default();
    let zero = || volume.zero(range(0, MIB), false);
    let read = || {
        let mut bytes = [1; 4];
        volume.read_at(&mut bytes, 4096).unwrap();
        bytes
    };
    unwanted.set();
    unwanted.over(zero).unwrap_err();
    assert_eq!(&read(), b"data");
    zero().unwrap();
    assert_eq!(read(), [0; 4]);
}
