//! access, and the permission bits of volumes for users other than root.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::rig::Rig;
use rustix::fs::{Access, access};
use rustix::io::Errno;

#[test]
fn root_may_read_and_write_and_run_nothing() -> Result<()> {
    let rig = Rig::filled(|dir| Ok(fs::write(dir.join("volume"), "x")?))?;
    let volume = rig.volume("volume");
    assert_eq!(access(&volume, Access::EXISTS), Ok(()));
    assert_eq!(access(&volume, Access::READ_OK), Ok(()));
    assert_eq!(access(&volume, Access::WRITE_OK), Ok(()));
    assert_eq!(access(&volume, Access::EXEC_OK), Err(Errno::ACCESS));
    assert_eq!(access(rig.volume("missing"), Access::EXISTS), Err(Errno::NOENT));
    Ok(())
}

/// What only root may write stays so through the mount, whoever asks.
#[test]
fn others_cannot_write_what_is_not_theirs() -> Result<()> {
    let rig = Rig::filled(|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        fs::write(dir.join("volume"), "of root")?;
        Ok(fs::set_permissions(
            dir.join("volume"),
            Permissions::from_mode(0o644),
        )?)
    })?;
    for line in [
        "echo x >>volume",
        "echo x >new",
        "rm -f volume",
        "mkdir folder",
        "chmod 666 volume",
    ] {
        let mut other = rig.sandbox.command("setpriv");
        other.current_dir(rig.mount.path()).args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            line,
        ]);
        let ended = command::finish(&mut other)?;
        ensure!(!ended.success(), "another user did: {line}");
    }
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 1);
    assert_eq!(fs::read(rig.original("volume"))?, b"of root");
    Ok(())
}

/// A volume that only root may read stays so through the mount.
#[test]
fn others_cannot_read_what_is_private() -> Result<()> {
    let rig = Rig::filled(|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        fs::write(dir.join("private"), "for root only")?;
        Ok(fs::set_permissions(
            dir.join("private"),
            Permissions::from_mode(0o600),
        )?)
    })?;
    // The command starts inside the mount, so that no folder above it decides.
    let mut other = rig.sandbox.command("setpriv");
    other.current_dir(rig.mount.path()).args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "cat",
        "private",
    ]);
    let ended = command::finish(&mut other)?;
    ensure!(
        !ended.success() && ended.stdout.is_empty(),
        "read by another user: {ended:?}"
    );
    assert_eq!(fs::read(rig.volume("private"))?, b"for root only");
    Ok(())
}
