//! The state folder: the identity, the allow list, the control socket, and the lock of the one daemon
//! that may run on it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::confine::user::Account;
use crate::error::{Error, ErrorKind, Result};

/// Belongs to the account that the last daemon ran as.
pub(crate) const LOCK_NAME: &str = "lock";

/// `--state`, else `$LACUNA_STATE`, else /var/lib/lacunad for root and the XDG state folder for others.
/// Made if it is missing, for `owner` only: another account, or this user.
pub fn folder(named: Option<&Path>, owner: Option<&Account>) -> Result<PathBuf> {
    let path = choose(
        named,
        |name| std::env::var_os(name).map(PathBuf::from),
        rustix::process::geteuid().is_root(),
    )?;
    let is_missing = !path.exists();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|error| Error::io(format!("cannot make the state folder {}", path.display()), error))?;
    if let Some(owner) = owner.filter(|_| is_missing) {
        owner.own(&path)?;
    }
    // Nothing in it needs the path of the caller's working folder later.
    fs::canonicalize(&path).map_err(|error| Error::io(format!("cannot use {}", path.display()), error))
}

fn choose(
    named: Option<&Path>,
    environment: impl Fn(&str) -> Option<PathBuf>,
    is_root: bool,
) -> Result<PathBuf> {
    let set = |name| environment(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = named.map(Path::to_owned).or_else(|| set("LACUNA_STATE")) {
        return Ok(path);
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/lacunad"));
    }
    set("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|above| above.join("lacunad"))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "no state folder: HOME is not set; name one with --state",
            )
        })
}

/// Held by the daemon that runs on a state folder, until it ends in whatever way.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

impl DaemonLock {
    pub fn take(state: &Path) -> Result<Self> {
        let path = state.join(LOCK_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(format!("cannot open {}", path.display()), error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::AGAIN) => Err(Error::new(
                ErrorKind::InUse,
                format!(
                    "another lacunad runs on the state folder {}; stop it, or name another folder with --state",
                    state.display()
                ),
            )),
            Err(errno) => Err(Error::os(format!("cannot lock {}", path.display()), errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_chosen_in_the_documented_order() {
        let all = |name: &str| match name {
            "LACUNA_STATE" => Some(PathBuf::from("/s")),
            "XDG_STATE_HOME" => Some(PathBuf::from("/x")),
            "HOME" => Some(PathBuf::from("/h")),
            _ => None,
        };
        let without =
            |hidden: &'static [&str]| move |name: &str| all(name).filter(|_| !hidden.contains(&name));
        assert_eq!(choose(Some(Path::new("/n")), all, true).unwrap(), Path::new("/n"));
        assert_eq!(choose(None, all, true).unwrap(), Path::new("/s"));
        assert_eq!(
            choose(None, without(&["LACUNA_STATE"]), true).unwrap(),
            Path::new("/var/lib/lacunad")
        );
        assert_eq!(
            choose(None, without(&["LACUNA_STATE"]), false).unwrap(),
            Path::new("/x/lacunad")
        );
        let home = choose(None, without(&["LACUNA_STATE", "XDG_STATE_HOME"]), false).unwrap();
        assert_eq!(home, Path::new("/h/.local/state/lacunad"));
        assert!(choose(None, |_| None, false).is_err());
    }

    #[test]
    fn one_daemon_a_state_folder() {
        let state = tempfile::tempdir().unwrap();
        let lock = DaemonLock::take(state.path()).unwrap();
        let error = DaemonLock::take(state.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        drop(lock);
        DaemonLock::take(state.path()).unwrap();
    }
}
