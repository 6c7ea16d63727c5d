//! `lacuna punch`.

use anyhow::{Result, ensure};
use lacuna_tests::seek_map::SeekMap;

use crate::{KIB, MIB, Stage, data};

#[test]
fn a_range_becomes_a_hole_and_its_space_is_freed() -> Result<()> {
    let stage = Stage::with_data(8 * MIB)?;
    let before = stage.allocated("volume")?;
    let done = stage.json("punch", "volume", &["--offset", "2M", "--length", "3M"])?;
    assert_eq!(done.action, "punched");
    assert_eq!((done.offset, done.length), (Some(2 * MIB), Some(3 * MIB)));
    assert_eq!(stage.allocated("volume")?, before - 3 * MIB);
    let map = SeekMap::of_path(&stage.path("volume"))?;
    let holes: Vec<_> = map.holes().map(|hole| (hole.start, hole.end)).collect();
    assert_eq!(holes, [(2 * MIB, 5 * MIB)]);
    let mut expected = data(8 * MIB)?;
    expected[2 << 20..5 << 20].fill(0);
    stage.ensure_bytes(&expected)
}

/// Parts of blocks become zeros, to the byte; the last byte of a volume is in reach.
#[test]
fn ends_are_exact() -> Result<()> {
    let stage = Stage::with_data(64 * KIB)?;
    stage.done(
        "punch",
        "volume",
        &["--offset", "4095", "--length", "2"],
        &["punched", "2 bytes"],
    )?;
    stage.done("punch", "volume", &["--offset", "65535", "--length", "1"], &[])?;
    let mut expected = data(64 * KIB)?;
    expected[4095..4097].fill(0);
    expected[65535] = 0;
    stage.ensure_bytes(&expected)
}

#[test]
fn a_range_beyond_the_end_changes_nothing() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    for (offset, length, end) in [
        ("0", "1048577", "1048577"),
        ("512K", "1M", "1572864"),
        ("1M", "1", "1048577"),
        ("1T", "4K", "1099511631872"),
    ] {
        let range = ["--offset", offset, "--length", length];
        stage.refused("punch", "volume", &range, &["volume", end, "1048576"])?;
    }
    stage.ensure_unchanged(MIB)
}

#[test]
fn what_is_no_range_changes_nothing() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    stage.refused(
        "punch",
        "volume",
        &["--offset", "0", "--length", "0"],
        &["length of 0"],
    )?;
    let overflow = ["--offset", "16777215T", "--length", "16777215T"];
    stage.refused("punch", "volume", &overflow, &["18446742974197923840"])?;
    for arguments in [&["--offset", "0"][..], &["--length", "1"], &[]] {
        stage.misused("punch", "volume", arguments, &["required"])?;
    }
    stage.misused("punch", "volume", &["--offset", "-1", "--length", "1"], &[])?;
    stage.misused(
        "punch",
        "volume",
        &["--offset", "0", "--length", "1X"],
        &["not a size"],
    )?;
    stage.ensure_unchanged(MIB)
}

#[test]
fn what_is_no_volume_is_an_error() -> Result<()> {
    let stage = Stage::new()?;
    std::fs::create_dir(stage.path("folder"))?;
    let range = ["--offset", "0", "--length", "1"];
    stage.refused("punch", "missing", &range, &["missing", "No such"])?;
    stage.refused("punch", "folder", &range, &["folder", "not a volume"])?;
    ensure!(!stage.path("missing").exists(), "it was made");
    Ok(())
}
