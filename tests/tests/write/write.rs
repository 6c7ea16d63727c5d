//! pwrite and append: right bytes at every edge, few requests, and seen at once.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::direct::{aligned, aligned_from, open_direct_for_writing};
use lacuna_tests::random::Random;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::{KIB, MIB, TIB, bytes, empty};

#[test]
fn bytes_are_right_at_every_edge() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    let mut seed = 0;
    for at in [0, 1, 4095, 4096, 4097, 64 * KIB - 1, MIB, MIB + 1, 9 * MIB + 511] {
        for length in [1, 511, 4095, 4096, 4097, 130 * KIB + 7] {
            seed += 1;
            twin.write(at, &bytes(seed, length)?)?;
        }
        twin.ensure_same_now()
            .with_context(|| format!("after writes at {at}"))?;
    }
    twin.ensure_same()
}

#[test]
fn writes_into_an_older_volume_change_only_what_they_cover() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 8 * MIB + 77, 3, [(MIB, 3 * MIB), (6 * MIB + 5, 7 * MIB)])
    })?;
    let mut random = Random::new(17);
    for _ in 0..200 {
        let length = random.between(1, 20_000);
        let at = random.below(8 * MIB + 77 - length);
        twin.write(at, &random.bytes(usize::try_from(length)?))?;
    }
    twin.ensure_same()
}

/// The later of two writes wins in every overlap, whatever was sent in between.
#[test]
fn overlapping_writes_keep_their_order() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    let mut random = Random::new(18);
    for round in 0..600 {
        let length = random.between(1, 48 * KIB);
        twin.write(random.below(256 * KIB), &random.bytes(usize::try_from(length)?))?;
        if round % 150 == 0 {
            twin.volume.sync_all()?;
        }
    }
    twin.ensure_same()
}

#[test]
fn a_write_far_beyond_the_end_leaves_a_hole() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(0, b"first")?;
    twin.write(TIB + 3, b"last")?;
    twin.ensure_same()?;
    twin.ensure_taken_at_most(64 * KIB)?;
    let map = SeekMap::of(&twin.volume)?;
    assert_eq!(map.size, TIB + 7);
    map.ensure_hole(64 * KIB, TIB)
}

/// 8 MiB in 8,192 writes: what goes to the server is merged.
#[test]
fn dribbles_become_few_requests() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    let before = rig.mount.settled()?;
    let content = bytes(19, 8 * MIB)?;
    for (at, piece) in (0..).step_by(1024).zip(content.chunks(1024)) {
        twin.write(at, piece)?;
    }
    twin.volume.sync_all()?;
    let after = rig.mount.settled()?;
    let requests = after.requests_sent - before.requests_sent;
    ensure!(requests <= 200, "{requests} requests for 8192 writes of 1 KiB");
    assert_eq!(after.written_bytes - before.written_bytes, 8 * MIB);
    twin.ensure_same()
}

/// With the server stopped, a write is acknowledged, and reads, lseek and st_blocks know of it.
#[test]
fn a_write_is_seen_at_once_and_needs_no_server() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(4 * MIB)?;
    volume.write_all_at(b"warm", 0)?;
    volume.sync_all()?;
    let other = rig.mount.open("volume")?;
    let blocks = other.metadata()?.blocks();
    rig.server.process()?.send(Signal::STOP)?;
    let outcome = (|| -> Result<()> {
        let content = bytes(20, 300 * KIB)?;
        volume.write_all_at(&content, MIB)?;
        let mut found = vec![0; content.len()];
        other.read_exact_at(&mut found, MIB)?;
        ensure!(found == content, "another descriptor reads other bytes");
        let map = SeekMap::of(&other)?;
        map.ensure_data(MIB, MIB + 300 * KIB)?;
        map.ensure_hole(2 * MIB, 4 * MIB)?;
        let now = other.metadata()?.blocks();
        ensure!(
            now >= blocks + 600,
            "{now} blocks, {blocks} before 600 were written"
        );
        Ok(())
    })();
    rig.server.process()?.send(Signal::CONT)?;
    outcome?;
    volume.sync_all()?;
    compare::same_bytes(
        &rig.original("volume"),
        &rig.volume("volume"),
        Reading::Everything,
    )
}

#[test]
fn after_close_the_bytes_are_at_the_server() -> Result<()> {
    let rig = empty()?;
    let content = bytes(21, 5 * MIB + 3)?;
    for round in 0..5 {
        fs::write(rig.volume("volume"), &content[round..])?;
        ensure!(
            fs::read(rig.original("volume"))? == content[round..],
            "the server's file differs after close, round {round}"
        );
    }
    Ok(())
}

