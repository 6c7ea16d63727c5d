//! rename: plain, over an existing name, NOREPLACE and EXCHANGE; what is open stays what it is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{MIB, bytes, empty};

fn rename(rig: &Rig, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, rig.volume(from), CWD, rig.volume(to), flags)
}

/// The same at both ends: these names with these contents, and no others in this folder.
fn ensure_names(rig: &Rig, folder: &str, expected: &[(&str, &str)]) -> Result<()> {
    for dir in [rig.volume(folder), rig.original(folder)] {
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let content = if path.is_dir() {
                "a folder".to_owned()
            } else {
                fs::read_to_string(&path)?
            };
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            found.push((name, content));
        }
        found.sort();
        let same = found
            .iter()
            .map(|(name, content)| (&name[..], &content[..]))
            .eq(expected.iter().copied());
        ensure!(same, "{}: {found:?}, not {expected:?}", dir.display());
    }
    Ok(())
}

fn three() -> Result<Rig> {
    let rig = empty()?;
    for name in ["a", "b"] {
        fs::write(rig.volume(name), name)?;
    }
    fs::create_dir(rig.volume("folder"))?;
    Ok(rig)
}

#[test]
fn a_new_name() -> Result<()> {
    let rig = three()?;
    rename(&rig, "a", "c", RenameFlags::empty())?;
    rename(&rig, "b", "folder/b", RenameFlags::empty())?;
    rename(&rig, "c", "c", RenameFlags::empty())?;
    ensure_names(&rig, "", &[("c", "a"), ("folder", "a folder")])?;
    ensure_names(&rig, "folder", &[("b", "b")])
}

#[test]
fn over_another_volume() -> Result<()> {
    let rig = three()?;
    rename(&rig, "a", "b", RenameFlags::empty())?;
    ensure_names(&rig, "", &[("b", "a"), ("folder", "a folder")])
}

/// The one that lost its name stays readable and writable where it is open.
#[test]
fn over_an_open_volume() -> Result<()> {
    let rig = three()?;
    let old = rig.mount.open_for_writing("b")?;
    let new = rig.mount.open_for_writing("a")?;
    old.write_all_at(b"old", 0)?;
    rename(&rig, "a", "b", RenameFlags::empty())?;
    new.write_all_at(b"new", 1)?;
    old.write_all_at(b" and more", 3)?;
    let mut found = [0; 12];
    old.read_exact_at(&mut found, 0)?;
    assert_eq!(&found, b"old and more");
    old.sync_all()?;
    new.sync_all()?;
    ensure_names(&rig, "", &[("b", "anew"), ("folder", "a folder")])
}

#[test]
fn dirty_bytes_follow_the_name() -> Result<()> {
    let rig = three()?;
    let content = bytes(1, 3 * MIB)?;
    let file = rig.mount.create("volume")?;
    file.write_all_at(&content[..MIB.try_into()?], 0)?;
    rename(&rig, "volume", "folder/moved", RenameFlags::empty())?;
    file.write_all_at(&content[MIB.try_into()?..], MIB)?;
    ensure!(
        fs::read(rig.volume("folder/moved"))? == content,
        "the volume differs"
    );
    drop(file);
    ensure!(
        fs::read(rig.original("folder/moved"))? == content,
        "the server's file differs"
    );
    Ok(())
}

#[test]
fn noreplace_leaves_what_is_there() -> Result<()> {
    let rig = three()?;
    assert_eq!(rename(&rig, "a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(
        rename(&rig, "a", "folder", RenameFlags::NOREPLACE),
        Err(Errno::EXIST)
    );
    // One that another program made meanwhile.
    fs::write(rig.original("theirs"), "theirs")?;
    assert_eq!(
        rename(&rig, "a", "theirs", RenameFlags::NOREPLACE),
        Err(Errno::EXIST)
    );
    rename(&rig, "a", "c", RenameFlags::NOREPLACE)?;
    ensure_names(
        &rig,
        "",
        &[
            ("b", "b"),
            ("c", "a"),
            ("folder", "a folder"),
            ("theirs", "theirs"),
        ],
    )
}

#[test]
fn exchange_swaps_both() -> Result<()> {
    let rig = three()?;
    let a = rig.mount.open_for_writing("a")?;
    rename(&rig, "a", "b", RenameFlags::EXCHANGE)?;
    a.write_all_at(b"A", 0)?;
    a.sync_all()?;
    ensure_names(&rig, "", &[("a", "b"), ("b", "A"), ("folder", "a folder")])?;
    rename(&rig, "a", "folder", RenameFlags::EXCHANGE)?;
    ensure_names(&rig, "", &[("a", "a folder"), ("b", "A"), ("folder", "b")])?;
    assert_eq!(
        rename(&rig, "a", "missing", RenameFlags::EXCHANGE),
        Err(Errno::NOENT)
    );
    Ok(())
}

/// A volume that is open below a folder stays the same when a folder above it gets another name.
#[test]
fn a_folder_with_open_volumes_below() -> Result<()> {
    let rig = empty()?;
    fs::create_dir_all(rig.volume("a/b"))?;
    let file = rig.mount.create("a/b/volume")?;
    file.write_all_at(b"before", 0)?;
    rename(&rig, "a", "z", RenameFlags::empty())?;
    file.write_all_at(b" after", 6)?;
    assert_eq!(fs::read(rig.volume("z/b/volume"))?, b"before after");
    ensure!(!rig.volume("a").exists(), "the old name is still there");
    // A new folder with the old name is another one.
    fs::create_dir_all(rig.volume("a/b"))?;
    fs::write(rig.volume("a/b/volume"), "other")?;
    file.write_all_at(b"!", 12)?;
    drop(file);
    assert_eq!(fs::read(rig.original("z/b/volume"))?, b"before after!");
    assert_eq!(fs::read(rig.original("a/b/volume"))?, b"other");
    Ok(())
}

#[test]
fn what_cannot_be_renamed() -> Result<()> {
    let rig = three()?;
    fs::create_dir_all(rig.volume("full/inner"))?;
    let refused = |from: &str, to: &str| rename(&rig, from, to, RenameFlags::empty());
    assert_eq!(refused("missing", "c"), Err(Errno::NOENT));
    assert_eq!(refused("a", "missing/c"), Err(Errno::NOENT));
    assert_eq!(refused("a", "folder"), Err(Errno::ISDIR));
    assert_eq!(refused("folder", "a"), Err(Errno::NOTDIR));
    assert_eq!(refused("folder", "full"), Err(Errno::NOTEMPTY));
    assert_eq!(refused("full", "full/inner/x"), Err(Errno::INVAL));
    assert_eq!(refused("a", &"n".repeat(256)), Err(Errno::NAMETOOLONG));
    // An empty folder gives way.
    rename(&rig, "full", "folder", RenameFlags::empty())?;
    ensure!(rig.original("folder/inner").is_dir() && !Path::exists(&rig.original("full")));
    ensure_names(&rig, "", &[("a", "a"), ("b", "b"), ("folder", "a folder")])
}
