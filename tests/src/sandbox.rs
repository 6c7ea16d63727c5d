//! A folder of one test, and everything that the test started in it.
//!
//! Dropping it ends, in this order, its mounts, its processes and its loop devices, then removes the
//! folder: a mount must never be alive below a folder that is being removed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{binaries, loop_device, mount_table, process, wait};

/// See the module.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(binaries::work_dir()?)
            .context("cannot create a sandbox")?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new folder inside.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// A command whose processes belong to this sandbox.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.mark(Command::new(program))
    }

    /// The processes of `command` belong to this sandbox.
    pub fn mark(&self, mut command: Command) -> Command {
        command.env(process::MARK, self.path());
        command
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        mount_table::detach_below(self.path());
        let left = process::of_sandbox(self.path());
        for process in &left {
            // It may end by itself in between.
            let _ = process.send(Signal::KILL);
        }
        let ended = wait::until("processes of a sandbox to end", wait::LIMIT, || {
            Ok(!left.iter().any(|process| process.lives()))
        });
        loop_device::detach_below(self.path());
        // A client that was killed while it mounted may have done so after the first look.
        let detached = wait::until("mounts of a sandbox to go", wait::LIMIT, || {
            mount_table::detach_below(self.path());
            Ok(!mount_table::entries()?
                .iter()
                .any(|entry| entry.mountpoint.starts_with(self.path())))
        });
        if let Err(error) = ended.and(detached) {
            // The folder stays: nothing may be removed through a live mount.
            self.dir.disable_cleanup(true);
            eprintln!("{}: {error:#}", self.path().display());
            assert!(std::thread::panicking(), "a sandbox was left behind");
        }
    }
}
