//! A reader that opens after the writer's fsync or close sees all of it at once, whatever it had cached before.
//! Nothing here waits or asks twice.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::reshape;

use crate::{Hosts, KIB, MIB, ensure_equal};

const ROUNDS: u64 = 20;
const SIZE_MAX: u64 = 3 * MIB;

/// Bytes, holes and the size change at random.
fn change(file: &File, random: &mut Random) -> Result<()> {
    for _ in 0..random.between(1, 6) {
        let (at, length) = (random.below(SIZE_MAX), random.between(1, 100_000));
        match random.below(6) {
            0 => reshape::punch(file, at, length)?,
            1 => file.set_len(at)?,
            _ => file.write_all_at(&random.bytes(usize::try_from(length)?), at)?,
        }
    }
    Ok(())
}

fn near() -> Result<Hosts> {
    Hosts::filled(|_| Ok(()))
}

/// Rounds of changes, each followed by `finished`, after which a reader opens the volume.
fn seen_after(
    hosts: &Hosts,
    rounds: u64,
    kept_open: bool,
    mut finished: impl FnMut(File) -> Result<Option<File>>,
) -> Result<()> {
    hosts.writer.create("volume")?.set_len(MIB)?;
    let original = File::open(hosts.rig.original("volume"))?;
    let mut random = Random::new(72);
    let mut writer = None;
    let mut readers = Vec::new();
    for round in 0..rounds {
        let file = match writer.take() {
            Some(file) => file,
            None => hosts.writer.open_for_writing("volume")?,
        };
        change(&file, &mut random)?;
        writer = finished(file)?;
        let reader = hosts.reader().open("volume")?;
        ensure_equal(&original, &reader).with_context(|| format!("round {round}"))?;
        // The pages of the reader's kernel stay between the rounds, with or without a descriptor.
        if kept_open {
            readers.push(reader);
        }
    }
    Ok(())
}

#[test]
fn after_an_fsync() -> Result<()> {
    seen_after(&near()?, ROUNDS, false, |writer| {
        writer.sync_all()?;
        Ok(Some(writer))
    })
}

#[test]
fn after_an_fsync_with_earlier_readers_open() -> Result<()> {
    seen_after(&near()?, ROUNDS, true, |writer| {
        writer.sync_all()?;
        Ok(Some(writer))
    })
}

#[test]
fn after_a_close() -> Result<()> {
    seen_after(&near()?, ROUNDS, false, |writer| {
        drop(writer);
        Ok(None)
    })
}

#[test]
fn after_a_close_with_earlier_readers_open() -> Result<()> {
    seen_after(&near()?, ROUNDS, true, |writer| {
        drop(writer);
        Ok(None)
    })
}

/// What the server tells the reader is still on its way when the volume is opened.
#[test]
fn before_a_reader_far_away_is_told() -> Result<()> {
    let hosts = Hosts::far(|_| Ok(()))?;
    seen_after(&hosts, ROUNDS / 4, true, |writer| {
        writer.sync_all()?;
        Ok(Some(writer))
    })
}

/// A new volume is there at once, under its name and with its bytes, although its name was asked for before.
#[test]
fn new_volumes() -> Result<()> {
    let hosts = near()?;
    for round in 0..ROUNDS {
        let name = format!("volume-{round}");
        ensure!(!hosts.reader().join(&name).exists(), "{name} is there already");
        let content = Random::new(round).bytes(usize::try_from(round * KIB + 1)?);
        std::fs::write(hosts.writer.join(&name), &content)?;
        let found = std::fs::read(hosts.reader().join(&name)).with_context(|| name.clone())?;
        ensure!(found == content, "{name} differs");
    }
    Ok(())
}
