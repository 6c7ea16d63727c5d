//! `umount.fuse.lacuna`, what umount(8) calls: a link to `lacuna`.

use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::command::{self, Ended};
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{binaries, mount_table, wait};

use crate::{MIB, data};

/// Runs the helper as umount(8) does.
fn help(rig: &Rig, name: &str, flags: &[&str]) -> Result<Ended> {
    let helper = rig.sandbox.join(name);
    symlink(binaries::lacuna()?, &helper)?;
    let mut line = Command::new(helper);
    line.env("LACUNA_STATE", rig.mount.client().state());
    command::finish(line.arg(rig.mount.path()).args(flags))
}

/// It returns when everything is saved, not when the kernel has unmounted.
#[test]
fn it_saves() -> Result<()> {
    for (name, flags) in [
        ("umount.fuse.lacuna", &["-n", "-t", "fuse.lacuna"][..]),
        ("umount.lacuna", &["-rv"]),
        ("umount.fuse", &[]),
    ] {
        let rig = Rig::filled(|_| Ok(()))?;
        let daemon = rig.mount.daemon()?;
        rig.mount.create("volume")?.write_all_at(&data(4 * MIB)?, 0)?;
        let ended = help(&rig, name, flags)?;
        ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
        ensure!(!rig.mount.is_mounted()?, "still mounted");
        ensure!(
            std::fs::read(rig.original("volume"))? == data(4 * MIB)?,
            "the server's file differs"
        );
        wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    }
    Ok(())
}

/// `umount.fuse` is called for every FUSE file system: others are unmounted as they would be without it.
#[test]
fn mounts_of_others_are_left_to_umount() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let backing = Backing::tmpfs(&sandbox, MIB)?;
    let mountpoint = backing.served().parent().context("no parent")?.to_owned();
    let helper = sandbox.join("umount.fuse");
    symlink(binaries::lacuna()?, &helper)?;
    let busy = std::fs::File::open(&mountpoint)?;
    let ended = command::finish(Command::new(&helper).arg(&mountpoint))?;
    ensure!(!ended.success() && ended.stderr.contains("busy"), "{ended:?}");
    drop(busy);
    let ended = command::finish(Command::new(&helper).arg(&mountpoint).arg("-n"))?;
    ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
    ensure!(mount_table::at(&mountpoint)?.is_none(), "still mounted");
    Ok(())
}

#[test]
fn it_is_lazy_when_told_to() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let daemon = rig.mount.daemon()?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&data(MIB)?, 0)?;
    let ended = help(&rig, "umount.fuse.lacuna", &["-l"])?;
    ensure!(ended.success(), "{ended:?}");
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    volume.write_all_at(&data(MIB)?, MIB)?;
    drop(volume);
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    let expected = [data(MIB)?, data(MIB)?].concat();
    ensure!(
        std::fs::read(rig.original("volume"))? == expected,
        "the server's file differs"
    );
    Ok(())
}
