//! The commands of the client that change volumes without a mount, and how a mount ends: one module per command.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::mount::Client;
use lacuna_tests::random::Random;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;
use serde::Deserialize;

mod confine;
mod create;
mod punch;
mod read_only;
mod resize;
mod rm;
mod sigterm;
mod status;
mod umount;
mod umount_helper;
mod wipe;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A server and an admitted client that mounts nothing. Fields end in this order.
struct Stage {
    client: Client,
    server: Server,
    sandbox: Sandbox,
    dir: PathBuf,
}

/// What `--json` says of a change.
#[derive(Debug, Deserialize)]
struct Done {
    volume: String,
    action: String,
    size: u64,
    allocated_bytes: u64,
    size_before: Option<u64>,
    offset: Option<u64>,
    length: Option<u64>,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        let server = Server::start(&sandbox, &dir)?;
        let client = Client::admitted(&sandbox, &server)?;
        Ok(Self {
            client,
            server,
            sandbox,
            dir,
        })
    }

    /// With a volume `volume` of this many bytes of data.
    fn with_data(bytes: u64) -> Result<Self> {
        let stage = Self::new()?;
        let file = File::create_new(stage.path("volume"))?;
        file.write_all_at(&data(bytes)?, 0)?;
        file.sync_all()?;
        Ok(stage)
    }

    /// The file on the server's disk.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn meta(&self, name: &str) -> Result<Metadata> {
        let path = self.path(name);
        fs::metadata(&path).with_context(|| format!("{} at the server", path.display()))
    }

    /// Bytes allocated at the server.
    fn allocated(&self, name: &str) -> Result<u64> {
        Ok(self.meta(name)?.blocks() * 512)
    }

    fn location(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address())
    }

    /// Runs `lacuna COMMAND HOST/NAME ARGUMENTS` and does not judge the outcome.
    fn run(&self, command: &str, name: &str, arguments: &[&str]) -> Result<Ended> {
        let mut line = self.client.command()?;
        line.arg(command).arg(self.location(name)).args(arguments);
        command::finish(&mut line)
    }

    /// It succeeds, with one line that holds each of these words.
    fn done(&self, command: &str, name: &str, arguments: &[&str], words: &[&str]) -> Result<()> {
        let ended = self.run(command, name, arguments)?;
        ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
        let text = ended.text()?;
        ensure!(text.lines().count() == 1, "not one line: {text}");
        ensure!(text.contains(&self.location(name)), "{text}");
        for word in words {
            ensure!(text.contains(word), "`{word}` is not in: {text}");
        }
        Ok(())
    }

    /// It succeeds, and says so as one object whose size and allocation are those of the server's file.
    fn json(&self, command: &str, name: &str, arguments: &[&str]) -> Result<Done> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let ended = self.run(command, name, &arguments)?;
        ensure!(ended.success() && ended.stderr.is_empty(), "{ended:?}");
        let done: Done = serde_json::from_slice(&ended.stdout).with_context(|| format!("{ended:?}"))?;
        assert_eq!(done.volume, self.location(name));
        if self.path(name).exists() {
            assert_eq!(done.size, self.meta(name)?.len());
            assert_eq!(done.allocated_bytes, self.allocated(name)?);
        }
        Ok(done)
    }

    /// It is refused with exit code 1 and one line that holds each of these words.
    fn refused(&self, command: &str, name: &str, arguments: &[&str], words: &[&str]) -> Result<()> {
        let ended = self.run(command, name, arguments)?;
        let Ended { code, stdout, stderr } = &ended;
        ensure!(*code == Some(1) && stdout.is_empty(), "{command}: {ended:?}");
        ensure!(stderr.trim_end().lines().count() == 1, "not one line: {stderr}");
        for word in words {
            ensure!(stderr.contains(word), "`{word}` is not in: {stderr}");
        }
        Ok(())
    }

    /// It is refused as wrong usage.
    fn misused(&self, command: &str, name: &str, arguments: &[&str], words: &[&str]) -> Result<()> {
        let ended = self.run(command, name, arguments)?;
        ensure!(ended.code == Some(2) && ended.stdout.is_empty(), "{ended:?}");
        for word in words {
            ensure!(
                ended.stderr.contains(word),
                "`{word}` is not in: {}",
                ended.stderr
            );
        }
        Ok(())
    }

    /// The server's file `volume` has these bytes.
    fn ensure_bytes(&self, expected: &[u8]) -> Result<()> {
        ensure!(
            fs::read(self.path("volume"))? == expected,
            "the server's file differs"
        );
        Ok(())
    }

    /// It still is as [`Stage::with_data`] made it.
    fn ensure_unchanged(&self, bytes: u64) -> Result<()> {
        self.ensure_bytes(&data(bytes)?)?;
        ensure!(self.allocated("volume")? >= bytes, "a part of it is a hole");
        Ok(())
    }
}

/// Bytes without a zero among them.
fn data(length: u64) -> Result<Vec<u8>> {
    Ok(Random::new(61).bytes(usize::try_from(length)?))
}
