//! A client with its own state, and a live `lacuna mount` of it, unmounted on drop.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{self, Ended};
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::sandbox::Sandbox;
use crate::server::{self, Server};
use crate::status::Status;
use crate::{binaries, mount_table, wait};

/// A client: a folder of state with a key.
#[derive(Clone, Debug)]
pub struct Client {
    sandbox: PathBuf,
    state: PathBuf,
    /// Where its commands run; `None`: where the test does.
    namespace: Option<Namespace>,
}

impl Client {
    /// A client without a key yet.
    pub fn new(sandbox: &Sandbox, name: &str) -> Result<Self> {
        Ok(Self {
            sandbox: sandbox.path().to_owned(),
            state: sandbox.folder(name)?,
            namespace: None,
        })
    }

    /// A client that trusts `server` and is admitted by it.
    pub fn admitted(sandbox: &Sandbox, server: &Server) -> Result<Self> {
        Self::admitted_as(sandbox, server, "client-state")
    }

    /// The same with this folder of state: another one is another host.
    pub fn admitted_as(sandbox: &Sandbox, server: &Server, name: &str) -> Result<Self> {
        let client = Self::new(sandbox, name)?;
        server.allow(sandbox, &client.key()?)?;
        client.trust(server)?;
        Ok(client)
    }

    /// The same client in the network `namespace`.
    pub fn inside(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// `lacuna`, on this client's state.
    pub fn command(&self) -> Result<Command> {
        let lacuna = binaries::lacuna()?;
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(lacuna),
            None => Command::new(lacuna),
        };
        command
            .env(process::MARK, &self.sandbox)
            .env("LACUNA_STATE", &self.state);
        Ok(command)
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its identity; the first call creates it.
    pub fn key(&self) -> Result<String> {
        let ended = command::run(self.command()?.arg("key"))?;
        let word = ended
            .text()?
            .split_whitespace()
            .find(|word| server::is_identity(word));
        word.map(str::to_owned)
            .with_context(|| format!("no identity in: {:?}", ended.text()))
    }

    pub fn trust(&self, server: &Server) -> Result<()> {
        let address = server.address().to_string();
        command::run(self.command()?.args(["trust", &address, server.identity()])).map(drop)
    }

    /// Runs `lacuna mount SPEC MOUNTPOINT -o OPTIONS` and does not judge the outcome.
    pub fn try_mount(&self, spec: &OsStr, mountpoint: &Path, options: &[&str]) -> Result<Ended> {
        let mut command = self.command()?;
        command.arg("mount").arg(spec).arg(mountpoint);
        if !options.is_empty() {
            command.args(["-o", &options.join(",")]);
        }
        command::finish(&mut command)
    }
}

/// A live mount.
#[derive(Debug)]
pub struct Mount {
    client: Client,
    mountpoint: PathBuf,
}

impl Mount {
    /// Mounts `server`, or its folder `folder` if that is not empty, on a new folder `mountpoint`.
    pub fn new(
        client: &Client,
        server: &Server,
        folder: &OsStr,
        mountpoint: PathBuf,
        options: &[&str],
    ) -> Result<Self> {
        if !mountpoint.exists() {
            fs::create_dir(&mountpoint)?;
        }
        let mount = Self {
            client: client.clone(),
            mountpoint,
        };
        mount.mount(server, folder, options)?;
        Ok(mount)
    }

    /// Mounts all of `server` at the same place, where nothing is mounted now.
    pub fn mount_again(&self, server: &Server, options: &[&str]) -> Result<()> {
        self.mount(server, OsStr::new(""), options)
    }

    fn mount(&self, server: &Server, folder: &OsStr, options: &[&str]) -> Result<()> {
        let mut spec = OsString::from(server.address().to_string());
        if !folder.is_empty() {
            spec.push("/");
            spec.push(folder);
        }
        let ended = self.client.try_mount(&spec, &self.mountpoint, options)?;
        ensure!(
            ended.success(),
            "lacuna mount: exit code {:?}\n{}\n{}",
            ended.code,
            ended.stderr,
            server.log()
        );
        ensure!(self.is_mounted()?, "lacuna mount said 0, but nothing is mounted");
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(name)
    }

    pub fn open(&self, name: impl AsRef<Path>) -> Result<File> {
        let path = self.join(name);
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// Opens an existing volume for reading and writing.
    pub fn open_for_writing(&self, name: impl AsRef<Path>) -> Result<File> {
        let path = self.join(name);
        let file = File::options().read(true).write(true).open(&path);
        file.with_context(|| format!("cannot open {} for writing", path.display()))
    }

    /// Creates a volume that is not there yet, for reading and writing.
    pub fn create(&self, name: impl AsRef<Path>) -> Result<File> {
        let path = self.join(name);
        File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_mounted(&self) -> Result<bool> {
        Ok(mount_table::at(&self.mountpoint)?.is_some())
    }

    pub fn status(&self) -> Result<Status> {
        let ended = command::run(
            self.client
                .command()?
                .arg("status")
                .arg(&self.mountpoint)
                .arg("--json"),
        )?;
        Status::parse(&ended.stdout)
    }

    /// Waits until `counters` has stayed the same: readahead of the kernel runs on after a read returns.
    pub fn settled(&self) -> Result<Status> {
        let mut last = self.status()?;
        let mut unchanged = 0;
        wait::until("readahead to settle", wait::LIMIT, || {
            let now = self.status()?;
            unchanged = if counters(&now) == counters(&last) {
                unchanged + 1
            } else {
                0
            };
            last = now;
            Ok(unchanged >= 5)
        })?;
        Ok(last)
    }

    /// The process that serves this mount.
    pub fn daemon(&self) -> Result<Process> {
        let daemon = process::daemon_of(&self.client.sandbox, &self.mountpoint);
        daemon.with_context(|| format!("no process serves {}", self.mountpoint.display()))
    }

    /// Runs `lacuna umount` and does not judge the outcome.
    pub fn try_unmount(&self, arguments: &[&str]) -> Result<Ended> {
        command::finish(
            self.client
                .command()?
                .arg("umount")
                .arg(&self.mountpoint)
                .args(arguments),
        )
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Ok(Some(_)) = mount_table::at(&self.mountpoint) {
            // The sandbox ends what is left; a test that is about unmounting judges it itself.
            let _ = self.try_unmount(&[]);
            mount_table::detach(&self.mountpoint);
        }
    }
}

fn counters(status: &Status) -> [u64; 5] {
    let Status {
        requests_sent,
        hole_bytes_read,
        cache_bytes_read,
        fetched_bytes,
        cache_bytes,
        ..
    } = *status;
    [
        requests_sent,
        hole_bytes_read,
        cache_bytes_read,
        fetched_bytes,
        cache_bytes,
    ]
}
