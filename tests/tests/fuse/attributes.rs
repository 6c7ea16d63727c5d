//! lookup, getattr and the attributes that come with a listing.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples};
use rustix::io::Errno;

#[test]
fn attributes_are_those_of_the_original() -> Result<()> {
    let mut paths = samples::edges()?;
    paths.extend([
        samples::random_extents()?,
        samples::many_extents()?,
        samples::huge()?,
    ]);
    let rig = Rig::over(&paths[0])?;
    for path in paths {
        let name = path.file_name().context("no name")?;
        let (ours, theirs) = (fs::metadata(rig.volume(name))?, fs::metadata(&path)?);
        ensure!(ours.is_file(), "{name:?} is not a file");
        assert_eq!(ours.size(), theirs.size(), "size of {name:?}");
        assert_eq!(ours.blocks(), theirs.blocks(), "blocks of {name:?}");
        assert_eq!(ours.mode(), theirs.mode(), "mode of {name:?}");
        assert_eq!(
            (ours.uid(), ours.gid()),
            (theirs.uid(), theirs.gid()),
            "owner of {name:?}"
        );
        assert_eq!(
            (ours.mtime(), ours.mtime_nsec()),
            (theirs.mtime(), theirs.mtime_nsec()),
            "time of {name:?}"
        );
    }
    Ok(())
}

/// cp looks for holes only where `st_blocks * 512 < st_size`, and `ls` fills the kernel's attributes from
/// the listing, so the blocks must be true there too.
#[test]
fn blocks_are_true_in_a_listing() -> Result<()> {
    samples::edges()?;
    samples::huge()?;
    let rig = Rig::over(&samples::random_extents()?)?;
    let listing = |dir| -> Result<Vec<String>> {
        let ended = command::run(
            std::process::Command::new("ls")
                .args(["-lsn", "--time-style=full-iso"])
                .arg(dir),
        )?;
        Ok(ended.text()?.lines().skip(1).map(str::to_owned).collect())
    };
    let (ours, theirs) = (listing(rig.mount.path())?, listing(&rig.dir)?);
    // Another test may be adding a sample just now.
    for line in &ours {
        ensure!(theirs.contains(line), "{line}\nis not in\n{}", theirs.join("\n"));
    }
    ensure!(ours.len() >= 10, "only {} lines", ours.len());
    Ok(())
}

#[test]
fn numbers_are_stable_and_distinct() -> Result<()> {
    let rig = Rig::filled(|dir| {
        for name in ["a", "b", "c"] {
            fs::write(dir.join(name), name)?;
        }
        Ok(fs::create_dir(dir.join("folder"))?)
    })?;
    let mut seen = HashSet::from([fs::metadata(rig.mount.path())?.ino()]);
    for entry in fs::read_dir(rig.mount.path())? {
        let entry = entry?;
        let number = fs::metadata(entry.path())?.ino();
        assert_eq!(
            std::os::unix::fs::DirEntryExt::ino(&entry),
            number,
            "{:?}",
            entry.path()
        );
        ensure!(seen.insert(number), "{:?} shares its number", entry.path());
    }
    assert_eq!(seen.len(), 5);
    Ok(())
}

#[test]
fn names_that_are_not_there() -> Result<()> {
    let rig = Rig::filled(|dir| Ok(fs::write(dir.join("file"), "x")?))?;
    let errno = |path: &str| rustix::fs::stat(rig.volume(path)).err();
    assert_eq!(errno("missing"), Some(Errno::NOENT));
    assert_eq!(errno("missing/below"), Some(Errno::NOENT));
    assert_eq!(errno("file/below"), Some(Errno::NOTDIR));
    assert_eq!(errno(&"n".repeat(256)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno("file"), None);
    Ok(())
}

#[test]
fn a_name_that_appears_later_is_found() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    ensure!(!rig.volume("late").exists());
    fs::write(rig.original("late"), "here")?;
    lacuna_tests::wait::until("a new name to be seen", lacuna_tests::wait::LIMIT, || {
        Ok(rig.volume("late").exists())
    })?;
    assert_eq!(fs::read(rig.volume("late"))?, b"here");
    Ok(())
}
