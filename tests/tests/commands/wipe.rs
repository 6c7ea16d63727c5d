//! `lacuna wipe`.

use anyhow::{Result, ensure};
use lacuna_tests::seek_map::SeekMap;

use crate::{KIB, MIB, Stage, data};

#[test]
fn the_whole_volume_becomes_a_hole() -> Result<()> {
    let stage = Stage::with_data(4 * MIB)?;
    let done = stage.json("wipe", "volume", &[])?;
    assert_eq!(done.action, "wiped");
    assert_eq!((done.offset, done.length), (Some(0), Some(4 * MIB)));
    assert_eq!(stage.meta("volume")?.len(), 4 * MIB);
    assert_eq!(stage.allocated("volume")?, 0);
    assert_eq!(SeekMap::of_path(&stage.path("volume"))?.data_bytes(), 0);
    Ok(())
}

/// Zeros stay allocated; the size stays, also where the last block reaches beyond it.
#[test]
fn zeros_stay_allocated() -> Result<()> {
    let stage = Stage::with_data(4 * MIB + 5)?;
    let before = stage.allocated("volume")?;
    stage.done("wipe", "volume", &["--zero"], &["zeroed"])?;
    assert_eq!(stage.meta("volume")?.len(), 4 * MIB + 5);
    ensure!(stage.allocated("volume")? >= before, "space was freed");
    stage.ensure_bytes(&vec![0; (4 << 20) + 5])
}

/// Zeros in a hole are allocated too.
#[test]
fn zeros_allocate_what_was_a_hole() -> Result<()> {
    let stage = Stage::new()?;
    stage.json("create", "volume", &["4M"])?;
    stage.json("wipe", "volume", &["--zero", "--offset", "1M", "--length", "2M"])?;
    assert_eq!(stage.allocated("volume")?, 2 * MIB);
    stage.ensure_bytes(&vec![0; 4 << 20])
}

#[test]
fn a_range_alone() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    let before = stage.allocated("volume")?;
    stage.json("wipe", "volume", &["--offset", "64K", "--length", "64K"])?;
    assert_eq!(stage.allocated("volume")?, before - 64 * KIB);
    let mut expected = data(MIB)?;
    expected[64 << 10..128 << 10].fill(0);
    stage.ensure_bytes(&expected)?;
    // From the start.
    stage.json("wipe", "volume", &["--length", "100"])?;
    expected[..100].fill(0);
    stage.ensure_bytes(&expected)?;
    // To the end.
    let done = stage.json("wipe", "volume", &["--offset", "1000001", "--zero"])?;
    assert_eq!(done.length, Some(MIB - 1_000_001));
    expected[1_000_001..].fill(0);
    stage.ensure_bytes(&expected)
}

#[test]
fn a_range_beyond_the_end_changes_nothing() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    for zero in [&[][..], &["--zero"]] {
        let refused = |range: &[&str], words: &[&str]| {
            stage.refused(
                "wipe",
                "volume",
                &[range, zero].concat(),
                &[words, &["volume"]].concat(),
            )
        };
        refused(&["--offset", "1M", "--length", "1"], &["1048577", "1048576"])?;
        refused(&["--length", "2M"], &["2097152", "1048576"])?;
        refused(&["--offset", "2M"], &["2097152", "1048576"])?;
        refused(&["--offset", "1M"], &["1048576"])?;
        refused(&["--length", "0"], &["length of 0"])?;
        refused(
            &["--offset", "16777215T", "--length", "16777215T"],
            &["18446742974197923840"],
        )?;
    }
    stage.ensure_unchanged(MIB)
}

#[test]
fn an_empty_volume_is_wiped_already() -> Result<()> {
    let stage = Stage::new()?;
    stage.json("create", "volume", &["0"])?;
    let done = stage.json("wipe", "volume", &[])?;
    assert_eq!((done.size, done.length), (0, Some(0)));
    Ok(())
}

#[test]
fn what_is_no_volume_is_an_error() -> Result<()> {
    let stage = Stage::new()?;
    std::fs::create_dir(stage.path("folder"))?;
    stage.refused("wipe", "missing", &[], &["missing", "No such"])?;
    stage.refused("wipe", "folder", &[], &["folder", "not a volume"])?;
    stage.refused("wipe", "", &["--zero"], &["no volume"])
}
