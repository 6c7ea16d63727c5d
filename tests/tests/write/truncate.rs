//! truncate and ftruncate: exact at every byte, old bytes never come back, holes where it grows.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use lacuna_tests::{command, compare};

use crate::{KIB, MIB, TIB, bytes, empty};

#[test]
fn shrinking_and_growing_is_exact() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 8 * MIB, 5, [(0, 3 * MIB), (5 * MIB, 8 * MIB)])
    })?;
    for size in [
        8 * MIB - 1,
        8 * MIB + 4097,
        6 * MIB + 1,
        4 * MIB,
        2 * MIB + 4095,
        2 * MIB + 4097,
        MIB,
        1,
        0,
        3 * MIB,
    ] {
        twin.both(|file| Ok(file.set_len(size)?))?;
        twin.ensure_same_now()
            .with_context(|| format!("resized to {size}"))?;
    }
    twin.ensure_same()
}

/// The same while the bytes are dirty in the client.
#[test]
fn dirty_bytes_beyond_the_end_never_come_back() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    for (seed, size) in [(1, 700_001), (2, 4096), (3, 1), (4, 65_537), (5, 0)] {
        twin.write(0, &bytes(seed, MIB)?)?;
        twin.both(|file| Ok(file.set_len(size)?))?;
        twin.both(|file| Ok(file.set_len(2 * MIB)?))?;
        twin.ensure_same_now().with_context(|| format!("cut to {size}"))?;
    }
    twin.ensure_same()
}

#[test]
fn growing_takes_no_space() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * TIB)?;
    SeekMap::of(&volume)?.ensure_hole(0, 8 * TIB)?;
    volume.sync_all()?;
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 8 * TIB);
    ensure!(
        compare::allocated_bytes(&rig.original("volume"))? <= 64 * KIB,
        "growing took space"
    );
    Ok(())
}

#[test]
fn by_name() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("volume"), bytes(1, 10_000)?)?;
    let perl = ["-e", "truncate($ARGV[0], 777) or die $!"].map(AsRef::as_ref);
    command::tool("perl", perl.into_iter().chain([rig.volume("volume").as_os_str()]))?;
    assert_eq!(fs::read(rig.volume("volume"))?, bytes(1, 777)?);
    assert_eq!(fs::read(rig.original("volume"))?, bytes(1, 777)?);
    Ok(())
}

/// The other descriptor of a volume sees the new end at once, and can write beyond it.
#[test]
fn another_descriptor_sees_the_new_end() -> Result<()> {
    let rig = empty()?;
    let first = rig.mount.create("volume")?;
    first.write_all_at(&bytes(1, MIB)?, 0)?;
    let second = rig.mount.open_for_writing("volume")?;
    first.set_len(100)?;
    assert_eq!(second.metadata()?.len(), 100);
    assert_eq!(second.read_at(&mut [0; 64], 90)?, 10);
    second.write_all_at(b"z", 5000)?;
    first.sync_all()?;
    let mut expected = bytes(1, 100)?;
    expected.resize(5000, 0);
    expected.push(b'z');
    assert_eq!(fs::read(rig.original("volume"))?, expected);
    Ok(())
}
