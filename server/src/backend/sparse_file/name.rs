//! Changes of names: create, make a folder, remove, rename.
//!
//! The folder of a name is resolved below DIR like everything else and held by an `O_PATH` descriptor; the
//! call that changes something is then given that descriptor and one final name, which no kernel follows.
//! What has the name is looked at first: links, FIFOs, sockets and devices are never removed or replaced. For
//! the moment between look and call there is no lock; another program of this host that puts a link there
//! at just that moment loses the link, and never anything behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lacuna_transport::attr::{Attr, NewNode, NodeKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::wire::message::RenameMode;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Statx, Uid};
use rustix::io::Errno;

use super::volume::{SparseVolume, proc_name};
use super::{SparseFiles, attr, shown, what};
use crate::backend::{Backend, Created};
use crate::error::{Error, ErrorKind, Result};

/// Attempts to create or rename while other programs take and free the same name.
const RACES_MAX: usize = 32;
/// Set-group-id: what is made in such a folder gets the folder's group.
const SET_GROUP_ID: u32 = 0o2000;

/// A folder, and a name in it.
struct Place<'a> {
    folder: OwnedFd,
    name: NodeName,
    path: &'a NodePath,
}

/// What has a name.
enum Found {
    Nothing,
    /// A link, a FIFO, a socket, a device.
    Hidden,
    Node(Attr),
}

