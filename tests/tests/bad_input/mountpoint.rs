//! Mountpoints that are missing, no folders, or taken, and options that do not exist.

use std::fs;

use anyhow::{Result, ensure};
use lacuna_tests::mount_table;

use crate::{Stage, ensure_nothing_left, ensure_refused};

#[test]
fn missing() -> Result<()> {
    let stage = Stage::new()?;
    let missing = stage.sandbox.join("not there");
    let ended = stage.client.try_mount(stage.spec().as_ref(), &missing, &[])?;
    ensure_refused(&ended, &["not there"])?;
    ensure!(!missing.exists(), "the mountpoint was made");
    ensure_nothing_left(&stage.sandbox, &missing)
}

#[test]
fn not_a_folder() -> Result<()> {
    let stage = Stage::new()?;
    let file = stage.sandbox.join("a-file");
    fs::write(&file, "mine")?;
    let ended = stage.client.try_mount(stage.spec().as_ref(), &file, &[])?;
    ensure_refused(&ended, &["a-file"])?;
    ensure_nothing_left(&stage.sandbox, &file)?;
    assert_eq!(fs::read(file)?, b"mine");
    Ok(())
}

/// A second mount at the same place is refused and leaves the first as it is.
#[test]
fn already_a_mount() -> Result<()> {
    let stage = Stage::new()?;
    ensure!(stage.mount(stage.spec())?.success(), "the first mount failed");
    let count = || -> Result<usize> {
        Ok(mount_table::entries()?
            .iter()
            .filter(|entry| entry.mountpoint == stage.mountpoint)
            .count())
    };
    ensure_refused(&stage.mount(stage.spec())?, &["mnt"])?;
    assert_eq!(count()?, 1);
    assert_eq!(fs::read(stage.mountpoint.join("volume"))?, b"content");
    Ok(())
}

#[test]
fn unknown_options() -> Result<()> {
    let stage = Stage::new()?;
    for option in ["no-such-option", "cache=lots", "cache=", "timeout=-1"] {
        let ended = stage
            .client
            .try_mount(stage.spec().as_ref(), &stage.mountpoint, &[option])?;
        stage.ensure_refused(&ended, &[option.split('=').next().unwrap_or(option)])?;
    }
    Ok(())
}
