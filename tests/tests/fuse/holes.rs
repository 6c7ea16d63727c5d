//! Holes cost nothing: reading them sends no request, even when there is no server to send it to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::wait;
use rustix::process::Signal;

use crate::{MIB, aligned, open_direct};

const BLOCK: u64 = 4096;

/// What the keep-alive of an idle session may send while a test runs; one data block is more.
const KEEP_ALIVE_BYTES: u64 = 4096;

/// Reads the whole blocks of up to `count` holes of `file` directly, and returns how many bytes that was.
fn read_holes(file: &File, map: &SeekMap, count: usize) -> Result<u64> {
    let mut buffer = aligned(usize::try_from(MIB)?)?;
    let mut done = 0;
    for hole in map.holes().take(count) {
        let (mut at, end) = (hole.start.next_multiple_of(BLOCK), hole.end / BLOCK * BLOCK);
        // The ends and the middle of a very long hole stand for all of it.
        let end = if end.saturating_sub(at) > 64 * MIB {
            at + 64 * MIB
        } else {
            end
        };
        while at < end {
            let length = usize::try_from((end - at).min(MIB))?;
            buffer[..length].fill(1);
            file.read_exact_at(&mut buffer[..length], at)
                .with_context(|| format!("hole at {at}"))?;
            ensure!(
                buffer[..length].iter().all(|byte| *byte == 0),
                "a byte of the hole at {at} is not zero"
            );
            at += u64::try_from(length)?;
            done += u64::try_from(length)?;
        }
    }
    Ok(done)
}

fn reading_holes_sends_nothing(sample: &Path) -> Result<()> {
    let rig = Rig::over(sample)?;
    let volume = open_direct(&rig.volume(sample.file_name().context("no name")?))?;
    // The walk brings the whole map.
    let map = SeekMap::of(&volume)?;
    let before = rig.mount.settled()?;
    let read = read_holes(&volume, &map, 20_000)?;
    ensure!(read > MIB, "only {read} bytes of hole");
    let after = rig.mount.status()?;
    assert_eq!(after.requests_sent, before.requests_sent);
    assert_eq!(after.hole_bytes_read - before.hole_bytes_read, read);
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    assert_eq!(after.cache_bytes_read, before.cache_bytes_read);
    let received = after.bytes_received - before.bytes_received;
    ensure!(
        received < KEEP_ALIVE_BYTES,
        "{received} bytes received while reading holes"
    );
    Ok(())
}

#[test]
fn holes_between_random_extents_send_nothing() -> Result<()> {
    reading_holes_sends_nothing(&samples::random_extents()?)
}

#[test]
fn holes_between_many_extents_send_nothing() -> Result<()> {
    reading_holes_sends_nothing(&samples::many_extents()?)
}

#[test]
fn long_holes_send_nothing() -> Result<()> {
    reading_holes_sends_nothing(&samples::huge()?)
}

/// The same through the page cache: the kernel reads ahead, and every byte of it is counted as hole.
#[test]
fn a_volume_that_is_all_hole_needs_only_its_open() -> Result<()> {
    let size = 256 * MIB + 1;
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), size, 1, []))?;
    let file = rig.mount.open("volume")?;
    SeekMap::of(&file)?;
    let before = rig.mount.settled()?;
    compare::all_zero(&file, 0, size)?;
    let after = rig.mount.settled()?;
    assert_eq!(after.requests_sent, before.requests_sent);
    let read = after.hole_bytes_read - before.hole_bytes_read;
    ensure!(
        (size..=size.next_multiple_of(BLOCK)).contains(&read),
        "{read} bytes of hole read, not {size}"
    );
    Ok(())
}

#[test]
fn holes_and_cached_data_are_read_while_the_server_is_gone() -> Result<()> {
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 64 * MIB, 1, [(0, MIB)]))?;
    let volume = rig.mount.open("volume")?;
    let map = SeekMap::of(&volume)?;
    let mut expected = vec![0; usize::try_from(MIB)?];
    volume.read_exact_at(&mut expected, 0)?;
    rig.server.process()?.send(Signal::KILL)?;
    wait::until("the server to end", wait::LIMIT, || Ok(!rig.server.lives()?))?;
    compare::all_zero(&volume, MIB, 64 * MIB)?;
    let mut bytes = vec![0; expected.len()];
    volume.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == expected, "cached bytes changed");
    assert_eq!(SeekMap::of(&volume)?, map);
    Ok(())
}
