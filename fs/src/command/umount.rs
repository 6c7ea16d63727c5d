//! `lacuna umount`: unmounts, and waits until the daemon behind the mount has ended.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustix::io::Errno;

use super::Global;
use super::status::live_mounts;
use crate::control;
use crate::fuse::mount::{self, FS_TYPE};
use crate::state::StateDir;

/// Processes named in the message when a mount is busy.
const USERS_SHOWN_MAX: usize = 10;

#[derive(Debug, Args)]
pub struct UmountArgs {
    mountpoint: PathBuf,
    /// Take the mountpoint away at once, also while it is in use
    #[arg(long)]
    lazy: bool,
    /// How long to wait for the mount to end
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

pub fn umount(global: &Global, args: &UmountArgs) -> anyhow::Result<()> {
    let shown = args.mountpoint.display();
    let path = mount::resolve(&args.mountpoint).with_context(|| format!("cannot unmount {shown}"))?;
    match mount::mount_at(&path)? {
        Some(entry) if entry.fs_type == FS_TYPE => {}
        Some(entry) => bail!(
            "{shown} is not a lacuna mount but {} of {}: use umount",
            entry.fs_type,
            entry.source
        ),
        None => bail!("{shown} is not mounted"),
    }
    let waiter = daemon_of(global, &path);
    match mount::unmount(&path, args.lazy) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => bail!("{}", busy(&path)),
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {shown}")),
    }
    // With --lazy the daemon lives on until its last user is done.
    if let Some(mut waiter) = waiter.filter(|_| !args.lazy) {
        waiter.set_read_timeout(Some(Duration::from_secs(args.timeout)))?;
        match waiter.read(&mut [0]) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                bail!(
                    "{shown} is unmounted, but its daemon has not ended within {} s",
                    args.timeout
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// A stream that ends with the daemon of this mount, if it can be found: without it the unmount works
/// all the same, it is only not waited for.
fn daemon_of(global: &Global, path: &Path) -> Option<std::os::unix::net::UnixStream> {
    let state = StateDir::find(global.state.clone()).ok()?;
    let mounts = live_mounts(&state).ok()?;
    let (socket, _) = mounts
        .into_iter()
        .find(|(_, status)| Path::new(&status.mountpoint) == path)?;
    control::ask(&socket, "wait").ok()?
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
    text.push_str(": end that use, or add --lazy");
    text
}
