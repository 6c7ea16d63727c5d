//! What is served under which name, and what is refused.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{binaries, compare, host, wait};

use crate::{DISK, MIB, Served, bytes, named};

#[test]
fn a_device_is_a_volume_of_its_size_beside_the_files() -> Result<()> {
    let size = 5 * MIB + 512;
    let served = Served::filled(size, |image| Ok(image.write_all_at(&bytes(1, MIB + 77)?, MIB)?))?;
    let mut names: Vec<_> = fs::read_dir(served.rig.mount.path())?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    names.sort();
    assert_eq!(names, [DISK, "file"]);
    let metadata = fs::metadata(served.volume())?;
    ensure!(metadata.is_file() && metadata.len() == size, "{metadata:?}");
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(
        compare::digest(&served.volume())?,
        compare::digest(&served.image)?
    );
    assert_eq!(fs::read(served.rig.volume("file"))?, b"a file");
    Ok(())
}

#[test]
fn its_name_cannot_be_changed_or_taken() -> Result<()> {
    let served = Served::empty(MIB)?;
    let (disk, file) = (served.volume(), served.rig.volume("file"));
    for (what, result, kind) in [
        ("rm", fs::remove_file(&disk), ErrorKind::PermissionDenied),
        (
            "mv",
            fs::rename(&disk, served.rig.volume("other")),
            ErrorKind::PermissionDenied,
        ),
        (
            "mv over it",
            fs::rename(&file, &disk),
            ErrorKind::PermissionDenied,
        ),
        ("mkdir", fs::create_dir(&disk), ErrorKind::AlreadyExists),
        ("rmdir", fs::remove_dir(&disk), ErrorKind::NotADirectory),
        (
            "creation",
            File::create_new(&disk).map(drop),
            ErrorKind::AlreadyExists,
        ),
    ] {
        let error = result.err().with_context(|| format!("{what} was allowed"))?;
        ensure!(error.kind() == kind, "{what}: {error}");
    }
    assert_eq!(fs::metadata(&disk)?.len(), MIB);
    assert_eq!(fs::read(&file)?, b"a file");
    // A file that gets the name later is not shown.
    fs::write(served.rig.original(DISK), "shadowed")?;
    assert_eq!(fs::metadata(&disk)?.len(), MIB);
    Ok(())
}

#[test]
fn nobody_else_mounts_it_meanwhile() -> Result<()> {
    let served = Served::empty(64 * MIB)?;
    let inside = served.rig.sandbox.join("inside");
    let mounted = Mounted::mount(served.device.path(), inside, "ro");
    ensure!(mounted.is_err(), "a device that is served was mounted");
    Ok(())
}

#[test]
fn without_permission_to_change_it_is_read() -> Result<()> {
    for (loop_options, serve_options) in [(&["--read-only"][..], &[][..]), (&[][..], &["--read-only"][..])] {
        let content = bytes(2, MIB)?;
        let served = Served::with(MIB, loop_options, serve_options, |image| {
            Ok(image.write_all_at(&content, 0)?)
        })?;
        ensure!(fs::read(served.volume())? == content, "other bytes");
        let error = served.open_for_writing().err().context("opened for writing")?;
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ReadOnlyFilesystem), "{error:?}");
    }
    Ok(())
}

/// What another program wrote between two runs of the server is seen.
#[test]
fn a_later_run_shows_what_changed_between() -> Result<()> {
    let mut served = Served::filled(4 * MIB, |image| Ok(image.write_all_at(&bytes(3, MIB)?, 0)?))?;
    let open = served.rig.mount.open(DISK)?;
    assert_eq!(
        compare::digest(&served.volume())?,
        compare::digest(&served.image)?
    );
    served.rig.server.kill()?;
    let device = File::options().write(true).open(served.device.path())?;
    device.write_all_at(&bytes(4, MIB)?, MIB / 2)?;
    device.sync_all()?;
    drop(device);
    served.rig.start_server()?;
    // While there is no session, what is known of an open volume is served to whoever opens it again.
    wait::until("a new session", wait::LIMIT, || {
        Ok(served.rig.mount.status()?.reconnects > 0)
    })?;
    assert_eq!(
        compare::digest(&served.volume())?,
        compare::digest(&served.image)?
    );
    let image = File::open(&served.image)?;
    compare::same_range(&open, &image, 0, 4 * MIB)
}

fn refusal(sandbox: &Sandbox, dir: &Path, devices: &[&str]) -> Result<Ended> {
    let state = sandbox.join("state");
    // A server that does start would run for ever.
    let mut server = sandbox.command("timeout");
    server
        .args(["--signal=KILL", "20"])
        .arg(binaries::lacunad()?)
        .arg("serve")
        .arg(dir)
        .args(["--listen", "127.0.0.1:0", "--state"])
        .arg(state);
    for device in devices {
        server.args(["--device", device]);
    }
    command::finish(&mut server)
}

#[test]
fn what_cannot_be_served_is_refused_with_advice() -> Result<()> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let dir = sandbox.folder("served")?;
    fs::write(dir.join("taken"), "")?;
    for image in ["one", "two"] {
        File::create_new(sandbox.join(image))?.set_len(64 * MIB)?;
    }
    let one = LoopDevice::read_write(&sandbox.join("one"))?;
    let two = LoopDevice::read_write(&sandbox.join("two"))?;
    command::tool("mkfs.ext4", ["-q".as_ref(), two.path().as_os_str()])?;
    let _mounted = Mounted::mount(two.path(), sandbox.join("inside"), "noatime")?;
    let (file, missing) = (sandbox.join("one"), sandbox.join("missing"));
    for (devices, words) in [
        (vec!["/dev/loop0".to_owned()], ["NAME=DEVICE", "/dev/loop0"]),
        (vec![named("a/b", one.path())?], ["a/b", "no name"]),
        (vec![named("a", &missing)?], ["missing", "does not exist"]),
        (vec![named("a", &file)?], ["one", "not a block device"]),
        (vec![named("taken", one.path())?], ["'taken'", "choose another"]),
        (
            vec![named("a", one.path())?, named("a", two.path())?],
            ["'a'", "choose another"],
        ),
        (
            vec![named("a", one.path())?, named("b", one.path())?],
            ["'a' already", "name it once"],
        ),
        (vec![named("a", two.path())?], ["mounted", "unmount"]),
    ] {
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let ended = refusal(&sandbox, &dir, &devices)?;
        ensure!(ended.code.is_some_and(|code| code > 0), "{devices:?}: {ended:?}");
        for word in words {
            ensure!(
                ended.stderr.contains(word),
                "`{word}` is not in: {}",
                ended.stderr
            );
        }
    }
    Ok(())
}
