//! FALLOC_FL_PUNCH_HOLE: exact at every byte, one request of any size, seen at once and sent behind as writes are.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use lacuna_tests::{compare, reshape};
use rustix::fs::{OFlags, fallocate};
use rustix::io::Errno;
use rustix::process::Signal;

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

/// Sent behind, as writes are: from the second one on, since the first shows that the server can.
#[test]
fn a_punch_is_seen_at_once_and_needs_no_server() -> Result<()> {
    let rig = empty()?;
    let twin = punched_once(&rig)?;
    let blocks = twin.volume.metadata()?.blocks();
    rig.server.process()?.send(Signal::STOP)?;
    let outcome = (|| -> Result<()> {
        twin.both(|file| reshape::punch(file, MIB, 64 * KIB))?;
        twin.both(|file| reshape::punch(file, 2 * MIB + 1, 8 * KIB))?;
        let mut found = vec![1; 64 << 10];
        twin.volume.read_exact_at(&mut found, MIB)?;
        ensure!(
            found.iter().all(|byte| *byte == 0),
            "what was punched is not zero"
        );
        let map = SeekMap::of(&twin.volume)?;
        map.ensure_hole(MIB, MIB + 64 * KIB)?;
        map.ensure_data(2 * MIB, 2 * MIB + 4096)?;
        let now = twin.volume.metadata()?.blocks();
        ensure!(now == blocks - 128 - 8, "{now} blocks, {blocks} before");
        Ok(())
    })();
    rig.server.process()?.send(Signal::CONT)?;
    outcome?;
    twin.ensure_same()?;
    let at_server = std::fs::metadata(twin.original_path())?.blocks();
    assert_eq!(
        twin.volume.metadata()?.blocks(),
        at_server,
        "blocks after the fsync"
    );
    Ok(())
}

#[test]
fn punches_in_a_row_are_few_requests() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(256 * MIB)?;
    volume.write_all_at(&bytes(1, MIB)?, 100 * MIB)?;
    reshape::punch(&volume, 0, 64 * KIB)?;
    volume.sync_all()?;
    let before = rig.mount.settled()?;
    for start in (0..256 * MIB).step_by(64 << 10) {
        reshape::punch(&volume, start, 64 * KIB)?;
    }
    volume.sync_all()?;
    let requests = rig.mount.settled()?.requests_sent - before.requests_sent;
    ensure!(requests < 400, "{requests} requests for 4096 punches in a row");
    assert_eq!(compare::allocated_bytes(&rig.original("volume"))?, 0);
    Ok(())
}

#[test]
fn a_punch_survives_a_server_that_is_killed() -> Result<()> {
    let mut rig = empty()?;
    let twin = punched_once(&rig)?;
    for round in 1..4 {
        let start = round * MIB + 5;
        twin.both(|file| reshape::punch(file, start, 300 * KIB))?;
        twin.write(start + 100 * KIB, b"behind the punch")?;
        rig.restart_server()?;
        twin.ensure_same_now().with_context(|| format!("round {round}"))?;
    }
    twin.ensure_same()
}

#[test]
fn with_o_dsync_a_punch_is_at_the_server_when_it_returns() -> Result<()> {
    let rig = empty()?;
    let twin = punched_once(&rig)?;
    for (start, flags) in [
        (MIB, OFlags::DSYNC),
        (2 * MIB, OFlags::SYNC),
        (3 * MIB, OFlags::DIRECT),
    ] {
        let opened = File::options()
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(twin.volume_path())?;
        reshape::punch(&opened, start, 64 * KIB)?;
        let mut found = vec![1; 64 << 10];
        File::open(twin.original_path())?.read_exact_at(&mut found, start)?;
        ensure!(
            found.iter().all(|byte| *byte == 0),
            "{flags:?}: the server has not punched yet"
        );
    }
    Ok(())
}

/// Eight MiB of data of which the first 64 KiB were punched.
fn punched_once(rig: &Rig) -> Result<Twin> {
    let twin = Twin::filled(rig, "volume", |path| {
        samples::write_sparse(path, 8 * MIB, 8, [(0, 8 * MIB)])
    })?;
    SeekMap::of(&twin.volume)?;
    twin.both(|file| reshape::punch(file, 0, 64 * KIB))?;
    twin.volume.sync_all()?;
    Ok(twin)
}
