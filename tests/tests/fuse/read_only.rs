//! On a read-only mount everything that would change something is refused with EROFS, and changes nothing. A mount
//! is read-only by its option, because its server is, or because its client may only read.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use lacuna_tests::{host, mount_table};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_NOW, access, mknodat, utimensat,
};
use rustix::io::Errno;

fn refused(what: &str, outcome: io::Result<()>) -> Result<()> {
    let error = outcome.err().and_then(|error| error.raw_os_error());
    ensure!(
        error == Some(Errno::ROFS.raw_os_error()),
        "{what}: {error:?}, not EROFS"
    );
    Ok(())
}

/// Who says that nothing may change.
#[derive(Clone, Copy, Debug)]
enum By {
    Option,
    Server,
    Client,
}

fn rig(by: By) -> Result<Rig> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let dir = sandbox.folder("served")?;
    fs::create_dir(dir.join("folder"))?;
    fs::write(dir.join("volume"), "unchanged")?;
    if matches!(by, By::Option) {
        return Rig::start(sandbox, dir, &["ro"]);
    }
    let read_only = |yes: bool| yes.then_some("--read-only");
    let options: Vec<_> = read_only(matches!(by, By::Server)).into_iter().collect();
    let server = Server::start_with(&sandbox, &dir, SocketAddr::from(([127, 0, 0, 1], 0)), &options)?;
    let client = Client::new(&sandbox, "client-state")?;
    let key = client.key()?;
    let words = ["allow", &key]
        .into_iter()
        .chain(read_only(matches!(by, By::Client)));
    server.run(&sandbox, &words.collect::<Vec<_>>())?;
    client.trust(&server)?;
    let mount = Mount::new(&client, &server, "".as_ref(), sandbox.join("mnt"), &[])?;
    Ok(Rig {
        mount,
        server,
        sandbox,
        dir,
    })
}

#[test]
fn changes_are_refused() -> Result<()> {
    refuses_changes(By::Option)
}

#[test]
fn changes_are_refused_by_a_read_only_server() -> Result<()> {
    refuses_changes(By::Server)
}

#[test]
fn changes_are_refused_to_a_client_that_may_only_read() -> Result<()> {
    refuses_changes(By::Client)
}

fn refuses_changes(by: By) -> Result<()> {
    let rig = rig(by)?;
    let entry = mount_table::at(rig.mount.path())?.context("not mounted")?;
    ensure!(
        entry.options.split(',').any(|option| option == "ro"),
        "the mount table says {}",
        entry.options
    );
    assert_eq!(access(rig.volume("volume"), Access::WRITE_OK), Err(Errno::ROFS));
    let (volume, folder, new) = (rig.volume("volume"), rig.volume("folder"), rig.volume("new"));
    let open = |options: &mut fs::OpenOptions| options.open(&volume).map(drop);
    refused("open for writing", open(File::options().write(true)))?;
    refused("open for both", open(File::options().read(true).write(true)))?;
    refused("open for appending", open(File::options().append(true)))?;
    refused(
        "open with O_TRUNC",
        open(File::options().write(true).truncate(true)),
    )?;
    refused("create", File::create_new(&new).map(drop))?;
    refused("create over a volume", File::create(&volume).map(drop))?;
    refused("truncate", truncate(&volume))?;
    refused("unlink", fs::remove_file(&volume))?;
    refused("mkdir", fs::create_dir(&new))?;
    refused("rmdir", fs::remove_dir(&folder))?;
    refused("rename", fs::rename(&volume, &new))?;
    refused("symlink", symlink("volume", &new))?;
    refused("link", fs::hard_link(&volume, &new))?;
    refused(
        "chmod",
        fs::set_permissions(&volume, PermissionsExt::from_mode(0o600)),
    )?;
    refused("chown", chown(&volume, Some(7), Some(7)))?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    refused(
        "utimens",
        utimensat(CWD, &volume, &times, AtFlags::empty()).map_err(Into::into),
    )?;
    refused(
        "mknod",
        mknodat(CWD, &new, FileType::RegularFile, Mode::RUSR, 0).map_err(Into::into),
    )?;
    assert_eq!(fs::read(rig.original("volume"))?, b"unchanged");
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 2);
    Ok(())
}

/// truncate(2) itself, which perl calls for a name: opening for writing first is another call.
fn truncate(path: &Path) -> io::Result<()> {
    let program = "truncate($ARGV[0], 1) or exit($! + 0)";
    match Command::new("perl")
        .args(["-e", program])
        .arg(path)
        .status()?
        .code()
    {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("perl was killed")),
    }
}

/// A descriptor that is open for reading cannot be used to change anything.
#[test]
fn a_descriptor_for_reading_changes_nothing() -> Result<()> {
    let rig = Rig::filled(|dir| Ok(fs::write(dir.join("volume"), "unchanged")?))?;
    let file = rig.mount.open("volume")?;
    ensure!(file.set_len(1).is_err(), "ftruncate worked");
    ensure!(rustix::io::write(&file, b"x").is_err(), "write worked");
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    ensure!(
        rustix::fs::fallocate(&file, punch, 0, 4).is_err(),
        "fallocate worked"
    );
    assert_eq!(fs::read(rig.original("volume"))?, b"unchanged");
    Ok(())
}
