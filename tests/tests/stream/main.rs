//! A volume that is a stream, through a real mount and a real pipe: one module per side.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use lacuna_tests::{host, wait};
use serde_json::Value;

mod finish;
mod tools;
mod write;

const MIB: u64 = 1 << 20;

/// A server with a stream `disk`, mounted.
struct Stage {
    mount: Mount,
    server: Server,
    sandbox: Sandbox,
}

impl Stage {
    /// `options`: those of the stream, after its pipe; `serve`: more of the server's.
    fn new(options: &str, serve: &[&str]) -> Result<Self> {
        host::require_fuse()?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        fs::write(dir.join("file"), "no stream")?;
        let pipe = sandbox.join("pipe");
        let stream = format!("disk={},{options}", pipe.to_str().context("a path in UTF-8")?);
        let words: Vec<&str> = ["--stream", &stream].iter().chain(serve).copied().collect();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start_with(&sandbox, &dir, listen, &words)?;
        let client = Client::admitted(&sandbox, &server)?;
        let mount = Mount::new(&client, &server, OsStr::new(""), sandbox.join("mnt"), &[])?;
        Ok(Self {
            mount,
            server,
            sandbox,
        })
    }

    fn volume(&self) -> PathBuf {
        self.mount.join("disk")
    }

    fn pipe(&self) -> PathBuf {
        self.sandbox.join("pipe")
    }

    fn spool(&self) -> PathBuf {
        self.sandbox.join("server-state/streams/disk.spool")
    }

    /// Reads the pipe to its end, into a file.
    fn reader(&self) -> JoinHandle<Result<PathBuf>> {
        let (pipe, out) = (self.pipe(), self.sandbox.join("out"));
        thread::spawn(move || {
            let mut from = fs::File::open(pipe)?;
            std::io::copy(&mut from, &mut fs::File::create(&out)?)?;
            Ok(out)
        })
    }

    /// `lacuna COMMAND SERVER/disk OPTIONS`, whatever comes of it.
    fn lacuna(&self, word: &str, options: &[&str]) -> Result<Ended> {
        let location = format!("{}/disk", self.server.address());
        let mut command = self.mount.client().command()?;
        command.arg(word).arg(location).args(options);
        command::finish_within(2 * wait::LIMIT, &mut command)
    }

    /// What `lacuna stat` says of the stream.
    fn stream(&self) -> Result<Value> {
        let ended = self.lacuna("stat", &["--json"])?;
        ensure!(ended.success(), "lacuna stat: {}", ended.stderr);
        let mut found: Value = serde_json::from_str(ended.text()?)?;
        Ok(found["stream"].take())
    }

    /// Finishes the stream and returns what came out of the pipe, in a file.
    fn finish(&self, reader: JoinHandle<Result<PathBuf>>) -> Result<PathBuf> {
        let ended = self.lacuna("finish", &[])?;
        ensure!(ended.success(), "lacuna finish: {}", ended.stderr);
        joined(reader)
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Compares without printing either.
fn ensure_equal(out: &Path, expected: &[u8]) -> Result<()> {
    let found = fs::read(out)?;
    ensure!(
        found.len() == expected.len(),
        "{} bytes came out, not {}",
        found.len(),
        expected.len()
    );
    let first = found.iter().zip(expected).position(|(one, other)| one != other);
    first.map_or(Ok(()), |at| Err(anyhow!("the byte at {at} is another one")))
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}
