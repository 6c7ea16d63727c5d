//! `lacuna pull` and `lacuna push`: volumes to and from files, block devices and pipes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::mount::Client;
use lacuna_tests::process::Process;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use lacuna_tests::{binaries, compare, samples, wait};
use serde::Deserialize;

mod device;
mod interrupted;
mod pipe;
mod pull;
mod push;
mod records;
mod refused;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What a transfer may send beside its data.
const TALK_BYTES: u64 = 64 * KIB;

/// The sample: its size, and where it has data.
const SAMPLE_BYTES: u64 = 64 * MIB + 1000;
const SAMPLE_DATA: [(u64, u64); 4] = [
    (0, 3 * MIB),
    (10 * MIB + 100, 10 * MIB + 5000),
    (32 * MIB, 33 * MIB),
    (64 * MIB, SAMPLE_BYTES),
];

/// A server and an admitted client. Fields end in this order.
struct Stage {
    client: Client,
    server: Server,
    sandbox: Sandbox,
    dir: PathBuf,
}

/// What `--json` says of a transfer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved {
    volume: String,
    action: String,
    bytes: u64,
    data_bytes: u64,
    hole_bytes: u64,
    same_bytes: u64,
    wire_bytes: u64,
    seconds: f64,
    digest: Option<String>,
    verified: bool,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        Self::over(sandbox, dir)
    }

    fn over(sandbox: Sandbox, dir: PathBuf) -> Result<Self> {
        let server = Server::start(&sandbox, &dir)?;
        let client = Client::admitted(&sandbox, &server)?;
        Ok(Self {
            client,
            server,
            sandbox,
            dir,
        })
    }

    /// With the sample as the volume `v`.
    fn with_sample() -> Result<Self> {
        let stage = Self::new()?;
        write_sample(&stage.original("v"), 1)?;
        Ok(stage)
    }

    /// The file on the server's disk.
    fn original(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A local path.
    fn local(&self, name: &str) -> PathBuf {
        self.sandbox.join(name)
    }

    fn location(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address())
    }

    /// `lacuna pull HOST/VOLUME TARGET OPTIONS`.
    fn pull(&self, volume: &str, target: &Path, options: &[&str]) -> Result<Command> {
        let mut line = self.client.command()?;
        line.arg("pull")
            .arg(self.location(volume))
            .arg(target)
            .args(options);
        Ok(line)
    }

    /// `lacuna push SOURCE HOST/VOLUME OPTIONS`.
    fn push(&self, source: &Path, volume: &str, options: &[&str]) -> Result<Command> {
        let mut line = self.client.command()?;
        line.arg("push")
            .arg(source)
            .arg(self.location(volume))
            .args(options);
        Ok(line)
    }

    /// A script for sh, in which `$lacuna` is the program and `$at` the server.
    fn shell(&self, script: &str) -> Result<Command> {
        let mut line = self.sandbox.command("sh");
        line.args(["-c", script])
            .current_dir(self.sandbox.path())
            .env("LACUNA_STATE", self.client.state())
            .env("lacuna", binaries::lacuna()?)
            .env("at", self.server.address().to_string());
        Ok(line)
    }
}

/// It succeeds, and says so as one object.
fn moved(line: &mut Command) -> Result<Moved> {
    let ended = command::run(line.arg("--json"))?;
    ensure!(ended.stderr.is_empty(), "{ended:?}");
    let moved: Moved = serde_json::from_slice(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(
        moved.bytes == moved.data_bytes + moved.hole_bytes + moved.same_bytes && moved.seconds > 0.0,
        "{moved:?}"
    );
    Ok(moved)
}

/// It fails with exit code 1 and one line that holds each of these words.
fn refused(line: &mut Command, words: &[&str]) -> Result<()> {
    let ended = command::finish(line)?;
    ensure!(ended.code == Some(1) && ended.stdout.is_empty(), "{ended:?}");
    said(&ended, words)
}

fn said(ended: &Ended, words: &[&str]) -> Result<()> {
    ensure!(
        ended.stderr.trim_end().lines().count() == 1,
        "not one line: {}",
        ended.stderr
    );
    for word in words {
        ensure!(
            ended.stderr.contains(word),
            "`{word}` is not in: {}",
            ended.stderr
        );
    }
    Ok(())
}

fn write_sample(path: &Path, seed: u64) -> Result<()> {
    samples::write_sparse(path, SAMPLE_BYTES, seed, SAMPLE_DATA)
}

/// Bytes without a zero among them.
fn write_data(path: &Path, bytes: u64) -> Result<()> {
    samples::write_sparse(path, bytes, 7, [(0, bytes)])
}

/// What `b3sum` shows, as results name it.
fn b3sum(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

/// Two files have the same bytes, holes and space.
fn same(original: &Path, copy: &Path) -> Result<()> {
    compare::same_bytes(original, copy, compare::Reading::Everything)?;
    compare::same_space(original, copy, compare::Space::Same)
}

fn make_fifo(path: &Path) -> Result<()> {
    command::tool("mkfifo", [OsStr::new(path)]).map(drop)
}

/// A command that runs, killed on drop.
struct Running(Child);

impl Running {
    fn start(line: &mut Command) -> Result<Self> {
        line.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Self(line.spawn()?))
    }

    fn process(&self) -> Result<Process> {
        let number = i32::try_from(self.0.id())?;
        Process::new(number).context("no process")
    }

    /// Waits for its first line of progress, which is taken.
    fn says_something(&mut self) -> Result<()> {
        let stderr = self.0.stderr.as_mut().context("no output")?;
        let mut byte = [0];
        while byte != *b"\n" {
            stderr
                .read_exact(&mut byte)
                .context("it ended before it said anything")?;
        }
        Ok(())
    }

    /// Waits for its end, and tells how it was.
    fn ended(mut self) -> Result<Ended> {
        let mut status = None;
        wait::until("a transfer to end", wait::LIMIT * 3, || {
            status = self.0.try_wait()?;
            Ok(status.is_some())
        })?;
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        self.0
            .stdout
            .take()
            .context("no output")?
            .read_to_end(&mut stdout)?;
        self.0
            .stderr
            .take()
            .context("no output")?
            .read_to_string(&mut stderr)?;
        Ok(Ended {
            code: status.and_then(|status| status.code()),
            stdout,
            stderr,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The file has this many bytes at least, or gets them.
fn wait_for_bytes(path: &Path, bytes: u64) -> Result<()> {
    wait::until("bytes to arrive", wait::LIMIT, || {
        Ok(fs::metadata(path).is_ok_and(|metadata| metadata.len() >= bytes))
    })
}
