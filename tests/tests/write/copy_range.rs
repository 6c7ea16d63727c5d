//! copy_file_range: made by the server, holes kept, space shared where its file system can.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use lacuna_tests::{compare, host, reshape, samples};

use crate::{GIB, KIB, MIB, bytes, empty};

#[test]
fn a_sparse_volume_stays_sparse() -> Result<()> {
    let rig = empty()?;
    let extents = [(0, MIB), (100 * MIB, 102 * MIB + 5), (GIB - 100, GIB)];
    samples::write_sparse(&rig.original("source"), GIB, 5, extents)?;
    let source = rig.mount.open("source")?;
    let target = rig.mount.create("target")?;
    let before = rig.mount.settled()?;
    reshape::copy_range(&source, 0, &target, 0, GIB)?;
    let after = rig.mount.settled()?;
    let (sent, received) = (
        after.bytes_sent - before.bytes_sent,
        after.bytes_received - before.bytes_received,
    );
    ensure!(
        sent + received < 256 * KIB,
        "{sent} bytes sent and {received} received for a copy at the server"
    );
    target.sync_all()?;
    let map = SeekMap::of(&target)?;
    SeekMap::of(&source)?.ensure_within(&map)?;
    map.ensure_hole(2 * MIB, 99 * MIB)?;
    map.ensure_hole(103 * MIB, 1000 * MIB)?;
    for copy in [rig.volume("target"), rig.original("target")] {
        compare::same_bytes(&rig.original("source"), &copy, compare::Reading::Data)?;
    }
    compare::same_space(
        &rig.original("source"),
        &rig.original("target"),
        compare::Space::Same,
    )
}

/// What was written and not yet sent, on both sides, counts.
#[test]
fn dirty_bytes_are_copied() -> Result<()> {
    let rig = empty()?;
    let (source, target) = (Twin::create(&rig, "source")?, Twin::create(&rig, "target")?);
    source.write(10_000, &bytes(1, 500_000)?)?;
    target.write(0, &bytes(2, 2 * MIB)?)?;
    for (start, to, length) in [
        (10_000, 0, 500_000),
        (100_001, 700_003, 123_457),
        (300_000, 2 * MIB - 10, 4096),
    ] {
        reshape::copy_range(&source.local, start, &target.local, to, length)?;
        reshape::copy_range(&source.volume, start, &target.volume, to, length)?;
        target
            .ensure_same_now()
            .with_context(|| format!("copied to {to}"))?;
    }
    source.ensure_same()?;
    target.ensure_same()
}

/// Holes of the source become holes where the target had data.
#[test]
fn holes_replace_data() -> Result<()> {
    let rig = empty()?;
    let source = rig.mount.create("source")?;
    source.set_len(4 * MIB)?;
    source.write_all_at(&bytes(1, MIB)?, MIB)?;
    let target = rig.mount.create("target")?;
    target.write_all_at(&bytes(2, 4 * MIB)?, 0)?;
    target.sync_all()?;
    reshape::copy_range(&source, 0, &target, 0, 4 * MIB)?;
    let map = SeekMap::of(&target)?;
    map.ensure_hole(0, MIB)?;
    map.ensure_data(MIB, 2 * MIB)?;
    map.ensure_hole(2 * MIB, 4 * MIB)?;
    target.sync_all()?;
    let mut expected = vec![0; 4 << 20];
    expected[1 << 20..2 << 20].copy_from_slice(&bytes(1, MIB)?);
    ensure!(fs::read(rig.volume("target"))? == expected, "the volume differs");
    ensure!(
        fs::read(rig.original("target"))? == expected,
        "the server's file differs"
    );
    let taken = compare::allocated_bytes(&rig.original("target"))?;
    ensure!(taken <= MIB + 64 * KIB, "{taken} bytes are taken");
    Ok(())
}

#[test]
fn inside_one_volume_and_at_its_end() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(0, &bytes(1, MIB + 11)?)?;
    twin.both(|file| reshape::copy_range(file, 0, file, 2 * MIB, MIB))?;
    twin.both(|file| reshape::copy_range(file, 4095, file, 900_001, 70_000))?;
    twin.ensure_same_now()?;
    // A source that ends early is a short copy, and one at its end copies nothing.
    twin.both(|file| {
        let size = file.metadata()?.len();
        let (mut from, mut to) = (size - 100, 0);
        let copied = rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), 4096)?;
        assert_eq!(copied, 100);
        let (mut from, mut to) = (size, 0);
        let copied = rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), 4096)?;
        assert_eq!(copied, 0);
        Ok(())
    })?;
    twin.ensure_same()
}

fn on(sandbox: Sandbox, backing: &Backing) -> Result<()> {
    let rig = Rig::start(sandbox, backing.served().to_owned(), &[])?;
    samples::write_sparse(&rig.original("source"), 128 * MIB, 5, [(0, 64 * MIB)])?;
    File::open(rig.original("source"))?.sync_all()?;
    let free = backing.free_bytes()?;
    let target = rig.mount.create("target")?;
    reshape::copy_range(&rig.mount.open("source")?, 0, &target, 0, 128 * MIB)?;
    target.sync_all()?;
    compare::same_bytes(
        &rig.original("source"),
        &rig.volume("target"),
        compare::Reading::Data,
    )?;
    let taken = free.saturating_sub(backing.free_bytes()?);
    ensure!(
        taken < 16 * MIB,
        "the copy of 64 MiB took {taken} bytes: nothing is shared"
    );
    // One of the two changes; the other keeps its bytes.
    target.write_all_at(&bytes(9, 100_000)?, 5 * MIB)?;
    target.sync_all()?;
    let mut found = vec![0; 100_000];
    File::open(rig.original("source"))?.read_exact_at(&mut found, 5 * MIB)?;
    ensure!(
        found != bytes(9, 100_000)?,
        "a write into the copy reached the source"
    );
    File::open(rig.original("target"))?.read_exact_at(&mut found, 5 * MIB)?;
    ensure!(found == bytes(9, 100_000)?, "a write into the copy is lost");
    Ok(())
}

#[test]
fn space_is_shared_on_xfs() -> Result<()> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let backing = Backing::made_by(&sandbox, 512 * MIB, "mkfs.xfs", &["-q"])?;
    on(sandbox, &backing)
}

#[test]
fn space_is_shared_on_btrfs() -> Result<()> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let backing = Backing::made_by(&sandbox, 512 * MIB, "mkfs.btrfs", &["-q"])?;
    on(sandbox, &backing)
}
