//! open with O_CREAT, O_EXCL and O_TRUNC; mode, umask and owner of what is new.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::compare;
use lacuna_tests::samples;
use rustix::io::Errno;

use crate::{KIB, MIB, bytes, empty};

fn errno<T>(outcome: std::io::Result<T>) -> Option<Errno> {
    let error = outcome.err()?;
    error.raw_os_error().map(Errno::from_raw_os_error)
}

#[test]
fn a_new_volume_is_at_the_server_at_once() -> Result<()> {
    let rig = empty()?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(rig.volume("new"))?;
    let (ours, theirs) = (file.metadata()?, fs::metadata(rig.original("new"))?);
    for found in [&ours, &theirs, &fs::metadata(rig.volume("new"))?] {
        assert_eq!((found.len(), found.mode()), (0, 0o100_640));
        assert_eq!((found.uid(), found.gid()), (0, 0));
    }
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 1);
    Ok(())
}

#[test]
fn exclusive_creation_happens_once() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("old"), "kept")?;
    assert_eq!(errno(File::create_new(rig.volume("old"))), Some(Errno::EXIST));
    assert_eq!(fs::read(rig.volume("old"))?, b"kept");
    // One that another program made meanwhile.
    fs::write(rig.original("theirs"), "theirs")?;
    assert_eq!(errno(File::create_new(rig.volume("theirs"))), Some(Errno::EXIST));
    fs::create_dir(rig.volume("folder"))?;
    assert_eq!(errno(File::create_new(rig.volume("folder"))), Some(Errno::EXIST));
    Ok(())
}

#[test]
fn names_that_cannot_be() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("file"), "x")?;
    fs::create_dir(rig.volume("folder"))?;
    assert_eq!(errno(File::create(rig.volume("missing/new"))), Some(Errno::NOENT));
    assert_eq!(errno(File::create(rig.volume("file/new"))), Some(Errno::NOTDIR));
    assert_eq!(errno(File::create(rig.volume("folder"))), Some(Errno::ISDIR));
    assert_eq!(
        errno(File::create(rig.volume("n".repeat(256)))),
        Some(Errno::NAMETOOLONG)
    );
    File::create(rig.volume("n".repeat(255)))?;
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 3);
    Ok(())
}

#[test]
fn truncation_at_open_empties_and_frees() -> Result<()> {
    let rig = empty()?;
    samples::write_sparse(&rig.original("volume"), 32 * MIB, 1, [(0, 16 * MIB)])?;
    let reader = rig.mount.open("volume")?;
    reader.read_exact_at(&mut [0; 4096], MIB)?;
    let writer = File::create(rig.volume("volume"))?;
    assert_eq!(reader.metadata()?.len(), 0);
    assert_eq!(reader.read_at(&mut [0; 16], MIB)?, 0);
    writer.write_all_at(b"new", 5000)?;
    drop(writer);
    let mut expected = vec![0; 5000];
    expected.extend(b"new");
    assert_eq!(fs::read(rig.volume("volume"))?, expected);
    assert_eq!(fs::read(rig.original("volume"))?, expected);
    ensure!(
        compare::allocated_bytes(&rig.original("volume"))? <= 64 * KIB,
        "the space of the old bytes was not freed"
    );
    Ok(())
}

/// Dirty bytes that were not sent yet do not come back after O_TRUNC.
#[test]
fn truncation_at_open_drops_what_was_not_sent() -> Result<()> {
    let rig = empty()?;
    let first = rig.mount.create("volume")?;
    first.write_all_at(&bytes(1, 3 * MIB)?, 0)?;
    let second = File::create(rig.volume("volume"))?;
    second.set_len(3 * MIB)?;
    first.sync_all()?;
    drop((first, second));
    let found = fs::read(rig.original("volume"))?;
    ensure!(
        found.len() == 3 << 20 && found.iter().all(|byte| *byte == 0),
        "old bytes came back"
    );
    Ok(())
}

#[test]
fn mode_owner_and_umask_are_those_of_the_caller() -> Result<()> {
    let rig = empty()?;
    fs::set_permissions(&rig.dir, Permissions::from_mode(0o777))?;
    let mut other = rig.sandbox.command("setpriv");
    other.current_dir(rig.mount.path()).args([
        "--reuid=65534",
        "--regid=65533",
        "--clear-groups",
        "sh",
        "-c",
        "umask 027 && : >theirs && mkdir folder",
    ]);
    command::run(&mut other)?;
    for path in [rig.volume("theirs"), rig.original("theirs")] {
        let found = fs::metadata(path)?;
        assert_eq!(
            (found.mode(), found.uid(), found.gid()),
            (0o100_640, 65534, 65533)
        );
    }
    for path in [rig.volume("folder"), rig.original("folder")] {
        let found = fs::metadata(path)?;
        assert_eq!((found.mode(), found.uid(), found.gid()), (0o40_750, 65534, 65533));
    }
    Ok(())
}

/// A volume created without the right to write it can be written through the descriptor that made it.
#[test]
fn a_new_volume_without_write_permission_can_be_filled() -> Result<()> {
    let rig = empty()?;
    fs::set_permissions(&rig.dir, Permissions::from_mode(0o777))?;
    let mut other = rig.sandbox.command("setpriv");
    other.current_dir(rig.mount.path()).args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sh",
        "-c",
        "umask 777 && echo content >sealed",
    ]);
    command::run(&mut other)?;
    assert_eq!(fs::read(rig.original("sealed"))?, b"content\n");
    Ok(())
}
