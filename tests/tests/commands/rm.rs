//! `lacuna rm`.

use std::fs;

use anyhow::{Result, ensure};

use crate::{MIB, Stage};

#[test]
fn a_volume_goes() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    fs::write(stage.path("other"), "other")?;
    stage.done("rm", "volume", &[], &["removed"])?;
    ensure!(!stage.path("volume").exists(), "it is still there");
    ensure!(stage.path("other").exists(), "another one went too");
    stage.refused("rm", "volume", &[], &["volume", "No such"])
}

#[test]
fn it_says_what_went() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    let done = stage.json("rm", "volume", &[])?;
    assert_eq!((done.action.as_str(), done.size), ("removed", MIB));
    ensure!(done.allocated_bytes >= MIB, "{done:?}");
    Ok(())
}

#[test]
fn a_folder_needs_its_option_and_must_be_empty() -> Result<()> {
    let stage = Stage::new()?;
    fs::create_dir_all(stage.path("a/b"))?;
    fs::write(stage.path("a/b/volume"), "content")?;
    stage.refused("rm", "a/b", &[], &["a/b", "folder", "--folder"])?;
    stage.refused("rm", "a/b", &["--folder"], &["a/b", "not empty"])?;
    assert_eq!(fs::read(stage.path("a/b/volume"))?, b"content");
    stage.done("rm", "a/b/volume", &[], &[])?;
    stage.refused("rm", "a/b", &[], &["--folder"])?;
    stage.done("rm", "a/b", &["--folder"], &["removed"])?;
    ensure!(!stage.path("a/b").exists(), "it is still there");
    ensure!(stage.path("a").exists(), "its folder went too");
    Ok(())
}

#[test]
fn a_volume_is_no_folder() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    stage.refused("rm", "volume", &["--folder"], &["volume", "--folder"])?;
    stage.ensure_unchanged(MIB)
}

#[test]
fn the_exported_folder_stays() -> Result<()> {
    let stage = Stage::new()?;
    stage.refused("rm", "", &["--folder"], &["no volume"])?;
    ensure!(stage.dir.exists(), "it is gone");
    Ok(())
}
