//! A server without space: ENOSPC reaches the one who writes, and what was acknowledged is kept until it fits.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{command, host, wait};
use rustix::io::Errno;

use crate::{KIB, MIB, bytes};

const SPACE: u64 = 16 * MIB;

/// A rig on a file system of 16 MiB, which ends before that does.
fn small() -> Result<(Rig, Backing)> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let backing = Backing::tmpfs(&sandbox, SPACE)?;
    let rig = Rig::start(sandbox, backing.served().to_owned(), &[])?;
    Ok((rig, backing))
}

fn is_full<T>(outcome: &io::Result<T>) -> bool {
    let error = outcome.as_ref().err().and_then(io::Error::raw_os_error);
    error == Some(Errno::NOSPC.raw_os_error())
}

#[test]
fn a_writer_is_told() -> Result<()> {
    let (rig, _backing) = small()?;
    let volume = rig.mount.create("volume")?;
    let outcome = (0..2 * SPACE / MIB)
        .try_for_each(|round| {
            let content = bytes(round, MIB).map_err(io::Error::other)?;
            volume.write_all_at(&content, round * MIB)
        })
        .and_then(|()| volume.sync_all());
    ensure!(is_full(&outcome), "32 MiB into 16: {outcome:?}");
    Ok(())
}

/// dd reports an error of close as well.
#[test]
fn a_tool_fails_and_says_why() -> Result<()> {
    let (rig, _backing) = small()?;
    let mut dd = rig.sandbox.command("dd");
    let mut target = std::ffi::OsString::from("of=");
    target.push(rig.volume("volume"));
    dd.args(["if=/dev/urandom", "bs=64k", "count=512"]).arg(target);
    let ended = command::finish(&mut dd)?;
    ensure!(!ended.success(), "dd wrote 32 MiB into 16: {ended:?}");
    ensure!(
        ended.stderr.contains("No space left on device"),
        "{}",
        ended.stderr
    );
    Ok(())
}

/// The bytes stay with the client, are read from there, and arrive once there is room.
#[test]
fn what_was_acknowledged_arrives_once_there_is_room() -> Result<()> {
    let (rig, backing) = small()?;
    let volume = rig.mount.create("volume")?;
    let ballast = backing.served().join("ballast");
    fs::write(&ballast, bytes(9, SPACE - 2 * MIB)?)?;
    let content = bytes(1, 6 * MIB)?;
    let mut acknowledged = 0;
    for piece in content.chunks(64 << 10) {
        let outcome = volume.write_all_at(piece, u64::try_from(acknowledged)?);
        if is_full(&outcome) {
            break;
        }
        outcome?;
        acknowledged += piece.len();
    }
    ensure!(acknowledged > 0, "nothing was acknowledged");
    if acknowledged == content.len() {
        let outcome = volume.sync_all();
        ensure!(is_full(&outcome), "6 MiB into 2, fsync: {outcome:?}");
    }
    let kept = content.get(..acknowledged).context("too much")?;
    ensure!(
        read(&volume, kept.len())? == kept,
        "acknowledged bytes are gone while the server is full"
    );
    fs::remove_file(&ballast)?;
    wait::until("an fsync to succeed", wait::LIMIT, || {
        let outcome = volume.sync_all();
        ensure!(outcome.is_ok() || is_full(&outcome), "fsync: {outcome:?}");
        Ok(outcome.is_ok())
    })?;
    ensure!(
        read(&volume, kept.len())? == kept,
        "acknowledged bytes are gone after the fsync"
    );
    ensure!(
        fs::read(rig.original("volume"))?.get(..kept.len()) == Some(kept),
        "the server's file differs"
    );
    Ok(())
}

/// Each descriptor that was open hears of it, once.
#[test]
fn every_open_descriptor_is_told_once() -> Result<()> {
    let (rig, backing) = small()?;
    let first = rig.mount.create("volume")?;
    let second = rig.mount.open_for_writing("volume")?;
    let ballast = backing.served().join("ballast");
    fs::write(&ballast, bytes(9, SPACE - MIB)?)?;
    // Acknowledged; it cannot fit.
    let outcome = first
        .write_all_at(&bytes(1, 3 * MIB)?, 0)
        .and_then(|()| first.sync_all());
    ensure!(is_full(&outcome), "3 MiB into 1: {outcome:?}");
    let outcome = second.sync_all();
    ensure!(is_full(&outcome), "the other descriptor: {outcome:?}");
    fs::remove_file(&ballast)?;
    wait::until("an fsync to succeed", wait::LIMIT, || {
        Ok(first.sync_all().is_ok())
    })?;
    first.sync_all()?;
    second.sync_all()?;
    // A descriptor that is opened now hears nothing.
    rig.mount.open("volume")?.sync_all()?;
    Ok(())
}

/// Overwriting what is there needs no space, and neither does a punch.
#[test]
fn a_full_server_takes_what_needs_no_space() -> Result<()> {
    let (rig, backing) = small()?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&bytes(1, 4 * MIB)?, 0)?;
    volume.sync_all()?;
    let free = backing.free_bytes()?;
    let ballast = File::create(backing.served().join("ballast"))?;
    ballast.write_all_at(&bytes(9, free)?, 0)?;
    assert_eq!(backing.free_bytes()?, 0);
    volume.write_all_at(&bytes(2, MIB)?, MIB)?;
    volume.sync_all()?;
    lacuna_tests::reshape::punch(&volume, 3 * MIB, MIB)?;
    ensure!(backing.free_bytes()? >= MIB - 64 * KIB, "the punch freed nothing");
    let mut expected = bytes(1, 4 * MIB)?;
    expected[1 << 20..2 << 20].copy_from_slice(&bytes(2, MIB)?);
    expected[3 << 20..].fill(0);
    ensure!(
        fs::read(rig.original("volume"))? == expected,
        "the server's file differs"
    );
    Ok(())
}

fn read(file: &File, length: usize) -> Result<Vec<u8>> {
    let mut found = vec![0; length];
    file.read_exact_at(&mut found, 0)?;
    Ok(found)
}
