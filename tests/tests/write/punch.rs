//! FALLOC_FL_PUNCH_HOLE: exact at every byte, one request of any size, and the space is free at the server at once.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::reshape;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use rustix::fs::fallocate;
use rustix::io::Errno;

use crate::{KIB, MIB, TIB, bytes, empty};

#[test]
fn edges_are_exact() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 8 * MIB + 123, 5, [(0, 8 * MIB + 123)])
    })?;
    let mut at = 0;
    for start in [0, 1, 4095, 4096, 4097] {
        for length in [1, 4095, 4096, 4097, 8191, 8192, 64 * KIB, 64 * KIB + 1, 200_000] {
            let start = at + start;
            twin.both(|file| reshape::punch(file, start, length))?;
            at = (start + length).next_multiple_of(4096) % (6 * MIB);
        }
        twin.ensure_same_now()
            .with_context(|| format!("punched {start} beside a block"))?;
    }
    // Over the end and behind it; the size stays.
    twin.both(|file| reshape::punch(file, 8 * MIB - 100, 2 * MIB))?;
    twin.both(|file| reshape::punch(file, 20 * MIB, MIB))?;
    assert_eq!(twin.volume.metadata()?.len(), 8 * MIB + 123);
    twin.ensure_same()
}

#[test]
fn dirty_bytes_are_punched_too() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    for round in 0..12 {
        twin.write(round * 100_000, &bytes(round, 300_000)?)?;
        twin.both(|file| reshape::punch(file, round * 100_000 + 50_001, 131_072))?;
        twin.write(round * 100_000 + 60_000, b"again")?;
    }
    twin.ensure_same()
}

#[test]
fn a_terabyte_is_one_request_and_frees_space_at_once() -> Result<()> {
    let rig = empty()?;
    let extents = (0..64).map(|i| (i * TIB / 64, i * TIB / 64 + 256 * KIB));
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, TIB + MIB, 6, extents.clone().chain([(TIB + 5, TIB + MIB)]))
    })?;
    SeekMap::of(&twin.volume)?;
    twin.volume.read_exact_at(&mut [0; 4096], 0)?;
    let before = rig.mount.settled()?;
    twin.both(|file| reshape::punch(file, 1, TIB - 1))?;
    let after = rig.mount.settled()?;
    assert_eq!(
        after.requests_sent - before.requests_sent,
        1,
        "requests for one punch"
    );
    let sent = after.bytes_sent - before.bytes_sent;
    ensure!(sent < 16 * KIB, "{sent} bytes sent for one punch");
    // At once: without an fsync.
    twin.ensure_taken_at_most(MIB + 128 * KIB)?;
    twin.ensure_same_now()?;
    SeekMap::of(&twin.volume)?.ensure_hole(4096, TIB)?;
    twin.ensure_same()
}

/// All of the last block, which the volume ends in: it is freed too, dirty or not.
#[test]
fn the_last_block_is_freed_although_the_volume_ends_in_it() -> Result<()> {
    let rig = empty()?;
    for (name, is_dirty) in [("dirty", true), ("clean", false)] {
        let twin = Twin::create(&rig, name)?;
        twin.write(0, &bytes(1, 5000)?)?;
        if !is_dirty {
            twin.volume.sync_all()?;
        }
        twin.both(|file| reshape::punch(file, 4096, 8192))?;
        SeekMap::of(&twin.volume)?.ensure_hole(4096, 5000).context(name)?;
        twin.ensure_same()?;
        twin.ensure_taken_at_most(4096).context(name)?;
    }
    Ok(())
}

/// Many punches in a row, as a guest's discard makes them, leave one hole and no space.
#[test]
fn many_punches_leave_one_hole() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 16 * MIB, 7, [(0, 16 * MIB)])
    })?;
    for start in (MIB..15 * MIB).step_by(64 << 10) {
        twin.both(|file| reshape::punch(file, start, 64 * KIB))?;
    }
    SeekMap::of(&twin.volume)?.ensure_hole(MIB, 15 * MIB)?;
    twin.ensure_same()?;
    twin.ensure_taken_at_most(2 * MIB + 64 * KIB)
}

#[test]
fn arguments_are_checked() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&bytes(1, 10_000)?, 0)?;
    let refused = |start, length| fallocate(&volume, reshape::PUNCH, start, length).err();
    assert_eq!(refused(0, 0), Some(Errno::INVAL));
    ensure!(
        refused(u64::MAX / 2, u64::MAX / 2).is_some(),
        "a range beyond 2^63 was punched"
    );
    ensure!(
        fallocate(&volume, rustix::fs::FallocateFlags::PUNCH_HOLE, 0, 4096).is_err(),
        "PUNCH_HOLE without KEEP_SIZE was taken"
    );
    let reader = rig.mount.open("volume")?;
    assert_eq!(
        fallocate(&reader, reshape::PUNCH, 0, 4096).err(),
        Some(Errno::BADF)
    );
    volume.sync_all()?;
    assert_eq!(std::fs::read(rig.original("volume"))?, bytes(1, 10_000)?);
    Ok(())
}
