//! mkdir, rmdir and what is below.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};

use anyhow::{Result, ensure};
use lacuna_tests::command;
use rustix::fs::{AtFlags, CWD, Mode, mkdir, rmdir, unlinkat};
use rustix::io::Errno;

use crate::empty;

#[test]
fn folders_come_and_go() -> Result<()> {
    let rig = empty()?;
    fs::DirBuilder::new().mode(0o751).create(rig.volume("a"))?;
    for path in [rig.volume("a"), rig.original("a")] {
        assert_eq!(fs::metadata(path)?.mode(), 0o40_751);
    }
    fs::create_dir_all(rig.volume("a/b/c"))?;
    fs::write(rig.volume("a/b/c/volume"), "deep")?;
    assert_eq!(fs::read(rig.original("a/b/c/volume"))?, b"deep");
    assert_eq!(rmdir(rig.volume("a/b/c")), Err(Errno::NOTEMPTY));
    fs::remove_file(rig.volume("a/b/c/volume"))?;
    for name in ["a/b/c", "a/b", "a"] {
        fs::remove_dir(rig.volume(name))?;
        ensure!(!rig.original(name).exists(), "{name} is still at the server");
    }
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 0);
    Ok(())
}

#[test]
fn what_cannot_be_made_or_removed() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("file"), "x")?;
    fs::create_dir(rig.volume("folder"))?;
    let made = |name: &str| mkdir(rig.volume(name), Mode::RWXU);
    assert_eq!(made("file"), Err(Errno::EXIST));
    assert_eq!(made("folder"), Err(Errno::EXIST));
    assert_eq!(made("missing/new"), Err(Errno::NOENT));
    assert_eq!(made("file/new"), Err(Errno::NOTDIR));
    assert_eq!(rmdir(rig.volume("missing")), Err(Errno::NOENT));
    assert_eq!(rmdir(rig.volume("file")), Err(Errno::NOTDIR));
    // Not empty only because of a name that another program made.
    fs::write(rig.original("folder/theirs"), "x")?;
    assert_eq!(rmdir(rig.volume("folder")), Err(Errno::NOTEMPTY));
    Ok(())
}

#[test]
fn many_names_are_made_listed_and_removed() -> Result<()> {
    let rig = empty()?;
    let names: BTreeSet<String> = (0..400).map(|number| format!("volume-{number:03}")).collect();
    for name in &names {
        File::create_new(rig.volume(name))?;
    }
    for dir in [rig.mount.path(), &rig.dir] {
        let found: Result<BTreeSet<_>> = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect();
        ensure!(found? == names, "{} lists other names", dir.display());
    }
    // As rm does it: names go while the folder is being listed.
    for entry in fs::read_dir(rig.mount.path())? {
        fs::remove_file(entry?.path())?;
    }
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 0);
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 0);
    Ok(())
}

#[test]
fn rm_removes_a_tree() -> Result<()> {
    let rig = empty()?;
    for folder in 0..10 {
        fs::create_dir_all(rig.volume(format!("tree/{folder}/inner")))?;
        for file in 0..10 {
            fs::write(rig.volume(format!("tree/{folder}/inner/{file}")), "x")?;
        }
    }
    command::tool("rm", ["-r".as_ref(), rig.volume("tree").as_os_str()])?;
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 0);
    Ok(())
}

/// A folder that is removed while somebody stands in it: its descriptor lives and nothing can be made below.
#[test]
fn a_removed_folder_takes_nothing_new() -> Result<()> {
    let rig = empty()?;
    fs::create_dir(rig.volume("folder"))?;
    let folder = File::open(rig.volume("folder"))?;
    fs::remove_dir(rig.volume("folder"))?;
    assert_eq!(
        rustix::fs::mkdirat(&folder, "below", Mode::RWXU).err(),
        Some(Errno::NOENT)
    );
    assert_eq!(
        unlinkat(CWD, rig.volume("folder"), AtFlags::REMOVEDIR),
        Err(Errno::NOENT)
    );
    Ok(())
}
