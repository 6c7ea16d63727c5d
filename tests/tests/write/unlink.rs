//! unlink, also of what is open: it lives until its last close, and its space is free at the server after that.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{host, reshape, wait};
use rustix::io::Errno;

use crate::{MIB, bytes, empty};

#[test]
fn a_removed_name_is_gone_at_both_ends() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("volume"), "x")?;
    fs::create_dir(rig.volume("folder"))?;
    fs::remove_file(rig.volume("volume"))?;
    ensure!(!rig.volume("volume").exists() && !rig.original("volume").exists());
    let unlink = |name: &str| rustix::fs::unlink(rig.volume(name));
    assert_eq!(unlink("volume"), Err(Errno::NOENT));
    assert_eq!(unlink("folder"), Err(Errno::ISDIR));
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 1);
    Ok(())
}

#[test]
fn what_is_open_lives_until_its_last_close() -> Result<()> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let backing = Backing::tmpfs(&sandbox, 64 * MIB)?;
    let rig = Rig::start(sandbox, backing.served().to_owned(), &[])?;
    let free = backing.free_bytes()?;
    let first = rig.mount.create("volume")?;
    first.write_all_at(&bytes(1, 4 * MIB)?, 0)?;
    first.sync_all()?;
    let second = rig.mount.open("volume")?;
    fs::remove_file(rig.volume("volume"))?;
    ensure!(!rig.volume("volume").exists(), "the name is still there");
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 0);
    // Everything goes on through the descriptors.
    first.write_all_at(&bytes(2, 4 * MIB)?, 2 * MIB)?;
    reshape::punch(&first, 0, 4096)?;
    first.set_len(5 * MIB)?;
    first.sync_all()?;
    let mut expected = bytes(1, 2 * MIB)?;
    expected[..4096].fill(0);
    expected.extend(&bytes(2, 3 * MIB)?);
    let mut found = vec![0; expected.len()];
    second.read_exact_at(&mut found, 0)?;
    ensure!(found == expected, "other bytes after the name was gone");
    assert_eq!(second.metadata()?.len(), 5 * MIB);
    ensure!(second.metadata()?.blocks() > 0, "no blocks");
    drop(first);
    second.read_exact_at(&mut found, 0)?;
    ensure!(
        backing.free_bytes()? + 4 * MIB < free,
        "the space is free while it is open"
    );
    drop(second);
    wait::until("the space to be free after the last close", wait::LIMIT, || {
        Ok(backing.free_bytes()? + MIB >= free)
    })
}

#[test]
fn a_new_volume_of_the_same_name_is_another_one() -> Result<()> {
    let rig = empty()?;
    let old = rig.mount.create("volume")?;
    old.write_all_at(b"old content", 0)?;
    fs::remove_file(rig.volume("volume"))?;
    let new = rig.mount.create("volume")?;
    assert_eq!(new.metadata()?.len(), 0);
    new.write_all_at(b"new", 0)?;
    old.write_all_at(b"OLD", 0)?;
    old.sync_all()?;
    drop(old);
    new.sync_all()?;
    assert_eq!(fs::read(rig.volume("volume"))?, b"new");
    assert_eq!(fs::read(rig.original("volume"))?, b"new");
    Ok(())
}

/// Bytes that are still dirty when the last name and the last descriptor go leave nothing at the server.
#[test]
fn dirty_bytes_of_a_removed_volume_leave_nothing() -> Result<()> {
    let rig = empty()?;
    for round in 0..20 {
        let name = format!("volume-{round}");
        let file = rig.mount.create(&name)?;
        file.write_all_at(&bytes(round, MIB)?, 0)?;
        fs::remove_file(rig.volume(&name))?;
        drop(file);
    }
    wait::until("dirty bytes of removed volumes to go", wait::LIMIT, || {
        Ok(rig.mount.status()?.dirty_bytes == 0)
    })?;
    assert_eq!(fs::read_dir(rig.mount.path())?.count(), 0);
    wait::until("the server's folder to be empty", wait::LIMIT, || {
        Ok(fs::read_dir(&rig.dir)?.count() == 0)
    })
}

/// The kernel knows the name for a moment longer; what is written to it is not for the volume that is gone.
#[test]
fn a_name_that_was_removed_at_the_server_is_made_anew() -> Result<()> {
    let rig = empty()?;
    for is_open in [true, false] {
        let name = format!("volume-{is_open}");
        let old = rig.mount.create(&name)?;
        old.write_all_at(b"old", 0)?;
        old.sync_all()?;
        let kept = is_open.then_some(old);
        fs::remove_file(rig.original(&name))?;
        // An event of it may be on its way.
        fs::write(rig.volume(&name), "new")?;
        let is_there = rig.original(&name).exists();
        ensure!(
            is_there,
            "it was written to the volume that is gone; open: {is_open}"
        );
        assert_eq!(fs::read(rig.original(&name))?, b"new", "open: {is_open}");
        drop(kept);
    }
    Ok(())
}
