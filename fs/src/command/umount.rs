//! `lacuna umount`: has everything saved, unmounts, and waits until the daemon behind the mount has ended.
//!
//! | | before | then |
//! |---|---|---|
//! | | waits until everything is flushed at the server; what cannot be keeps it mounted | waits for the daemon, and repeats its last word |
//! | `--force` | ends it for all its users, if it is in use | the same |
//! | `--lazy` | | returns at once; the daemon lives on until its last user is done, and saves |
//!
//! A mount that stays is one whose data can still be read, and saved later: only who says so loses it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rustix::io::Errno;

use super::Global;
use super::progress::{Heard, Patience, Progress};
use super::status::live_mounts;
use crate::control;
use crate::fuse::mount::{self, FS_TYPE, MountEntry};
use crate::state::StateDir;
use crate::status::MountStatus;

/// Processes named in the message when a mount is busy.
const USERS_SHOWN_MAX: usize = 10;
/// Without --timeout: how long nothing may go on.
const IDLE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct UmountArgs {
    mountpoint: PathBuf,
    /// Take the mountpoint away at once, also while it is in use; what is left is saved in the background
    #[arg(long)]
    lazy: bool,
    /// Unmount also if it is in use, whose users get errors, and if what was written cannot be saved, which may lose
    /// it; the exit code says so
    #[arg(long)]
    force: bool,
    /// How long all of this may take [default: for as long as something is sent, and 30 s after that]
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

/// A live mount's daemon.
struct Daemon {
    pid: u32,
    progress: Progress,
    flush: Option<UnixStream>,
    wait: Option<UnixStream>,
}

pub fn umount(global: &Global, args: &UmountArgs) -> anyhow::Result<()> {
    let shown = args.mountpoint.display();
    let path = mount::resolve(&args.mountpoint).with_context(|| format!("cannot unmount {shown}"))?;
    let entry = match mount::mount_at(&path)? {
        Some(entry) if entry.fs_type == FS_TYPE => entry,
        Some(entry) => bail!(
            "{shown} is not a lacuna mount but {} of {}: use umount",
            entry.fs_type,
            entry.source
        ),
        None => bail!("{shown} is not mounted"),
    };
    // With --lazy the daemon lives on until its last user is done.
    let mut daemon = if args.lazy {
        None
    } else {
        Daemon::of(global, args, &entry)
    };
    if let Some(daemon) = daemon.as_mut() {
        daemon.save(&path)?;
    } else if !args.lazy {
        tracing::warn!(
            "no daemon of this mount was found (it was killed, or has another --state): nothing is waited for"
        );
    }
    match mount::unmount(&path, args.lazy) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            if !args.force {
                bail!("{}", busy(&path));
            }
            mount::abort(&path).with_context(|| format!("cannot unmount {shown}"))?;
            if daemon.is_none() {
                // Nobody else takes the name away.
                mount::unmount(&path, true).with_context(|| format!("cannot unmount {shown}"))?;
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {shown}")),
    }
    daemon.map_or(Ok(()), |mut daemon| daemon.end(&path))
}

/// Tells if something of ours is mounted there.
pub fn is_ours(mountpoint: &Path) -> bool {
    let found = mount::resolve(mountpoint).and_then(|path| mount::mount_at(&path));
    matches!(found, Ok(Some(entry)) if entry.fs_type == FS_TYPE)
}

impl Daemon {
    /// The daemon of this mount, if it can be found.
    fn of(global: &Global, args: &UmountArgs, entry: &MountEntry) -> Option<Self> {
        let state = StateDir::find(global.state.clone()).ok()?;
        // Another mount at the same place may still be on its way out.
        let is_it = |status: &MountStatus| {
            Path::new(&status.mountpoint) == entry.mountpoint && status.device == entry.device
        };
        let mounts = live_mounts(&state).ok()?;
        let (socket, status) = mounts.into_iter().find(|(_, status)| is_it(status))?;
        let patience = match args.timeout {
            Some(secs) => Patience::Until(Instant::now() + Duration::from_secs(secs)),
            None => Patience::Idle(IDLE_MAX),
        };
        let ask = |word| control::ask(&socket, word).ok().flatten();
        Some(Self {
            pid: status.pid,
            progress: Progress::new(&socket, &status, patience),
            flush: if args.force { None } else { ask("flush") },
            // Before the unmount: the daemon may be gone right after it.
            wait: ask("wait"),
        })
    }

    /// Waits until everything is saved, unless it is to be unmounted in any case.
    fn save(&mut self, path: &Path) -> anyhow::Result<()> {
        let Some(mut flush) = self.flush.take() else {
            return Ok(());
        };
        let unsaved = match self.progress.hear(&mut flush)? {
            // Of a daemon that just ended, `wait` knows.
            Heard::Saved | Heard::Silence => return Ok(()),
            Heard::Unsaved(text) => text,
            Heard::TimedOut => format!("the time is over, and {} to be saved at the server", self.left()),
        };
        bail!(
            "{unsaved}; {} stays mounted and its daemon goes on trying: try again later, or lose it with --force",
            path.display()
        );
    }

    /// Waits for its end, which says if everything is saved.
    fn end(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let Some(mut wait) = self.wait.take() else {
            return Ok(());
        };
        match self.progress.hear(&mut wait)? {
            Heard::Saved => Ok(()),
            Heard::Unsaved(text) => bail!("{text}"),
            Heard::Silence => bail!(
                "{shown} is unmounted, but its daemon ended without a word: what was written last may not be saved"
            ),
            Heard::TimedOut => bail!(
                "{shown} is unmounted, but {} to be saved at the server; its daemon (process {}) goes on trying",
                self.left(),
                self.pid
            ),
        }
    }

    fn left(&self) -> String {
        match self.progress.left_bytes() {
            0 => "something is left".to_owned(),
            bytes => format!("{bytes} bytes are left"),
        }
    }
}

fn busy(path: &Path) -> String {
    let users = mount::users_of(path);
    let mut text = format!("{} is in use", path.display());
    if users.is_empty() {
        text.push_str(" by the kernel (a loop device, a mount inside it, or swap)");
    } else {
        text.push_str(" by ");
        text.push_str(&users[..users.len().min(USERS_SHOWN_MAX)].join(", "));
        if users.len() > USERS_SHOWN_MAX {
            text.push_str(&format!(" and {} more", users.len() - USERS_SHOWN_MAX));
        }
    }
    text.push_str(": end that use, or add --lazy, or --force to end it for them");
    text
}
