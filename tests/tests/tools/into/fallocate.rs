//! fallocate(1): digs holes where zeros are, punches, zeroes and reserves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command;
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;

use super::{ensure_shown, taken};

const MIB: u64 = 1 << 20;

/// 12 MiB of data with 4 MiB of written zeros in the middle.
fn with_zeros() -> Result<(Rig, Vec<u8>)> {
    let rig = Rig::filled(|_| Ok(()))?;
    let mut content = Random::new(1).bytes(12 << 20);
    content[4 << 20..8 << 20].fill(0);
    fs::write(rig.volume("volume"), &content)?;
    ensure!(taken(&rig, "volume")? >= 12 * MIB, "written zeros took no space");
    Ok((rig, content))
}

fn fallocate(options: &[&str], volume: &Path) -> Result<()> {
    let words = options.iter().copied().map(AsRef::as_ref);
    command::tool("fallocate", words.chain([volume.as_os_str()])).map(drop)
}

fn ensure_content(rig: &Rig, content: &[u8]) -> Result<()> {
    ensure!(fs::read(rig.volume("volume"))? == content, "the volume differs");
    // Only where the server has data: reading reserved space would make it data for ext4.
    ensure_shown(&rig.volume("volume"), &rig.original("volume"))
}

#[test]
fn dig_holes() -> Result<()> {
    let (rig, content) = with_zeros()?;
    fallocate(&["--dig-holes"], &rig.volume("volume"))?;
    ensure_content(&rig, &content)?;
    SeekMap::of_path(&rig.volume("volume"))?.ensure_hole(4 * MIB, 8 * MIB)?;
    let taken = taken(&rig, "volume")?;
    ensure!(taken <= 8 * MIB + (64 << 10), "{taken} bytes are taken");
    Ok(())
}

#[test]
fn punch() -> Result<()> {
    let (rig, mut content) = with_zeros()?;
    fallocate(&["-p", "-o", "1MiB", "-l", "2MiB"], &rig.volume("volume"))?;
    content[1 << 20..3 << 20].fill(0);
    ensure_content(&rig, &content)?;
    SeekMap::of_path(&rig.volume("volume"))?.ensure_hole(MIB, 3 * MIB)?;
    let taken = taken(&rig, "volume")?;
    ensure!(taken <= 10 * MIB + (64 << 10), "{taken} bytes are taken");
    Ok(())
}

#[test]
fn zero() -> Result<()> {
    let (rig, mut content) = with_zeros()?;
    fallocate(&["-z", "-o", "1MiB", "-l", "2MiB"], &rig.volume("volume"))?;
    content[1 << 20..3 << 20].fill(0);
    ensure_content(&rig, &content)?;
    fallocate(&["-z", "-o", "11MiB", "-l", "5MiB"], &rig.volume("volume"))?;
    content[11 << 20..].fill(0);
    content.resize(16 << 20, 0);
    ensure_content(&rig, &content)?;
    let taken = taken(&rig, "volume")?;
    ensure!(taken >= 16 * MIB, "{taken} bytes are taken: zeroing freed space");
    Ok(())
}

#[test]
fn reserve() -> Result<()> {
    let (rig, mut content) = with_zeros()?;
    fallocate(&["-l", "20MiB"], &rig.volume("volume"))?;
    content.resize(20 << 20, 0);
    ensure_content(&rig, &content)?;
    fallocate(&["-n", "-o", "20MiB", "-l", "4MiB"], &rig.volume("volume"))?;
    ensure_content(&rig, &content)?;
    let taken = taken(&rig, "volume")?;
    ensure!(taken >= 24 * MIB, "{taken} bytes are taken");
    Ok(())
}

/// What the mount does not do is refused, and named so.
#[test]
fn collapse_and_insert_are_refused() -> Result<()> {
    let (rig, content) = with_zeros()?;
    for option in ["--collapse-range", "--insert-range"] {
        let error = fallocate(&[option, "-o", "1MiB", "-l", "1MiB"], &rig.volume("volume")).err();
        let error = error.context("it was done")?.to_string();
        ensure!(error.contains("not supported"), "{option}: {error}");
    }
    ensure_content(&rig, &content)
}