impl SparseFiles {
    /// `Err` with the kind `at_root` for the exported folder itself, which has no name.
    fn place<'a>(&self, path: &'a NodePath, verb: &str, at_root: ErrorKind) -> Result<Place<'a>> {
        let Some((folder, name)) = path.split() else {
            let text = format!("{}: it is the exported folder", what(verb, path));
            return Err(Error::new(at_root, text));
        };
        let folder = self
            .open_beneath(&folder, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| Error::os(what(verb, path), errno))?;
        Ok(Place { folder, name, path })
    }

    fn look(&self, place: &Place<'_>) -> Result<Found> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&place.folder, place.name.as_bytes(), flags, attr::FIELDS) {
            Ok(stat) => Ok(self.origin.attr(&stat).map_or(Found::Hidden, Found::Node)),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(errno) => Err(Error::os(what("stat", place.path), errno)),
        }
    }

    pub(super) fn create_at(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        let place = self.place(path, "create", ErrorKind::Exists)?;
        for _ in 0..RACES_MAX {
            match self.look(&place)? {
                Found::Nothing => {}
                Found::Node(_) if !exclusive => match self.open(path) {
                    Ok(volume) => {
                        volume.ready_to_change()?;
                        return Ok(Created {
                            volume,
                            is_new: false,
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                },
                Found::Node(_) | Found::Hidden => return Err(taken("create", path)),
            }
            match self.make_volume(&place, node, announce) {
                Ok(file) => {
                    let volume = SparseVolume::made(file, self.origin, shown(path));
                    let volume = volume.map_err(|errno| Error::os(what("open", path), errno))?;
                    return Ok(Created {
                        volume: std::sync::Arc::new(volume),
                        is_new: true,
                    });
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::os(what("create", path), errno)),
            }
        }
        Err(busy("create", path))
    }

    /// A new file, open for reading and writing.
    fn make_volume(
        &self,
        place: &Place<'_>,
        node: &NewNode,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<OwnedFd, Errno> {
        let folder = attr::of(&place.folder)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let private = Mode::from_raw_mode(0o600);
        // Without a name until it is complete: nobody sees it with another owner or mode.
        match rustix::fs::openat(
            CWD,
            proc_name(place.folder.as_fd()),
            flags | OFlags::TMPFILE,
            private,
        ) {
            Ok(file) => {
                dress(file.as_fd(), node, &folder, 0)?;
                announce(self.origin.attr(&attr::of(&file)?).as_ref());
                rustix::fs::linkat(
                    CWD,
                    proc_name(file.as_fd()),
                    &place.folder,
                    place.name.as_bytes(),
                    AtFlags::SYMLINK_FOLLOW,
                )?;
                Ok(file)
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                announce(None);
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(&place.folder, place.name.as_bytes(), flags, private)?;
                let dressed = dress(file.as_fd(), node, &folder, 0);
                if dressed.is_err() {
                    // Best effort: the error that matters is the one before.
                    let _ = rustix::fs::unlinkat(&place.folder, place.name.as_bytes(), AtFlags::empty());
                }
                dressed.map(|()| file)
            }
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn make_folder_at(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        let failed = |errno| Error::os(what("make the folder", path), errno);
        let place = self.place(path, "make the folder", ErrorKind::Exists)?;
        let above = attr::of(&place.folder).map_err(failed)?;
        rustix::fs::mkdirat(&place.folder, place.name.as_bytes(), Mode::from_raw_mode(0o700))
            .map_err(failed)?;
        let (made, attr) = self.resolve(path)?;
        let inherited = attr.mode & SET_GROUP_ID;
        if let Err(errno) = dress(made.as_fd(), node, &above, inherited) {
            // Best effort, as above.
            let _ = rustix::fs::unlinkat(&place.folder, place.name.as_bytes(), AtFlags::REMOVEDIR);
            return Err(failed(errno));
        }
        let stat = attr::of(&made).map_err(failed)?;
        self.origin
            .attr(&stat)
            .ok_or_else(|| Error::new(ErrorKind::Io, what("stat", path)))
    }

    pub(super) fn remove_at(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        let place = self.place(path, "remove", ErrorKind::Busy)?;
        let attr = match self.look(&place)? {
            Found::Node(attr) => attr,
            Found::Nothing | Found::Hidden => return Err(missing("remove", path)),
        };
        if id.is_some_and(|id| id != attr.id) {
            let text = format!("{}: it is another one by now", what("remove", path));
            return Err(Error::new(ErrorKind::Stale, text));
        }
        let flags = match (folder, attr.kind) {
            (true, NodeKind::Folder) => AtFlags::REMOVEDIR,
            (false, NodeKind::Volume) => AtFlags::empty(),
            (true, NodeKind::Volume) => {
                return Err(Error::new(
                    ErrorKind::NotFolder,
                    format!("{} is a volume", shown(path)),
                ));
            }
            (false, NodeKind::Folder) => {
                return Err(Error::new(
                    ErrorKind::NotVolume,
                    format!("{} is a folder", shown(path)),
                ));
            }
        };
        rustix::fs::unlinkat(&place.folder, place.name.as_bytes(), flags).map_err(|errno| match errno {
            // POSIX lets a file system say either.
            Errno::EXIST => Error::os(what("remove", path), Errno::NOTEMPTY),
            other => Error::os(what("remove", path), other),
        })
    }

    pub(super) fn rename_at(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        let source = self.place(from, "rename", ErrorKind::Busy)?;
        let target = self.place(to, "rename to", ErrorKind::Busy)?;
        for _ in 0..RACES_MAX {
            match self.look(&source)? {
                Found::Node(_) => {}
                Found::Nothing | Found::Hidden => return Err(missing("rename", from)),
            }
            let there = match (self.look(&target)?, mode) {
                (Found::Hidden, _) | (Found::Node(_), RenameMode::Keep) => {
                    return Err(taken("rename to", to));
                }
                (Found::Nothing, RenameMode::Exchange) => return Err(missing("exchange with", to)),
                (Found::Node(_), _) => true,
                (Found::Nothing, _) => false,
            };
            let flags = match mode {
                RenameMode::Exchange => RenameFlags::EXCHANGE,
                RenameMode::Keep => RenameFlags::NOREPLACE,
                // What comes there meanwhile has not been looked at.
                RenameMode::Replace if there => RenameFlags::empty(),
                RenameMode::Replace => RenameFlags::NOREPLACE,
            };
            let renamed = rustix::fs::renameat_with(
                &source.folder,
                source.name.as_bytes(),
                &target.folder,
                target.name.as_bytes(),
                flags,
            );
            match renamed {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if mode == RenameMode::Replace && !there => {}
                Err(errno) => return Err(rename_failed(from, errno, there)),
            }
        }
        Err(busy("rename to", to))
    }
}

fn rename_failed(from: &NodePath, errno: Errno, there: bool) -> Error {
    match errno {
        Errno::XDEV => Error::with_source(
            ErrorKind::CrossDevice,
            what("rename", from),
            std::io::Error::from(errno),
        ),
        // A full folder may be either, says POSIX.
        Errno::EXIST if there => Error::os(what("rename", from), Errno::NOTEMPTY),
        other => Error::os(what("rename", from), other),
    }
}

/// Gives what was just made its owner and mode: the owner first, as that takes bits of the mode away.
fn dress(made: BorrowedFd<'_>, node: &NewNode, folder: &Statx, inherited: u32) -> Result<(), Errno> {
    let group = if u32::from(folder.stx_mode) & SET_GROUP_ID != 0 {
        folder.stx_gid
    } else {
        node.gid
    };
    let now = attr::of(made)?;
    if (now.stx_uid, now.stx_gid) != (node.uid, group) {
        let owner = (node.uid != u32::MAX).then(|| Uid::from_raw(node.uid));
        let group = (group != u32::MAX).then(|| Gid::from_raw(group));
        match rustix::fs::chownat(made, "", owner, group, AtFlags::EMPTY_PATH) {
            // Only root gives nodes away: a server of another user makes all of them as its own.
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
            other => other?,
        }
    }
    rustix::fs::chmod(proc_name(made), Mode::from_raw_mode(node.mode | inherited))
}

fn missing(verb: &str, path: &NodePath) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{}: there is no such volume or folder", what(verb, path)),
    )
}

fn taken(verb: &str, path: &NodePath) -> Error {
    Error::new(
        ErrorKind::Exists,
        format!("{}: the name is taken", what(verb, path)),
    )
}

fn busy(verb: &str, path: &NodePath) -> Error {
    let text = format!(
        "{}: other programs take and free that name all the time",
        what(verb, path)
    );
    Error::new(ErrorKind::Busy, text)
}
