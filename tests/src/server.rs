//! A running `lacunad serve`, killed on drop.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, Ended};
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::{binaries, wait};

/// See the module.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    identity: String,
    state: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Serves `dir` on a free port of loopback, with a state folder of its own.
    pub fn start(sandbox: &Sandbox, dir: &Path) -> Result<Self> {
        Self::start_at(sandbox, dir, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Serves where a server of this sandbox was before, as the same one.
    pub fn start_at(sandbox: &Sandbox, dir: &Path, listen: SocketAddr) -> Result<Self> {
        let state = sandbox.join("server-state");
        if !state.exists() {
            fs::create_dir(&state)?;
        }
        let log = sandbox.join("lacunad.log");
        let mut child = sandbox
            .command(binaries::lacunad()?)
            .arg("serve")
            .arg(dir)
            .args(["--listen", &listen.to_string(), "--state"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start lacunad")?;
        let ready = ready_line(&mut child);
        // From here on the guard ends the process.
        let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            child,
            address: unspecified,
            identity: String::new(),
            state,
            log,
        };
        let line = ready.with_context(|| format!("lacunad did not get ready:\n{}", server.log()))?;
        (server.address, server.identity) = parse_ready(&line)?;
        Ok(server)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `sha256:…`.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn process(&self) -> Result<Process> {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Process::new)
            .context("no process id")
    }

    pub fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Admits the client with this key.
    pub fn allow(&self, sandbox: &Sandbox, key: &str) -> Result<()> {
        command::run(self.command(sandbox)?.args(["allow", key])).map(drop)
    }

    /// Runs another `lacunad` command on the same state.
    pub fn run(&self, sandbox: &Sandbox, arguments: &[&str]) -> Result<Ended> {
        command::run(self.command(sandbox)?.args(arguments))
    }

    fn command(&self, sandbox: &Sandbox) -> Result<Command> {
        let mut command = sandbox.command(binaries::lacunad()?);
        command.env("LACUNA_STATE", &self.state);
        Ok(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- lacunad's log\n{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line on standard output, or why there is none.
fn ready_line(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().context("no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            // Later lines have no receiver; they are read so that the server never waits for a reader.
            let _ = sender.send(line);
        }
    });
    receiver.recv_timeout(wait::LIMIT).context("no ready line")
}

/// `lacunad: serving DIR on ADDR:PORT, identity sha256:…`
fn parse_ready(line: &str) -> Result<(SocketAddr, String)> {
    let Some((rest, identity)) = line
        .strip_prefix("lacunad: serving ")
        .and_then(|l| l.rsplit_once(", identity "))
    else {
        bail!("not a ready line: {line}");
    };
    let (_, address) = rest
        .rsplit_once(" on ")
        .with_context(|| format!("no address in: {line}"))?;
    ensure!(is_identity(identity), "not an identity: {identity}");
    Ok((
        address
            .parse()
            .with_context(|| format!("not an address: {address}"))?,
        identity.to_owned(),
    ))
}

/// `sha256:` and 64 hex digits.
pub fn is_identity(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line() {
        let identity = format!("sha256:{}", "0a".repeat(32));
        let line = format!("lacunad: serving /srv/a on b, c on 127.0.0.1:4711, identity {identity}");
        let (address, found) = parse_ready(&line).unwrap();
        assert_eq!(address.port(), 4711);
        assert_eq!(found, identity);
        parse_ready("lacunad: serving /srv").unwrap_err();
    }
}
