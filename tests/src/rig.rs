//! One server and one client that has mounted it: what most tests start from.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::Signal;

use crate::mount::{Client, Mount};
use crate::sandbox::Sandbox;
use crate::server::Server;
use crate::{host, mount_table, wait};

/// Fields end in this order: the mount, the server, then whatever is left in the sandbox.
#[derive(Debug)]
pub struct Rig {
    pub mount: Mount,
    pub server: Server,
    pub sandbox: Sandbox,
    /// What the server serves.
    pub dir: PathBuf,
}

impl Rig {
    /// Serves and mounts a new folder, filled by `fill` before the server starts.
    pub fn filled(fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        Self::filled_with(&[], fill)
    }

    /// The same, with options of the mount.
    pub fn filled_with(options: &[&str], fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        host::require_fuse()?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        fill(&dir)?;
        Self::start(sandbox, dir, options)
    }

    /// Serves and mounts the folder that holds `sample`, read-only to the test by convention.
    pub fn over(sample: &Path) -> Result<Self> {
        Self::over_with(&[], sample)
    }

    /// The same, with options of the mount.
    pub fn over_with(options: &[&str], sample: &Path) -> Result<Self> {
        host::require_fuse()?;
        let dir = sample.parent().unwrap_or(sample).to_owned();
        Self::start(Sandbox::new()?, dir, options)
    }

    /// Serves and mounts `dir`.
    pub fn start(sandbox: Sandbox, dir: PathBuf, options: &[&str]) -> Result<Self> {
        Self::start_with(sandbox, dir, &[], options)
    }

    /// The same, with options of `lacunad serve`.
    pub fn start_with(
        sandbox: Sandbox,
        dir: PathBuf,
        serve_options: &[&str],
        options: &[&str],
    ) -> Result<Self> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start_with(&sandbox, &dir, listen, serve_options)?;
        let client = Client::admitted(&sandbox, &server)?;
        let mount = Mount::new(&client, &server, OsStr::new(""), sandbox.join("mnt"), options)?;
        Ok(Self {
            mount,
            server,
            sandbox,
            dir,
        })
    }

    /// `kill -9` of the server, then a new one at the same place. Volumes may be open.
    pub fn restart_server(&mut self) -> Result<()> {
        self.server.kill()?;
        self.start_server()
    }

    /// A new server where the last one was, which has ended. Volumes may be open.
    pub fn start_server(&mut self) -> Result<()> {
        self.server.start_again()
    }

    /// `kill -9` of the client, then a new one that mounts at the same place.
    pub fn kill_and_remount(&self) -> Result<()> {
        let daemon = self.mount.daemon()?;
        daemon.send(Signal::KILL)?;
        wait::until("the client to end", wait::LIMIT, || Ok(!daemon.lives()))?;
        mount_table::detach_below(self.mount.path());
        self.mount.mount_again(&self.server, &[])
    }

    /// The file on the server's disk.
    pub fn original(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The same file through the mount.
    pub fn volume(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.join(name)
    }
}
