//! What the daemons can still do once they serve, as the kernel says of each of their threads.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::process::Process;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use lacuna_tests::{binaries, command, host, wait};
use rustix::process::Signal;

use crate::Stage;

/// The number of the account `nobody`, and of its group.
const NOBODY: u32 = 65534;
/// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID: linux/capability.h.
const OF_A_SERVER: u64 = 0x1f;
/// DAC_READ_SEARCH, NET_ADMIN, SYS_ADMIN.
const OF_A_MOUNT: u64 = 1 << 2 | 1 << 12 | 1 << 21;
const DAC_OVERRIDE: u64 = 1 << 1;

/// Each thread has these capabilities and no others, none that it could take again, and can start nothing that has.
fn ensure_confined(process: Process, capabilities: u64) -> Result<()> {
    for (name, expected) in [
        ("CapEff", format!("{capabilities:016x}")),
        ("CapPrm", format!("{capabilities:016x}")),
        ("CapInh", format!("{:016x}", 0)),
        ("CapAmb", format!("{:016x}", 0)),
        ("NoNewPrivs", "1".to_owned()),
        // A filter.
        ("Seccomp", "2".to_owned()),
    ] {
        let facts = process.facts(name)?;
        ensure!(
            facts.iter().eq([&expected]),
            "{name} is {facts:?}, not {expected}"
        );
    }
    Ok(())
}

/// A sandbox whose folders let everybody pass, a served folder, and a state folder; the last two belong to `nobody`.
fn beds() -> Result<(Sandbox, PathBuf)> {
    let sandbox = Sandbox::new()?;
    fs::set_permissions(sandbox.path(), Permissions::from_mode(0o755))?;
    let dir = sandbox.folder("served")?;
    for folder in [&dir, &sandbox.folder("server-state")?] {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    Ok((sandbox, dir))
}

#[test]
fn a_server_keeps_what_files_take() -> Result<()> {
    let stage = Stage::with_data(4096)?;
    command::run(stage.client.command()?.args(["ls", &stage.location("")]))?;
    ensure_confined(stage.server.process()?, OF_A_SERVER)?;
    let log = stage.server.log();
    ensure!(log.contains("confined to what is served"), "{log}");
    Ok(())
}

#[test]
fn a_server_gives_up_root_for_a_user() -> Result<()> {
    host::require_fuse()?;
    let (sandbox, dir) = beds()?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = Server::start_with(&sandbox, &dir, listen, &["--user", "nobody:65534"])?;
    let client = Client::admitted(&sandbox, &server)?;
    let mount = Mount::new(&client, &server, "".as_ref(), sandbox.join("mnt"), &[])?;
    let volume = mount.join("volume");
    fs::write(&volume, "of nobody")?;
    let error = chown(&volume, Some(1), None).err().context("it was given away")?;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(fs::metadata(dir.join("volume"))?.uid(), NOBODY);

    let process = server.process()?;
    for name in ["Uid", "Gid"] {
        let facts = process.facts(name)?;
        ensure!(
            facts.iter().eq(["65534 65534 65534 65534"]),
            "{name} is {facts:?}"
        );
    }
    ensure!(
        process
            .facts("Groups")?
            .iter()
            .all(|groups| !groups.split(' ').any(|group| group == "0")),
        "it is in root's group"
    );
    ensure_confined(process, 0)?;

    // What root changed meanwhile, the user's daemon can read, now and in its next run.
    server.run(
        &sandbox,
        &["allow", &format!("sha256:{}", "0a".repeat(32)), "--name", "other"],
    )?;
    assert_eq!(fs::metadata(sandbox.join("server-state/allow"))?.uid(), NOBODY);
    server.kill()?;
    server.start_again()?;
    assert_eq!(fs::read(&volume)?, b"of nobody");
    server.run(&sandbox, &["revoke", "other"])?;
    Ok(())
}

#[test]
fn a_user_who_cannot_serve_is_refused_with_advice() -> Result<()> {
    let (sandbox, dir) = beds()?;
    let state = sandbox.join("server-state");
    let serve = |user: &str| {
        let mut server = sandbox.command("timeout");
        server
            .args(["--signal=KILL", "20"])
            .arg(binaries::lacunad()?)
            .arg("serve")
            .arg(&dir);
        server
            .args(["--listen", "127.0.0.1:0", "--user", user, "--state"])
            .arg(&state);
        command::finish(&mut server)
    };
    let refused = |user: &str, advice: &str| {
        let ended = serve(user)?;
        ensure!(
            ended.code == Some(1) && ended.stderr.contains(advice),
            "{advice}: {ended:?}"
        );
        Ok(())
    };
    refused("no-such-user", "no user 'no-such-user'")?;
    refused("root", "name another than root")?;
    // A key that root made.
    fs::write(state.join("key.pem"), "")?;
    fs::set_permissions(state.join("key.pem"), Permissions::from_mode(0o600))?;
    let owner = format!("chown -R {NOBODY}:{NOBODY} {}", state.display());
    refused("nobody:65534", &owner)?;
    fs::remove_file(state.join("key.pem"))?;
    chown(&dir, Some(0), Some(0))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    refused("nobody:65534", "let it read the folder")
}

#[test]
fn the_daemon_of_a_mount_keeps_what_fuse_takes() -> Result<()> {
    host::require_fuse()?;
    let stage = Stage::with_data(4096)?;
    // A place that root finds only as root.
    let private = stage.sandbox.folder("private")?;
    chown(&private, Some(NOBODY), Some(NOBODY))?;
    fs::set_permissions(&private, Permissions::from_mode(0o700))?;
    let mount = Mount::new(
        &stage.client,
        &stage.server,
        "".as_ref(),
        private.join("mnt"),
        &[],
    )?;
    fs::write(mount.join("new"), "written")?;
    assert_eq!(fs::read(mount.join("volume"))?.len(), 4096);
    ensure_confined(mount.daemon()?, OF_A_MOUNT)?;
    let ended = mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    mount.mount_again(&stage.server, &[])?;
    mount.daemon()?.send(Signal::TERM)?;
    wait::until("the mount to go", wait::LIMIT, || Ok(!mount.is_mounted()?))
}

#[test]
fn a_state_folder_of_another_user_stays_usable() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let ended = rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    chown(rig.mount.client().state(), Some(NOBODY), Some(NOBODY))?;
    rig.mount.mount_again(&rig.server, &[])?;
    ensure_confined(rig.mount.daemon()?, OF_A_MOUNT | DAC_OVERRIDE)?;
    rig.mount.status().map(drop)
}
