//! A volume that another program changes on the server: seen at the next open at the latest, never half old.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{samples, wait};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::{KIB, MIB};

fn rig() -> Result<Rig> {
    Rig::filled(|dir| {
        samples::write_sparse(
            &dir.join("volume"),
            8 * MIB,
            41,
            [(MIB, 3 * MIB), (6 * MIB, 7 * MIB)],
        )
    })
}

/// Applies `change` to the original after everything was read and cached, then opens the volume again.
fn seen_at_the_next_open(change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let rig = rig()?;
    let (original, volume) = (rig.original("volume"), rig.volume("volume"));
    compare::same_bytes(&original, &volume, Reading::Everything)?;
    let file = File::options().read(true).write(true).open(&original)?;
    change(&file)?;
    file.sync_all()?;
    let opened = File::open(&volume)?;
    assert_eq!(opened.metadata()?.len(), file.metadata()?.len());
    assert_eq!(SeekMap::of(&opened)?, SeekMap::of(&file)?);
    compare::same_bytes(&original, &volume, Reading::Everything)
}

#[test]
fn bytes_overwritten() -> Result<()> {
    seen_at_the_next_open(|file| Ok(file.write_all_at(&vec![9; 300_000], 2 * MIB)?))
}

#[test]
fn data_written_into_a_hole() -> Result<()> {
    seen_at_the_next_open(|file| Ok(file.write_all_at(b"new", 5 * MIB)?))
}

#[test]
fn a_hole_punched() -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    seen_at_the_next_open(|file| Ok(fallocate(file, flags, MIB, 512 * KIB)?))
}

#[test]
fn grown() -> Result<()> {
    seen_at_the_next_open(|file| {
        file.set_len(20 * MIB + 5)?;
        Ok(file.write_all_at(b"at the end", 20 * MIB - 5)?)
    })
}

#[test]
fn shrunk() -> Result<()> {
    seen_at_the_next_open(|file| Ok(file.set_len(2 * MIB + 77)?))
}

/// A reader that keeps the volume open sees new bytes and the new map without opening it again.
#[test]
fn changes_reach_an_open_volume() -> Result<()> {
    let rig = rig()?;
    let volume = rig.mount.open("volume")?;
    compare::same_bytes(
        &rig.original("volume"),
        &rig.volume("volume"),
        Reading::Everything,
    )?;
    let original = File::options()
        .read(true)
        .write(true)
        .open(rig.original("volume"))?;
    original.write_all_at(b"pushed into data", 2 * MIB)?;
    original.write_all_at(b"pushed into a hole", 4 * MIB)?;
    original.sync_all()?;
    let map = SeekMap::of(&original)?;
    wait::until("a change to reach an open volume", wait::LIMIT, || {
        let (mut data, mut hole) = ([0; 16], [0; 18]);
        volume.read_exact_at(&mut data, 2 * MIB)?;
        volume.read_exact_at(&mut hole, 4 * MIB)?;
        Ok(&data == b"pushed into data" && &hole == b"pushed into a hole" && SeekMap::of(&volume)? == map)
    })
}

/// Each open sees one version, although its predecessor lies in every cache.
#[test]
fn a_replaced_volume_is_one_version_at_each_open() -> Result<()> {
    const VERSIONS: u8 = 40;
    let length = usize::try_from(2 * MIB)?;
    let rig = Rig::filled(|dir| Ok(fs::write(dir.join("volume"), vec![1; length])?))?;
    let done = AtomicBool::new(false);
    let read = || -> Result<u8> {
        let bytes = loop {
            match fs::read(rig.volume("volume")) {
                // Replaced again between looking the name up and opening it, twice in a row: the kernel
                // tries only once more. See docs/SEMANTICS.md.
                Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => {}
                other => break other?,
            }
        };
        let version = *bytes.first().ok_or_else(|| anyhow!("empty"))?;
        ensure!(bytes.len() == length, "{} bytes", bytes.len());
        ensure!(
            bytes.iter().all(|byte| *byte == version),
            "version {version} is mixed with another"
        );
        Ok(version)
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let version = read()?;
                ensure!(version >= last, "version {version} after {last}");
                last = version;
            }
            Ok(())
        });
        let outcome = (2..=VERSIONS).try_for_each(|version| -> Result<()> {
            let draft = rig.original("draft");
            fs::write(&draft, vec![version; length])?;
            Ok(fs::rename(&draft, rig.original("volume"))?)
        });
        done.store(true, Ordering::Release);
        outcome?;
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })?;
    wait::until("the last version", wait::LIMIT, || Ok(read()? == VERSIONS))
}

#[test]
fn a_removed_volume_is_gone() -> Result<()> {
    let rig = rig()?;
    ensure!(rig.volume("volume").exists());
    fs::remove_file(rig.original("volume"))?;
    wait::until("a removed name to be gone", wait::LIMIT, || {
        Ok(!rig.volume("volume").exists())
    })
}
