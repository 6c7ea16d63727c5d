//! A directory as an export: regular files are volumes, directories are folders.
//!
//! **Invariants**
//!
//! * Every name is resolved by `openat2(2)` below the descriptor of DIR, which was opened once, with
//!   `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`. Renaming DIR changes nothing.
//! * The type is checked on an `O_PATH` descriptor, which opens nothing (no FIFO blocks, no tape
//!   rewinds), and that same inode is then reopened through `/proc/self/fd`. No name is looked at
//!   twice, so there is no moment between check and use.
//! * Links, FIFOs, sockets and device nodes do not exist: `NotFound`.
//!
//! File systems mounted below DIR are part of the export, as `find` and `rsync` see it.

mod attr;
mod change;
mod clock;
mod extents;
mod name;
#[cfg(test)]
mod tests;
mod volume;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NodeKind, Space};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use self::attr::Origin;
use self::volume::SparseVolume;
use super::{Backend, Created, OpenVolume, copy, descriptor};
use crate::error::{Error, ErrorKind, Result};

/// `openat2` reports EAGAIN when a rename elsewhere made a check impossible; each attempt is short.
const RESOLVE_ATTEMPTS: usize = 32;

/// A directory of this machine.
#[derive(Debug)]
pub struct SparseFiles {
    dir: OwnedFd,
    /// As the operator named it; for messages only.
    name: PathBuf,
    origin: Origin,
    clock_tick: Duration,
}

impl SparseFiles {
    /// Exports `dir`. The link it may be is followed here, once, because the operator named it.
    pub fn new(dir: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => Error::new(
                ErrorKind::NotFound,
                format!(
                    "cannot serve {}: it does not exist; make the folder first",
                    dir.display()
                ),
            ),
            Errno::NOTDIR => Error::new(
                ErrorKind::NotFolder,
                format!(
                    "cannot serve {}: it is not a folder; name the folder that holds the volumes",
                    dir.display()
                ),
            ),
            other => Error::os(format!("cannot serve {}", dir.display()), other),
        })?;
        let stat =
            attr::of(&fd).map_err(|errno| Error::os(format!("cannot stat {}", dir.display()), errno))?;
        let export = Self {
            origin: Origin::of(&stat),
            clock_tick: clock::tick_of(fd.as_fd()),
            dir: fd,
            name: dir.to_owned(),
        };
        // The first client should not be the one to find out that we may not read it.
        export.open_folder(&NodePath::root())?;
        Ok(export)
    }

    /// The exported folder, opened for nothing but its identity.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The inode that `path` names, opened for nothing but its identity.
    fn resolve(&self, path: &NodePath) -> Result<(OwnedFd, Attr)> {
        let fd = self
            .open_beneath(path, OFlags::PATH)
            .map_err(|errno| Error::os(what("find", path), errno))?;
        let stat = attr::of(&fd).map_err(|errno| Error::os(what("stat", path), errno))?;
        let attr = self.origin.attr(&stat).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{} is neither a volume nor a folder", shown(path)),
            )
        })?;
        Ok((fd, attr))
    }

    fn open_beneath(&self, path: &NodePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name = if path.is_root() { b"." } else { path.as_bytes() };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut last = Errno::AGAIN;
        for _ in 0..RESOLVE_ATTEMPTS {
            match rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), resolve) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                other => return other,
            }
        }
        Err(last)
    }

    fn open_folder(&self, path: &NodePath) -> Result<OwnedFd> {
        // O_DIRECTORY refuses anything else before it is opened.
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| Error::os(what("list", path), errno))
    }
}

impl Backend for SparseFiles {
    fn describe(&self) -> String {
        self.name.display().to_string()
    }

