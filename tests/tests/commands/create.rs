//! `lacuna create`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Result, ensure};

use crate::{GIB, KIB, MIB, Stage};

#[test]
fn a_volume_is_all_hole() -> Result<()> {
    let stage = Stage::new()?;
    stage.done(
        "create",
        "volume",
        &["10G"],
        &["created", "10 GiB", "10737418240"],
    )?;
    let meta = stage.meta("volume")?;
    assert_eq!(meta.len(), 10 * GIB);
    assert_eq!(meta.blocks(), 0);
    assert_eq!(meta.permissions().mode() & 0o7777, 0o644);
    Ok(())
}

#[test]
fn sizes_take_suffixes_and_may_be_zero() -> Result<()> {
    let stage = Stage::new()?;
    let sizes = [
        ("none", "0", 0),
        ("bytes", "4097", 4097),
        ("k", "3k", 3 * KIB),
        ("m", "3M", 3 * MIB),
        ("g", "3G", 3 * GIB),
        ("t", "3T", 3 << 40),
    ];
    for (name, size, bytes) in sizes {
        let done = stage.json("create", name, &[size])?;
        assert_eq!((done.size, done.allocated_bytes), (bytes, 0));
        assert_eq!(done.action, "created");
        assert_eq!(stage.meta(name)?.len(), bytes);
    }
    Ok(())
}

#[test]
fn the_mode_is_as_given() -> Result<()> {
    let stage = Stage::new()?;
    fs::create_dir(stage.path("folder"))?;
    stage.done("create", "folder/volume", &["1M", "--mode", "0666"], &[])?;
    let meta = stage.meta("folder/volume")?;
    assert_eq!(
        meta.permissions().mode() & 0o7777,
        0o666,
        "the umask was taken off"
    );
    stage.misused("create", "other", &["1M", "--mode", "rw"], &["octal"])?;
    ensure!(!stage.path("other").exists(), "it was made all the same");
    Ok(())
}

#[test]
fn one_that_exists_is_left_as_it_is() -> Result<()> {
    let stage = Stage::with_data(MIB)?;
    fs::create_dir(stage.path("folder"))?;
    for name in ["volume", "folder"] {
        stage.refused("create", name, &["2M"], &[name, "exists"])?;
    }
    stage.ensure_unchanged(MIB)?;
    ensure!(stage.meta("folder")?.is_dir(), "the folder is gone");
    Ok(())
}

#[test]
fn a_folder_that_is_not_there_is_an_error() -> Result<()> {
    let stage = Stage::new()?;
    stage.refused(
        "create",
        "missing/volume",
        &["1M"],
        &["missing/volume", "No such"],
    )?;
    ensure!(!stage.path("missing").exists(), "the folder was made");
    Ok(())
}

#[test]
fn without_a_name_there_is_no_volume() -> Result<()> {
    Stage::new()?.refused("create", "", &["1M"], &["no volume"])
}

#[test]
fn sizes_that_are_none_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    for size in ["", "1.5G", "-1", "1E", "99999999999T", "8388608T"] {
        stage.misused("create", "volume", &["--", size], &["SIZE"])?;
    }
    ensure!(!stage.path("volume").exists(), "it was made all the same");
    Ok(())
}

/// Larger than the storage can hold: what was half made is gone again.
#[test]
fn a_size_the_storage_cannot_hold_leaves_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let size = 1_u64 << 62;
    let probe = fs::File::create(stage.path("probe"))?;
    ensure!(
        probe.set_len(size).is_err(),
        "this file system holds {size} bytes: use another one to test this"
    );
    stage.refused("create", "volume", &[&size.to_string()], &["volume", "too large"])?;
    ensure!(!stage.path("volume").exists(), "a part of it was left");
    Ok(())
}
