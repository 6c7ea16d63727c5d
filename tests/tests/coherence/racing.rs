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
const VERSIONS: u64 = 3000;

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

/// The writer gives every block the next version, at random; `reading` makes the way that the other host reads.
fn read_while_written(
    reading: impl for<'a> FnOnce(&'a File, &'a Hosts) -> Result<Box<Read<'a>>> + Send,
) -> Result<()> {
    let hosts = Hosts::filled(|dir| Ok(std::fs::write(dir.join("volume"), block(0).repeat(64))?))?;
    let writer = hosts.rig.mount.open_for_writing("volume")?;
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            let file = hosts.reader.open("volume")?;
            let mut read = reading(&file, &hosts)?;
            let mut random = Random::new(73);
            let mut seen = vec![0; usize::try_from(BLOCKS)?];
            while written.load(Ordering::Acquire) < VERSIONS {
                let number = random.below(BLOCKS);
                let version = version_of(&read(number)?).with_context(|| format!("block {number}"))?;
                let newest = written.load(Ordering::Acquire) + 1;
                ensure!(
                    version <= newest,
                    "block {number}: version {version} was never written"
                );
                let last = &mut seen[usize::try_from(number)?];
                ensure!(version >= *last, "block {number}: version {version} after {last}");
                *last = version;
            }
            // The last word of the writer arrives without an fsync.
            let mut newest = 0;
            wait::until("the last version", wait::LIMIT, || {
                for number in 0..BLOCKS {
                    newest = newest.max(version_of(&read(number)?)?);
                }
                Ok(newest == VERSIONS)
            })
        });
        let mut random = Random::new(74);
        for version in 1..=VERSIONS {
            let at = random.below(BLOCKS) * u64::try_from(BLOCK_BYTES)?;
            writer.write_all_at(&block(version), at)?;
            written.store(version, Ordering::Release);
            if version % 500 == 0 {
                writer.sync_data()?;
            }
        }
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
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
        let file = open_direct(&hosts.reader.join("volume"))?;
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
        Ok(Box::new(move |number| {
            mapping.load(usize::try_from(number)? * BLOCK_BYTES, BLOCK_BYTES)
        }))
    })
}
