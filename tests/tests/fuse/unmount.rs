//! The ends of a mount: umount(8), `lacuna umount`, signals, a busy mountpoint, a dead daemon, a dead server.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::process::Process;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples, wait};
use rustix::process::Signal;

use crate::MIB;

fn rig() -> Result<Rig> {
    Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 8 * MIB, 51, [(MIB, 3 * MIB)]))
}

/// Not in the mount table, and no process is left.
fn ensure_gone(rig: &Rig, daemon: Process) -> Result<()> {
    wait::until("the mount to be gone", wait::LIMIT, || {
        Ok(!rig.mount.is_mounted()?)
    })?;
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))
}

#[test]
fn by_umount() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    command::tool("umount", [rig.mount.path()])?;
    ensure!(!rig.mount.is_mounted()?);
    ensure_gone(&rig, daemon)
}

/// When the command returns, the mount and its daemon are gone already.
#[test]
fn by_lacuna_umount() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    ensure_gone(&rig, daemon)
}

#[test]
fn by_sigterm() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    daemon.send(Signal::TERM)?;
    ensure_gone(&rig, daemon)
}

#[test]
fn a_busy_mountpoint_stays_mounted() -> Result<()> {
    let rig = rig()?;
    let volume = rig.mount.open("volume")?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(!ended.success(), "unmounted although busy");
    ensure!(
        ended.stderr.trim_end().lines().count() == 1,
        "not one line: {}",
        ended.stderr
    );
    ensure!(rig.mount.is_mounted()?, "no longer mounted");
    same_bytes(&rig, &volume)?;
    ensure!(rig.mount.status()?.connected, "no longer connected");
    drop(volume);
    ensure!(
        rig.mount.try_unmount(&[])?.success(),
        "cannot be unmounted after it was busy"
    );
    Ok(())
}

/// The mount leaves the tree at once; what is open stays readable, and the last close ends the daemon.
#[test]
fn lazily_while_busy() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    let volume = rig.mount.open("volume")?;
    let ended = rig.mount.try_unmount(&["--lazy"])?;
    ensure!(ended.success(), "{ended:?}");
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    same_bytes(&rig, &volume)?;
    ensure!(daemon.lives(), "the daemon ended while a volume is open");
    drop(volume);
    ensure_gone(&rig, daemon)
}

fn same_bytes(rig: &Rig, volume: &File) -> Result<()> {
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    File::open(rig.original("volume"))?.read_exact_at(&mut theirs, MIB + 5)?;
    volume.read_exact_at(&mut ours, MIB + 5)?;
    ensure!(ours == theirs, "bytes differ");
    Ok(())
}

/// A killed daemon leaves a mount that answers ENOTCONN; both commands can remove it.
#[test]
fn after_the_daemon_was_killed() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    daemon.send(Signal::KILL)?;
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(!rig.mount.is_mounted()?, "still mounted: {ended:?}");
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}

#[test]
fn without_a_server() -> Result<()> {
    let rig = rig()?;
    let daemon = rig.mount.daemon()?;
    rig.server.process()?.send(Signal::KILL)?;
    wait::until("the server to end", wait::LIMIT, || Ok(!rig.server.lives()?))?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    ensure_gone(&rig, daemon)
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() -> Result<()> {
    let rig = rig()?;
    let other = rig.sandbox.folder("not-a-mount")?;
    let ended = command::finish(rig.mount.client().command()?.arg("umount").arg(&other))?;
    ensure!(
        !ended.success() && ended.stderr.trim_end().lines().count() == 1,
        "{ended:?}"
    );
    ensure!(rig.mount.is_mounted()?, "the other mount is gone");
    Ok(())
}

/// The mount table names what was mounted, and the mount can be made again at the same place.
#[test]
fn again_at_the_same_place() -> Result<()> {
    let rig = rig()?;
    let entry = lacuna_tests::mount_table::at(rig.mount.path())?;
    let (fs_type, source) = entry
        .map(|entry| (entry.fs_type, entry.source))
        .unwrap_or_default();
    assert_eq!(fs_type, "fuse.lacuna");
    assert_eq!(source, rig.server.address().to_string().as_str());
    for _ in 0..3 {
        ensure!(rig.mount.try_unmount(&[])?.success(), "umount failed");
        let address = rig.server.address().to_string();
        let ended = rig
            .mount
            .client()
            .try_mount(address.as_ref(), rig.mount.path(), &[])?;
        ensure!(ended.success(), "{ended:?}");
        same_bytes(&rig, &rig.mount.open("volume")?)?;
    }
    Ok(())
}
