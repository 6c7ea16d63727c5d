//! Bad input: each gets an exit code other than 0 and one line that says what happened and what to do,
//! and leaves nothing mounted.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lacuna_tests::command::Ended;
use lacuna_tests::host;
use lacuna_tests::mount::Client;
use lacuna_tests::mount_table;
use lacuna_tests::process;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;

mod client_state;
mod device;
mod mountpoint;
mod network;
mod server_start;
mod trust;

/// A server and an admitted client that has mounted nothing yet.
struct Stage {
    client: Client,
    server: Server,
    mountpoint: PathBuf,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        host::require_fuse()?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        fs::write(dir.join("volume"), "content")?;
        let server = Server::start(&sandbox, &dir)?;
        let client = Client::admitted(&sandbox, &server)?;
        let mountpoint = sandbox.folder("mnt")?;
        Ok(Self {
            client,
            server,
            mountpoint,
            sandbox,
        })
    }

    fn spec(&self) -> String {
        self.server.address().to_string()
    }

    fn mount(&self, spec: impl AsRef<OsStr>) -> Result<Ended> {
        self.client.try_mount(spec.as_ref(), &self.mountpoint, &[])
    }

    /// The mount was refused with one line that holds each of `words`, and nothing is left of it.
    fn ensure_refused(&self, ended: &Ended, words: &[&str]) -> Result<()> {
        ensure_refused(ended, words)?;
        ensure_nothing_left(&self.sandbox, &self.mountpoint)
    }

    /// The server still serves.
    fn ensure_serves(&self) -> Result<()> {
        let ended = self.mount(self.spec())?;
        ensure!(
            ended.success(),
            "the server no longer serves: {ended:?}\n{}",
            self.server.log()
        );
        assert_eq!(fs::read(self.mountpoint.join("volume"))?, b"content");
        Ok(())
    }
}

fn ensure_refused(ended: &Ended, words: &[&str]) -> Result<()> {
    let Ended { code, stdout, stderr } = ended;
    ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}: {stderr}");
    ensure!(stdout.is_empty(), "something on standard output: {ended:?}");
    ensure!(
        stderr.trim_end().lines().count() == 1,
        "not one line on standard error:\n{stderr}"
    );
    for word in words {
        ensure!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
    ensure!(!stderr.contains("panicked"), "panic: {stderr}");
    Ok(())
}

fn ensure_nothing_left(sandbox: &Sandbox, mountpoint: &Path) -> Result<()> {
    ensure!(
        mount_table::at(mountpoint)?.is_none(),
        "something is mounted on {}",
        mountpoint.display()
    );
    lacuna_tests::wait::until("the client to end", lacuna_tests::wait::LIMIT, || {
        Ok(process::daemon_of(sandbox.path(), mountpoint).is_none())
    })
}
