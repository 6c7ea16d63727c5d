//! The account that the server runs as: `--user USER[:GROUP]`.
//!
//! Root is given up in all its parts (real, effective and saved ids, groups), and with it every capability. The C
//! library does that for all threads; still it is done while there is only one.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno as NixErrno;
use nix::unistd::{self, Gid, Group, Uid, User};
use rustix::fs::{Access, AtFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::state;

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    /// As the system's table has it: whose further groups it gets. None for a number that is not in there.
    name: Option<String>,
}

impl Account {
    /// Finds `USER` or `USER:GROUP`, each a name or a number. The group is that of the user if none is given.
    pub fn find(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let known = look_up(user, User::from_name, |number| {
            User::from_uid(Uid::from_raw(number))
        })?;
        let uid = known
            .as_ref()
            .map(|known| known.uid)
            .or_else(|| user.parse().ok().map(Uid::from_raw))
            .ok_or_else(|| unknown("user", user))?;
        let gid = match group {
            Some(group) => group_of(group)?,
            None => known.as_ref().map(|known| known.gid).ok_or_else(|| {
                let text = format!("there is no user {user}, so its group is unknown: write {user}:GROUP");
                Error::new(ErrorKind::NotFound, text)
            })?,
        };
        if uid.is_root() {
            let text = "--user names the account that root is given up for: name another than root";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let name = known.map(|known| known.name);
        Ok(Self { uid, gid, name })
    }

    /// Whose state folder it is: of whoever served from it last, or of the folder's owner. `None` if that is root.
    fn owner_of(folder: &Path) -> Result<Option<Self>> {
        let stat = std::fs::symlink_metadata(folder.join(state::LOCK_NAME))
            .or_else(|_| std::fs::metadata(folder))
            .map_err(|error| Error::io(format!("cannot use {}", folder.display()), error))?;
        let uid = Uid::from_raw(stat.uid());
        Ok((!uid.is_root()).then(|| Self {
            uid,
            gid: Gid::from_raw(stat.gid()),
            name: None,
        }))
    }

    /// Gives the folder, which was just made, to the account.
    pub fn own(&self, folder: &Path) -> Result<()> {
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        std::os::unix::fs::lchown(folder, Some(uid), Some(gid)).map_err(|error| {
            let text = format!("cannot give {} to the user {self}", folder.display());
            Error::io(text, error)
        })
    }

    /// Becomes this account for good.
    pub fn assume(&self) -> Result<()> {
        let failed = |errno: NixErrno| {
            let text = format!("cannot become the user {self}");
            Error::io(text, errno.into())
        };
        if !Uid::effective().is_root() {
            if (Uid::effective(), Gid::effective()) == (self.uid, self.gid) {
                return Ok(());
            }
            let text = format!("cannot become the user {self}: start lacunad as root, or without --user");
            return Err(Error::new(ErrorKind::NotPermitted, text));
        }
        match self
            .name
            .as_ref()
            .and_then(|name| CString::new(name.as_str()).ok())
        {
            Some(name) => unistd::initgroups(&name, self.gid),
            None => unistd::setgroups(&[self.gid]),
        }
        .map_err(failed)?;
        unistd::setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        unistd::setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        if unistd::setuid(Uid::from_raw(0)).is_ok() {
            let text = format!(
                "became the user {self}, but could become root again: the kernel is not to be trusted"
            );
            return Err(Error::new(ErrorKind::Internal, text));
        }
        Ok(())
    }

    /// After [`Self::assume`]: the state folder and all files in it are this account's to use.
    pub fn check_state(&self, state: &Path) -> Result<()> {
        let refused = |path: &Path| {
            let text = format!(
                "the user {self} cannot use {}: run: chown -R {}:{} {}",
                path.display(),
                self.uid,
                self.gid,
                state.display()
            );
            Error::new(ErrorKind::Denied, text)
        };
        let all = Access::READ_OK | Access::WRITE_OK;
        let usable = |path: &Path, access| {
            rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS).is_ok()
        };
        if !usable(state, all | Access::EXEC_OK) {
            return Err(refused(state));
        }
        let names = std::fs::read_dir(state).map_err(|_| refused(state))?;
        for entry in names.flatten() {
            let path = entry.path();
            // A socket that is left of another run is only removed.
            let is_file = entry
                .file_type()
                .is_ok_and(|kind| kind.is_file() || kind.is_dir());
            if is_file && !usable(&path, all) {
                return Err(refused(&path));
            }
        }
        Ok(())
    }

    /// After [`Self::assume`]: an error about the exported folder says whose it is to be.
    pub fn check_export(&self, dir: impl AsFd, name: &Path) -> Result<()> {
        let access = Access::READ_OK | Access::EXEC_OK;
        rustix::fs::accessat(dir, ".", access, AtFlags::EACCESS).map_err(|errno| {
            let text = format!(
                "cannot serve {} as the user {self}: let it read the folder, with chown, chmod or setfacl",
                name.display()
            );
            Error::os(text, errno)
        })
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.uid),
        }
    }
}

/// As root, becomes the account that a state folder belongs to, so that what is made in it is its owner's, who may be the one that
/// a daemon runs as, and so that nothing its owner put there leads root astray.
pub fn become_owner(state: &Path) -> Result<()> {
    match Account::owner_of(state)? {
        Some(owner) if Uid::effective().is_root() => owner.assume(),
        Some(_) | None => Ok(()),
    }
}

fn group_of(text: &str) -> Result<Gid> {
    let known = look_up(text, Group::from_name, |number| {
        Group::from_gid(Gid::from_raw(number))
    })?;
    known
        .map(|known| known.gid)
        .or_else(|| text.parse().ok().map(Gid::from_raw))
        .ok_or_else(|| unknown("group", text))
}

fn unknown(kind: &str, name: &str) -> Error {
    let text = format!("there is no {kind} '{name}' on this machine: see getent(1), or write its number");
    Error::new(ErrorKind::NotFound, text)
}

/// By name, and if there is none of that name, by number.
fn look_up<T>(
    text: &str,
    by_name: impl FnOnce(&str) -> nix::Result<Option<T>>,
    by_number: impl FnOnce(u32) -> nix::Result<Option<T>>,
) -> Result<Option<T>> {
    let failed = |errno: NixErrno| Error::io(format!("cannot look up the account '{text}'"), errno.into());
    if let Some(found) = by_name(text).map_err(failed)? {
        return Ok(Some(found));
    }
    match text.parse() {
        Ok(number) => by_number(number).map_err(failed),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let by_name = Account::find("nobody").unwrap();
        assert_eq!(by_name.name.as_deref(), Some("nobody"));
        assert_eq!(Account::find(&by_name.uid.to_string()).unwrap(), by_name);
        let with_group = Account::find("nobody:12").unwrap();
        assert_eq!((with_group.uid, with_group.gid), (by_name.uid, Gid::from_raw(12)));
        let numbers = Account::find("4000001:4000002").unwrap();
        let (uid, gid) = (Uid::from_raw(4_000_001), Gid::from_raw(4_000_002));
        assert_eq!(numbers, Account { uid, gid, name: None });
    }

    #[test]
    fn what_is_no_account_is_refused_with_advice() {
        for (text, advice) in [
            ("no-such-user", "no user 'no-such-user'"),
            ("", "no user ''"),
            ("nobody:no-such-group", "no group 'no-such-group'"),
            ("4000001", "write 4000001:GROUP"),
            ("root", "name another than root"),
            ("0:12", "name another than root"),
        ] {
            let error = Account::find(text).unwrap_err().to_string();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }
}
