//! `lacuna mount`: starts the daemon and returns when the mount is usable.
//!
//! The daemon is this program once more, with `--foreground`, in a session of its own; it says `ready`
//! or what went wrong on its standard output, which the parent reads. So nothing is forked after threads
//! began.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

use super::{Global, daemon};
use crate::fuse::mount;
use crate::location::Location;
use crate::mount_options::MountOptions;
use crate::state::StateDir;

/// Set in the environment of a daemon that was started by `lacuna mount`.
pub const DAEMON_ENV: &str = "LACUNA_DAEMON";
/// What a daemon says when its mount is usable.
pub const READY: &str = "ready\n";

#[derive(Debug, Args)]
pub struct MountArgs {
    /// HOST[:PORT][/FOLDER]
    source: String,
    mountpoint: PathBuf,
    /// memory=SIZE (bounds all of the mount), cache=SIZE (256M), dirty=SIZE (half of the cache), detect-zeroes=off|on|unmap (off),
    /// compress=auto|none|zstd|lz4 (auto: where it is faster), timeout=SECS (30), hard, allow_other,
    /// noallow_other, ro, rw, noexec; those of mount(8) are skipped
    #[arg(short, value_name = "OPT,...")]
    options: Vec<String>,
    /// Stay in the foreground, log to standard error, and tell systemd when ready
    #[arg(long, short)]
    foreground: bool,
}

pub fn mount(global: &Global, args: &MountArgs) -> anyhow::Result<()> {
    let location = Location::parse(&args.source).map_err(anyhow::Error::msg)?;
    let options = MountOptions::parse(&args.options).map_err(anyhow::Error::msg)?;
    let state = StateDir::find(global.state.clone())?;
    let mountpoint = mount::check_mountpoint(&args.mountpoint)?;
    if args.foreground {
        let job = daemon::Job {
            source: args.source.clone(),
            location,
            mountpoint,
            options,
        };
        return daemon::run(&state, job);
    }
    // What is wrong here is found before anything is started.
    state.trusted(&location.server())?;
    state.identity()?;
    let log = state
        .mounts()?
        .join(format!("{}.log", daemon::log_name(&mountpoint)));
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&log)
        .with_context(|| format!("cannot write the log {}", log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("--state").arg(state.path());
    command.args((0..global.verbose).map(|_| "-v"));
    command.arg("mount").arg("--foreground");
    for options in &args.options {
        command.arg("-o").arg(options);
    }
    let child = command
        .arg("--")
        .arg(&args.source)
        .arg(&mountpoint)
        .env(DAEMON_ENV, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the daemon")?;
    wait_until_ready(child)
}

fn wait_until_ready(mut child: std::process::Child) -> anyhow::Result<()> {
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_string(&mut said)
            .context("cannot hear the daemon")?;
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the daemon")?;
    match said.trim_end() {
        "" => bail!("the daemon ended without a word ({status})"),
        message => bail!("{message}"),
    }
}
