//! fsync, fdatasync and fsync of a folder: when they return, it is in the server's file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::reshape;

use crate::{KIB, MIB, bytes, empty};

#[test]
fn what_was_written_is_in_the_servers_file() -> Result<()> {
    let rig = empty()?;
    let file = rig.mount.create("volume")?;
    let mut expected = vec![0; 4 << 20];
    file.set_len(4 * MIB)?;
    let mut random = Random::new(31);
    for round in 0..40 {
        let length = random.between(1, 100_000);
        let at = random.below(4 * MIB - length);
        let content = random.bytes(usize::try_from(length)?);
        file.write_all_at(&content, at)?;
        expected[usize::try_from(at)?..][..content.len()].copy_from_slice(&content);
        if round % 2 == 0 {
            file.sync_all()?;
        } else {
            file.sync_data()?;
        }
        ensure!(fs::read(rig.original("volume"))? == expected, "round {round}");
    }
    assert_eq!(rig.mount.status()?.dirty_bytes, 0);
    Ok(())
}

/// One descriptor's fsync covers what was written through another.
#[test]
fn all_descriptors_are_covered() -> Result<()> {
    let rig = empty()?;
    let first = rig.mount.create("volume")?;
    let second = rig.mount.open_for_writing("volume")?;
    first.write_all_at(&bytes(1, MIB)?, 0)?;
    second.write_all_at(&bytes(2, MIB)?, MIB)?;
    rig.mount.open("volume")?.sync_all()?;
    let expected = [bytes(1, MIB)?, bytes(2, MIB)?].concat();
    ensure!(
        fs::read(rig.original("volume"))? == expected,
        "the server's file differs"
    );
    Ok(())
}

#[test]
fn an_fsync_of_a_folder_works() -> Result<()> {
    let rig = empty()?;
    fs::create_dir(rig.volume("folder"))?;
    for name in ["", "folder"] {
        fs::write(rig.volume(name).join("volume"), "x")?;
        let folder = File::open(rig.volume(name))?;
        folder.sync_all()?;
        folder.sync_data()?;
        assert_eq!(fs::read(rig.original(name).join("volume"))?, b"x");
    }
    Ok(())
}

/// A punch after a write and a write after a punch keep their order on the way.
#[test]
fn changes_of_all_kinds_are_covered_in_order() -> Result<()> {
    let rig = empty()?;
    let file = rig.mount.create("volume")?;
    for round in 0..30 {
        file.write_all_at(&bytes(round, 256 * KIB)?, 0)?;
        reshape::punch(&file, 64 * KIB, 64 * KIB)?;
        file.write_all_at(&bytes(round + 100, 1000)?, 70 * KIB)?;
        reshape::zero(&file, 128 * KIB, 1000)?;
        file.set_len(200 * KIB)?;
        file.sync_all()?;
        let mut expected = bytes(round, 200 * KIB)?;
        expected[64 << 10..128 << 10].fill(0);
        expected[70 << 10..][..1000].copy_from_slice(&bytes(round + 100, 1000)?);
        expected[128 << 10..][..1000].fill(0);
        ensure!(fs::read(rig.original("volume"))? == expected, "round {round}");
    }
    Ok(())
}

/// A small write and the fsync behind it cost one round trip, but where the write was on its way already.
#[test]
fn a_small_write_and_its_fsync_are_one_request() -> Result<()> {
    let rig = empty()?;
    let file = rig.mount.create("volume")?;
    file.write_all_at(&bytes(1, MIB)?, 0)?;
    file.sync_all()?;
    let before = rig.mount.settled()?;
    let mut expected = bytes(1, MIB)?;
    for round in 0..50 {
        let (at, content) = (round * 20_000, bytes(round + 2, 4096)?);
        file.write_all_at(&content, at)?;
        file.sync_data()?;
        expected[usize::try_from(at)?..][..4096].copy_from_slice(&content);
    }
    let status = rig.mount.settled()?;
    let requests = status.requests_sent - before.requests_sent;
    ensure!(
        requests < 75,
        "{requests} requests for 50 writes and their fsyncs"
    );
    assert_eq!(status.dirty_bytes, 0);
    ensure!(
        fs::read(rig.original("volume"))? == expected,
        "the server's file differs"
    );
    Ok(())
}
