//! Runs a command to its end, with a deadline, and keeps what it said.
//!
//! Output goes through pipes, as in `x=$(command)`: a command that leaves a daemon behind which still
//! holds them would hang such a script, and is reported as an error here.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wait;

/// A tool that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(240);

/// How long output may stay open after the command itself has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).context("output is not UTF-8")
    }
}

/// Runs `command` to its end, whatever its exit code.
pub fn finish(command: &mut Command) -> Result<Ended> {
    finish_within(LIMIT, command)
}

/// The same, with another deadline.
pub fn finish_within(limit: Duration, command: &mut Command) -> Result<Ended> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("{line}: still running after {limit:?}");
        }
        wait::pause();
    };
    let held = || format!("{line}: ended, but somebody still holds its output open");
    Ok(Ended {
        code: status.code(),
        stdout: stdout.recv_timeout(DRAIN_LIMIT).with_context(held)?,
        stderr: String::from_utf8_lossy(&stderr.recv_timeout(DRAIN_LIMIT).with_context(held)?).into_owned(),
    })
}

/// Runs `command`; an exit code other than 0 is an error that carries its output.
pub fn run(command: &mut Command) -> Result<Ended> {
    let ended = finish(command)?;
    if !ended.success() {
        let stdout = String::from_utf8_lossy(&ended.stdout);
        bail!(
            "{command:?}: exit code {:?}\n{stdout}{}",
            ended.code,
            ended.stderr
        );
    }
    Ok(ended)
}

/// Runs a program of this host with these arguments.
pub fn tool<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    run(Command::new(program).args(arguments))
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A read error ends the output, as its end does.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // The receiver is gone once the command was given up.
        let _ = sender.send(bytes);
    });
    receiver
}
