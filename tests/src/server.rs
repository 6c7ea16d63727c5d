//! A running `lacunad serve`, killed on drop.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::command::{self, Ended};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::{binaries, wait};

/// Starts the command that it got at each address that it reads; says the number of the process and when it ended.
const KEEPER: &str =
    r#"while read -r at; do "$@" --listen "$at" </dev/null & echo "pid $!"; wait "$!"; echo ended; done"#;

/// See the module.
///
/// A keeper, which is a shell, starts the daemon, so that it can be started again while the test holds volumes
/// open: the copies of a test's descriptors in a process that it starts are closed by exec, and closing a volume
/// waits for the server.
#[derive(Debug)]
pub struct Server {
    keeper: Child,
    daemon: Option<Process>,
    lines: Mutex<Receiver<String>>,
    address: SocketAddr,
    identity: String,
    state: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Serves `dir` on a free port of loopback, with a state folder of its own.
    pub fn start(sandbox: &Sandbox, dir: &Path) -> Result<Self> {
        Self::start_with(sandbox, dir, SocketAddr::from(([127, 0, 0, 1], 0)), &[])
    }

    /// The same at this address, with these options of `lacunad serve`.
    pub fn start_with(sandbox: &Sandbox, dir: &Path, listen: SocketAddr, options: &[&str]) -> Result<Self> {
        Self::kept_by(sandbox.command("sh"), sandbox, dir, listen, options)
    }

    /// The same in the network `namespace`.
    pub fn start_inside(
        namespace: &Namespace,
        sandbox: &Sandbox,
        dir: &Path,
        listen: SocketAddr,
        options: &[&str],
    ) -> Result<Self> {
        let shell = sandbox.mark(namespace.command("sh"));
        Self::kept_by(shell, sandbox, dir, listen, options)
    }

    fn kept_by(
        mut shell: Command,
        sandbox: &Sandbox,
        dir: &Path,
        listen: SocketAddr,
        options: &[&str],
    ) -> Result<Self> {
        let state = sandbox.join("server-state");
        if !state.exists() {
            fs::create_dir(&state)?;
        }
        let log = sandbox.join("lacunad.log");
        let mut keeper = shell
            .args(["-c", KEEPER, "keeper"])
            .arg(binaries::lacunad()?)
            .arg("serve")
            .arg(dir)
            .arg("--state")
            .arg(&state)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .context("cannot start the keeper of lacunad")?;
        let lines = lines_of(&mut keeper);
        // From here on the guard ends both processes.
        let mut server = Self {
            keeper,
            daemon: None,
            lines: Mutex::new(lines?),
            address: listen,
            identity: String::new(),
            state,
            log,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the daemon, which does not run, where it was before.
    pub fn start_again(&mut self) -> Result<()> {
        let keeper = self.keeper.stdin.as_mut().context("the keeper has no input")?;
        writeln!(keeper, "{}", self.address).context("the keeper is gone")?;
        self.daemon = None;
        // In any order: the keeper and the daemon write to the same pipe, and the last one's end may come first.
        let mut ready = None;
        while self.daemon.is_none() || ready.is_none() {
            let line = self.line()?;
            if let Some(number) = line.strip_prefix("pid ") {
                self.daemon = Process::new(number.parse().with_context(|| format!("not a process: {line}"))?);
            } else if line != "ended" {
                ready = Some(parse_ready(&line)?);
            } else if self.daemon.is_some() {
                bail!("lacunad ended at once:\n{}", self.log());
            }
        }
        if let Some(ready) = ready {
            (self.address, self.identity) = ready;
        }
        Ok(())
    }

    fn line(&self) -> Result<String> {
        let lines = self.lines.lock().map_err(|_| anyhow!("a reader panicked"))?;
        let line = lines.recv_timeout(wait::LIMIT);
        line.with_context(|| format!("lacunad says nothing:\n{}", self.log()))
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `sha256:…`.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What all servers of this sandbox have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn process(&self) -> Result<Process> {
        self.daemon.context("lacunad was never started")
    }

    pub fn lives(&self) -> Result<bool> {
        Ok(self.process()?.lives())
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&self) -> Result<()> {
        self.process()?.send(Signal::KILL)?;
        let line = self.line()?;
        ensure!(line == "ended", "lacunad was killed and says: {line}");
        Ok(())
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
        // Both may have ended already. A folder that it serves is in use until all of it has ended.
        if self
            .daemon
            .is_some_and(|daemon| daemon.send(Signal::KILL).is_ok())
        {
            while self.line().is_ok_and(|line| line != "ended") {}
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// What `keeper` and what it starts say on standard output.
fn lines_of(keeper: &mut Child) -> Result<Receiver<String>> {
    let stdout = keeper.stdout.take().context("no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            // Later lines may have no receiver; they are read so that nobody waits for a reader.
            let _ = sender.send(line);
        }
    });
    Ok(receiver)
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
