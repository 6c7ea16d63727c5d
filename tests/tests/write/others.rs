//! Another program changes the server's file after a close: what was closed, and not flushed, must not hide that.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::reshape;

use crate::{MIB, bytes, empty};

/// `change` is made through the mount; then the server's file is written to in the middle.
fn seen_after(change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&bytes(1, 2 * MIB)?, 0)?;
    volume.sync_all()?;
    change(&volume)?;
    drop(volume);
    let original = File::options().write(true).open(rig.original("volume"))?;
    original.write_all_at(&bytes(3, MIB)?, MIB / 2)?;
    drop(original);
    ensure!(
        fs::read(rig.volume("volume"))? == fs::read(rig.original("volume"))?,
        "the next open shows older bytes than the server has"
    );
    Ok(())
}

#[test]
fn a_closed_write_does_not_hide_a_later_change() -> Result<()> {
    seen_after(|file| Ok(file.write_all_at(&bytes(2, 100_000)?, MIB)?))
}

#[test]
fn a_closed_punch_does_not_hide_a_later_change() -> Result<()> {
    seen_after(|file| reshape::punch(file, MIB, 100_000))
}

#[test]
fn a_closed_zero_does_not_hide_a_later_change() -> Result<()> {
    seen_after(|file| reshape::zero(file, MIB, 100_000))
}

/// The same after an fsync: nothing is kept for a replay then.
#[test]
fn a_flushed_write_does_not_hide_a_later_change() -> Result<()> {
    seen_after(|file| {
        file.write_all_at(&bytes(2, 100_000)?, MIB)?;
        Ok(file.sync_all()?)
    })
}
