//! `lacuna resize`.

use std::fs;

use anyhow::Result;

use crate::{GIB, KIB, MIB, Stage, data};

#[test]
fn growing_adds_a_hole() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    let before = stage.allocated("volume")?;
    let done = stage.json("resize", "volume", &["5G"])?;
    assert_eq!((done.action.as_str(), done.size), ("resized", 5 * GIB));
    assert_eq!(done.size_before, Some(MIB));
    assert_eq!(stage.meta("volume")?.len(), 5 * GIB);
    assert_eq!(stage.allocated("volume")?, before);
    stage.done(
        "resize",
        "volume",
        &["1M", "--shrink"],
        &["resized", "5 GiB", "1 MiB"],
    )?;
    stage.ensure_unchanged(MIB)
}

#[test]
fn shrinking_needs_its_option() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    let words = ["1048576", "524288", "--shrink"];
    stage.refused("resize", "volume", &["512K"], &words)?;
    stage.ensure_unchanged(MIB)?;
    let done = stage.json("resize", "volume", &["512K", "--shrink"])?;
    assert_eq!(done.size_before, Some(MIB));
    stage.ensure_bytes(&data(512 * KIB)?)?;
    // Zero bytes are a size too.
    stage.json("resize", "volume", &["0", "--shrink"])?;
    assert_eq!(stage.allocated("volume")?, 0);
    Ok(())
}

/// Grown again, what was cut off reads as zeros.
#[test]
fn what_was_cut_does_not_come_back() -> Result<()> {
    let stage = Stage::with_data(64 * KIB)?;
    stage.json("resize", "volume", &["5000", "--shrink"])?;
    stage.json("resize", "volume", &["64K"])?;
    let mut expected = data(64 * KIB)?;
    expected[5000..].fill(0);
    stage.ensure_bytes(&expected)
}

#[test]
fn the_same_size_changes_nothing() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    stage.json("resize", "volume", &["1M"])?;
    stage.ensure_unchanged(MIB)
}

#[test]
fn what_is_no_volume_is_an_error() -> Result<()> {
    let stage = Stage::new()?;
    fs::create_dir(stage.path("folder"))?;
    stage.refused("resize", "missing", &["1M"], &["missing", "No such"])?;
    stage.refused("resize", "folder", &["1M", "--shrink"], &["folder"])?;
    stage.refused("resize", "", &["1M"], &["no volume"])?;
    stage.misused("resize", "missing", &["8388608T"], &["SIZE"])
}

#[test]
fn a_size_the_storage_cannot_hold_changes_nothing() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    let size = (1_u64 << 62).to_string();
    stage.refused("resize", "volume", &[&size], &["volume", "too large"])?;
    stage.ensure_unchanged(MIB)
}
