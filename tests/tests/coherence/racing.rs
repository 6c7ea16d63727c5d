//! One host writes and the other one reads the same blocks at the same time: each block that is read was written as it
//! is, and is never older than one that was read before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::direct::{aligned, open_direct};
use lacuna_tests::mapping::Mapping;
use lacuna_tests::random::Random;
use lacuna_tests::wait;

use crate::Hosts;

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 64;
/// Blocks that a reader has to find changed.
const CHANGES: u64 = 1000;
/// Reads between two pauses, which let the writer go on on a machine with few cores.
const READS_EACH: u64 = 200;
/// Versions from one fsync to the next.
const SYNC_EACH: u64 = 500;

/// How a block is read.
type Read<'a> = dyn FnMut(u64) -> Result<Vec<u8>> + 'a;

fn block(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(BLOCK_BYTES / size_of::<u64>())
}

/// The one version that all of a block is of.
fn version_of(bytes: &[u8]) -> Result<u64> {
    let first = bytes.first_chunk().context("too short")?;
    let version = u64::from_le_bytes(*first);
    ensure!(bytes == block(version), "a block is not all of version {version}");
    Ok(version)
}

/// The writer gives one block after the other the next version, until the reader has read enough; `reading` makes the
/// way that the other host reads.
fn read_while_written(
    reading: impl for<'a> FnOnce(&'a File, &'a Hosts) -> Result<Box<Read<'a>>> + Send,
) -> Result<()> {
    let hosts = Hosts::filled(|dir| Ok(std::fs::write(dir.join("volume"), block(0).repeat(64))?))?;
    let writer = hosts.writer.open_for_writing("volume")?;
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            let file = hosts.reader().open("volume")?;
            let mut read = reading(&file, &hosts)?;
            read_on(&mut read, &written)
        });
        let mut random = Random::new(74);
        for version in 1.. {
            if reader.is_finished() {
                break;
            }
            let at = random.below(BLOCKS) * u64::try_from(BLOCK_BYTES)?;
            writer.write_all_at(&block(version), at)?;
            written.store(version, Ordering::Release);
            if version % SYNC_EACH == 0 {
                writer.sync_data()?;
            }
        }
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })
}

/// Reads at random until it has seen blocks change often enough.
fn read_on(read: &mut Read<'_>, written: &AtomicU64) -> Result<()> {
    let mut random = Random::new(73);
    let mut seen = vec![0; usize::try_from(BLOCKS)?];
    let mut changes = 0;
    wait::until("enough changes to be seen", wait::LIMIT, || {
        for _ in 0..READS_EACH {
            let number = random.below(BLOCKS);
            let version = version_of(&read(number)?).with_context(|| format!("block {number}"))?;
            // One write may be under way.
            let newest = written.load(Ordering::Acquire) + 1;
            ensure!(
                version <= newest,
                "block {number}: version {version} was never written"
            );
            let last = &mut seen[usize::try_from(number)?];
            ensure!(version >= *last, "block {number}: version {version} after {last}");
            changes += u64::from(version > *last);
            *last = version;
        }
        Ok(changes >= CHANGES)
    })
}

#[test]
fn buffered() -> Result<()> {
    read_while_written(|file, _| {
        Ok(Box::new(move |number| {
            let mut bytes = vec![0; BLOCK_BYTES];
            file.read_exact_at(&mut bytes, number * u64::try_from(BLOCK_BYTES)?)?;
            Ok(bytes)
        }))
    })
}

#[test]
fn direct() -> Result<()> {
    read_while_written(|_, hosts| {
        let file = open_direct(&hosts.reader().join("volume"))?;
        Ok(Box::new(move |number| {
            let mut bytes = aligned(BLOCK_BYTES)?;
            file.read_exact_at(&mut bytes, number * u64::try_from(BLOCK_BYTES)?)?;
            Ok(bytes.to_vec())
        }))
    })
}

#[test]
fn mapped() -> Result<()> {
    read_while_written(|file, _| {
        let mapping = Mapping::for_loads(file, 0, BLOCK_BYTES * usize::try_from(BLOCKS)?)?;
        // A page may be replaced between two loads: only what one load takes is of one version.
        let mut random = Random::new(75);
        Ok(Box::new(move |number| {
            let block = usize::try_from(number)? * BLOCK_BYTES;
            let at = usize::try_from(random.below(512))? * size_of::<u64>();
            let word = mapping.load(block + at, size_of::<u64>())?;
            Ok(word.repeat(BLOCK_BYTES / size_of::<u64>()))
        }))
    })
}
