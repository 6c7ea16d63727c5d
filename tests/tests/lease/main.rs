//! Two hosts and one volume: one of them writes at a time, with real daemons on both sides.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use lacuna_tests::{binaries, host, wait};
use rustix::io::Errno;
use serde_json::Value;

mod fenced;
mod one_writer;

/// A server with a volume `disk` of 1 MiB, and two hosts that have mounted it.
struct Stage {
    a: Mount,
    b: Mount,
    server: Server,
    sandbox: Sandbox,
}

impl Stage {
    fn new(serve: &[&str]) -> Result<Self> {
        host::require_fuse()?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        File::create(dir.join("disk"))?.set_len(1 << 20)?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start_with(&sandbox, &dir, listen, serve)?;
        let mount = |name: &str| -> Result<Mount> {
            let client = Client::new(&sandbox, &format!("{name}-state"))?;
            server.run(&sandbox, &["allow", &client.key()?, "--name", name])?;
            client.trust(&server)?;
            Mount::new(&client, &server, OsStr::new(""), sandbox.join(name), &[])
        };
        Ok(Self {
            a: mount("host-a")?,
            b: mount("host-b")?,
            server,
            sandbox,
        })
    }

    fn original(&self) -> PathBuf {
        self.sandbox.join("served/disk")
    }

    /// What `lacunad leases --json` says.
    fn leases(&self) -> Result<Value> {
        let ended = self.server.run(&self.sandbox, &["leases", "--json"])?;
        Ok(serde_json::from_slice(&ended.stdout)?)
    }

    /// `lacunad` on the state of the server, which may say no.
    fn lacunad(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = self.sandbox.command(binaries::lacunad()?);
        command.env("LACUNA_STATE", self.sandbox.join("server-state"));
        command::finish(command.args(arguments))
    }

    /// `lacuna COMMAND HOST/disk ARGUMENTS` as the host that has this mount.
    fn lacuna(&self, mount: &Mount, command: &str, arguments: &[&str]) -> Result<Ended> {
        let volume = format!("{}/disk", self.server.address());
        let mut lacuna = mount.client().command()?;
        command::finish(lacuna.arg(command).arg(volume).args(arguments))
    }
}

/// The one object of `lacuna status`, with all its fields.
fn status(mount: &Mount) -> Result<Value> {
    let mut command = mount.client().command()?;
    let ended = command::run(command.arg("status").arg(mount.path()).arg("--json"))?;
    let mounts: Vec<Value> = serde_json::from_slice(&ended.stdout)?;
    mounts.into_iter().next().context("status of no mount")
}

/// What the daemons of this client have logged.
fn log(mount: &Mount) -> Result<String> {
    let mut text = String::new();
    for entry in walk(mount.client().state().to_owned())? {
        if entry.extension() == Some(OsStr::new("log")) {
            text.push_str(&fs::read_to_string(entry)?);
        }
    }
    Ok(text)
}

fn walk(folder: PathBuf) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn ensure_errno<T>(result: io::Result<T>, errno: Errno, what: &str) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} worked"))?;
    ensure!(
        error.raw_os_error() == Some(errno.raw_os_error()),
        "{what}: {error}"
    );
    Ok(())
}

fn open_to_write(mount: &Mount) -> io::Result<File> {
    File::options().read(true).write(true).open(mount.join("disk"))
}

/// Opens for writing as soon as that is allowed.
fn open_when_allowed(mount: &Mount) -> Result<File> {
    let mut opened = None;
    wait::until("the volume to be free", wait::LIMIT, || {
        match open_to_write(mount) {
            Ok(file) => opened = Some(file),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(opened.is_some())
    })?;
    opened.context("it was opened")
}