    fn stat(&self, path: &NodePath) -> Result<Attr> {
        Ok(self.resolve(path)?.1)
    }

    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()> {
        let folder = self.open_folder(path)?;
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut names = RawDir::new(&folder, &mut buffer);
        while let Some(entry) = names.next() {
            let entry = entry.map_err(|errno| Error::os(what("list", path), errno))?;
            // Refuses `.` and `..`, and whatever else a kernel could never call a name.
            let Ok(name) = NodeName::new(entry.file_name().to_bytes()) else {
                continue;
            };
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let stat = match rustix::fs::statx(&folder, entry.file_name(), flags, attr::FIELDS) {
                Ok(stat) => stat,
                // Removed since the name was read.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    return Err(Error::os(
                        format!("cannot stat '{name}' in {}", shown(path)),
                        errno,
                    ));
                }
            };
            let Some(attr) = self.origin.attr(&stat) else {
                continue;
            };
            tell(name, attr)?;
        }
        Ok(())
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        let (node, attr) = self.resolve(path)?;
        match attr.kind {
            NodeKind::Volume => {}
            NodeKind::Folder => {
                return Err(Error::new(
                    ErrorKind::NotVolume,
                    format!("{} is a folder", shown(path)),
                ));
            }
        }
        let file = reopen(node.as_fd(), OFlags::RDONLY).map_err(|errno| match errno {
            Errno::NOENT => Error::new(
                ErrorKind::Io,
                "cannot open volumes: /proc is not mounted; mount it",
            ),
            other => Error::os(what("open", path), other),
        })?;
        Ok(Arc::new(SparseVolume::new(file, self.origin, shown(path))))
    }

    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        self.create_at(path, node, exclusive, announce)
    }

    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        self.make_folder_at(path, node)
    }

    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        self.remove_at(path, folder, id)
    }

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        self.rename_at(from, to, mode)
    }

    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr> {
        let failed = |errno| Error::os(what("set attributes of", path), errno);
        let (node, _) = self.resolve(path)?;
        attr::set(node.as_fd(), new).map_err(failed)?;
        let stat = attr::of(&node).map_err(failed)?;
        let attr = self.origin.attr(&stat);
        attr.ok_or_else(|| Error::new(ErrorKind::Io, format!("{} has an impossible size", shown(path))))
    }

    fn flush_folder(&self, path: &NodePath) -> Result<()> {
        let folder = self.open_folder(path)?;
        descriptor::flush(folder.as_fd(), false).map_err(|errno| Error::os(what("flush", path), errno))
    }

    /// `copy_file_range(2)` for the data, which shares extents where FICLONERANGE would: same file system,
    /// whole blocks. (That ioctl itself needs unsafe code, and would share nothing more.)
    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64> {
        target.ready_to_change()?;
        copy::by_extents(source, range, target, offset, |piece, to| {
            let done = match (source.read_fd(), target.write_fd()) {
                (Some(from), Some(into)) => change::copy_data(from, piece, into, to)
                    .map_err(|errno| Error::os("cannot copy between volumes", errno))?,
                _ => 0,
            };
            let (_, left) = piece.split_at(piece.start().saturating_add(done));
            copy::by_bytes(source, left, target, to.saturating_add(done))
        })
    }

    fn space(&self) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.dir)
            .map_err(|errno| Error::os(format!("cannot tell the space of {}", self.name.display()), errno))?;
        let block_bytes = u32::try_from(stat.f_frsize)
            .ok()
            .filter(|bytes| *bytes > 0)
            .unwrap_or(512);
        Ok(Space {
            block_bytes,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            nodes: stat.f_files,
            nodes_free: stat.f_ffree,
            name_bytes_max: u32::try_from(stat.f_namemax).unwrap_or(u32::MAX),
        })
    }

    fn clock_tick(&self) -> Duration {
        self.clock_tick
    }
}

/// Opens the very inode of an `O_PATH` descriptor, whatever its name is by now.
fn reopen(node: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(volume::proc_name(node), flags | OFlags::CLOEXEC, Mode::empty())
}

fn shown(path: &NodePath) -> String {
    if path.is_root() {
        "the exported folder".to_owned()
    } else {
        format!("'{path}'")
    }
}

fn what(verb: &str, path: &NodePath) -> String {
    format!("cannot {verb} {}", shown(path))
}
