//! Shared writable mappings: what was stored is data at once, before any sync, and reaches the server.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::mapping::Mapping;
use lacuna_tests::random::Random;
use lacuna_tests::reshape;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::twin::Twin;
use rustix::fs::{SeekFrom, seek};

use crate::{KIB, MIB, bytes, empty};

const LENGTH: usize = 8 << 20;

/// The kernel keeps the page dirty and asks lseek of the daemon: it must fetch that page first.
#[test]
fn a_dirty_page_is_never_in_a_hole() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * MIB)?;
    let mut mapping = Mapping::shared(&volume, 0, LENGTH)?;
    let mut random = Random::new(41);
    for round in 0..100 {
        let at = random.below(8 * MIB);
        mapping.store(usize::try_from(at)?, b"x")?;
        let found =
            seek(&volume, SeekFrom::Data(at)).with_context(|| format!("SEEK_DATA at {at}, round {round}"))?;
        assert_eq!(found, at, "SEEK_DATA in round {round}");
        let hole = seek(&volume, SeekFrom::Hole(at))?;
        ensure!(hole > at, "SEEK_HOLE at {at} says {hole}, round {round}");
        if round % 10 == 9 {
            reshape::punch(&volume, 0, 8 * MIB)?;
        }
    }
    Ok(())
}

/// The same, asked through another descriptor, and one that was opened after the store.
#[test]
fn other_descriptors_see_a_dirty_page() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * MIB)?;
    let before = rig.mount.open("volume")?;
    let mut mapping = Mapping::shared(&volume, 0, LENGTH)?;
    mapping.store(5 << 20, b"stored")?;
    let after = rig.mount.open("volume")?;
    for file in [&before, &after] {
        SeekMap::of(file)?.ensure_data(5 * MIB, 5 * MIB + 6)?;
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 5 * MIB)?;
        assert_eq!(&found, b"stored");
    }
    Ok(())
}

#[test]
fn msync_reaches_the_servers_file() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * MIB)?;
    let mut mapping = Mapping::shared(&volume, 0, LENGTH)?;
    for round in 0..10 {
        let content = bytes(round, 10_000)?;
        let at = usize::try_from(round * 700_001)?;
        mapping.store(at, &content)?;
        mapping.sync()?;
        ensure!(
            fs::read(rig.original("volume"))?[at..][..content.len()] == content,
            "round {round}"
        );
    }
    Ok(())
}

#[test]
fn unmapping_and_closing_reaches_the_servers_file() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * MIB)?;
    let mut mapping = Mapping::shared(&volume, 0, LENGTH)?;
    let content = bytes(1, 3 * MIB)?;
    mapping.store(12_345, &content)?;
    drop(mapping);
    drop(volume);
    ensure!(
        fs::read(rig.original("volume"))?[12_345..][..content.len()] == content,
        "the server's file differs"
    );
    Ok(())
}

/// Stores, writes, punches and reads of one file see each other, as on a local file system.
#[test]
fn mappings_and_calls_see_each_other() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.both(|file| Ok(file.set_len(8 * MIB)?))?;
    let mut ours = Mapping::shared(&twin.volume, 0, LENGTH)?;
    let mut theirs = Mapping::shared(&twin.local, 0, LENGTH)?;
    let mut random = Random::new(42);
    for round in 0..150 {
        let length = random.between(1, 30_000);
        let start = random.below(8 * MIB - length);
        let (at, content) = (usize::try_from(start)?, random.bytes(usize::try_from(length)?));
        match random.below(5) {
            0 | 1 => {
                ours.store(at, &content)?;
                theirs.store(at, &content)?;
            }
            2 => twin.write(start, &content)?,
            3 => twin.both(|file| reshape::punch(file, start, length))?,
            _ => {
                let mut read = vec![0; content.len()];
                twin.volume.read_exact_at(&mut read, start)?;
                ensure!(
                    read == theirs.load(at, content.len())?,
                    "read at {start}, round {round}"
                );
                ensure!(
                    ours.load(at, content.len())? == read,
                    "load at {start}, round {round}"
                );
            }
        }
        if round % 25 == 24 {
            twin.ensure_same_now().with_context(|| format!("round {round}"))?;
        }
    }
    twin.ensure_same()
}

/// Beyond the end of the volume the last page is not part of it: what is stored there is never in the file.
#[test]
fn stores_beyond_the_end_are_not_in_the_file() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(0, &bytes(1, 5000)?)?;
    for file in [&twin.local, &twin.volume] {
        let mut mapping = Mapping::shared(file, 0, 8192)?;
        mapping.store(4990, &[7; 100])?;
        mapping.sync()?;
    }
    assert_eq!(twin.volume.metadata()?.len(), 5000);
    twin.ensure_same()?;
    twin.both(|file| Ok(file.set_len(64 * KIB)?))?;
    twin.ensure_same()
}