/// Each appended record is whole, none is lost, and each writer's own stay in order.
#[test]
fn appending_threads_lose_nothing() -> Result<()> {
    const RECORDS: u32 = 300;
    let rig = empty()?;
    thread::scope(|scope| {
        let append = |writer: u8| {
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(rig.volume("log"))?;
            for record in 0..RECORDS {
                let mut line = vec![writer; 60];
                line.extend(record.to_le_bytes());
                file.write_all(&line)?;
            }
            Ok::<_, std::io::Error>(())
        };
        let writers: Vec<_> = (1..=3)
            .map(|writer| scope.spawn(move || append(writer)))
            .collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
            Ok::<_, anyhow::Error>(())
        })
    })?;
    let log = fs::read(rig.original("log"))?;
    assert_eq!(log.len(), 3 * 300 * 64);
    let mut next = [0; 4];
    for line in log.chunks(64) {
        let writer = line[0];
        ensure!(line[..60].iter().all(|byte| *byte == writer), "a record is torn");
        let record = u32::from_le_bytes(line[60..].try_into()?);
        assert_eq!(record, next[usize::from(writer)], "records of writer {writer}");
        next[usize::from(writer)] += 1;
    }
    assert_eq!(next, [0, RECORDS, RECORDS, RECORDS]);
    Ok(())
}

/// O_SYNC and O_DSYNC: the server's file has the bytes when write returns.
#[test]
fn synchronous_writes_are_at_the_server_when_they_return() -> Result<()> {
    let rig = empty()?;
    for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
        let flag = i32::try_from(flag.bits())?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .custom_flags(flag)
            .open(rig.volume(name))?;
        let mut expected = Vec::new();
        for round in 0..20 {
            let content = bytes(round, 5000)?;
            file.write_all_at(&content, round * 5000)?;
            expected.extend(content);
            ensure!(
                fs::read(rig.original(name))? == expected,
                "{name}: the server's file differs after write {round}"
            );
        }
    }
    Ok(())
}

#[test]
fn direct_writes_are_at_the_server_when_they_return() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 4 * MIB, 5, [(MIB, 2 * MIB)])
    })?;
    let direct = open_direct_for_writing(twin.volume_path())?;
    for (seed, at, length) in [
        (1, 0, 4096),
        (2, MIB - 4096, 8192),
        (3, 3 * MIB, 256 * KIB),
        (4, 4 * MIB, 4096),
    ] {
        let content = bytes(seed, length)?;
        twin.local.write_all_at(&content, at)?;
        direct.write_all_at(&aligned_from(&content)?, at)?;
        twin.ensure_same_at_the_server()
            .with_context(|| format!("after a direct write at {at}"))?;
    }
    twin.ensure_same()
}

/// Buffered and direct writes and reads of one volume see each other.
#[test]
fn direct_and_buffered_see_each_other() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(0, &bytes(1, MIB)?)?;
    let direct = open_direct_for_writing(twin.volume_path())?;
    let mut random = Random::new(22);
    for _ in 0..60 {
        let (at, length) = (random.below(255) * 4096, random.between(1, 8) * 4096);
        let content = random.bytes(usize::try_from(length)?);
        twin.local.write_all_at(&content, at)?;
        if random.below(2) == 0 {
            direct.write_all_at(&aligned_from(&content)?, at)?;
            let mut found = vec![0; content.len()];
            twin.volume.read_exact_at(&mut found, at)?;
            ensure!(found == content, "a buffered read misses a direct write at {at}");
        } else {
            twin.volume.write_all_at(&content, at)?;
            let mut found = aligned(content.len())?;
            direct.read_exact_at(&mut found, at)?;
            ensure!(
                found[..] == content,
                "a direct read misses a buffered write at {at}"
            );
        }
    }
    twin.ensure_same()
}

#[test]
fn a_file_that_is_too_large_is_refused() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    let error = volume
        .write_at(b"x", u64::MAX / 2)
        .err()
        .and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(rustix::io::Errno::FBIG.raw_os_error())
            || error == Some(rustix::io::Errno::INVAL.raw_os_error()),
        "writing at 2^63 - 1: {error:?}"
    );
    assert_eq!(volume.metadata()?.len(), 0);
    Ok(())
}
