//! The one door to storage.
//!
//! A [`Backend`] is an export: folders and volumes by path. An [`OpenVolume`] is one of its volumes,
//! the same one until it is dropped, whatever its name does. Each implementation passes the suite in
//! `conformance`.
//!
//! **Invariants every implementation keeps**
//!
//! * Data is never reported as a hole or as zero.
//! * No path, link or race reaches anything outside the export, and nothing but regular volumes and
//!   folders is shown or opened. Opening never blocks on the other end of anything.
//! * A read is always full: what lies beyond the end is zero.
//! * A change is done in full or an error; one that failed may be done in part, within its range.
//! * What is not shown is not touched either: its name is taken for what would be made there, and missing
//!   for what would be removed or renamed.
//!
//! Methods block, apart from [`OpenVolume::read_cached`], and run on the blocking pool. Changes are in the
//! page cache of the host when they return; [`OpenVolume::flush`] and [`Backend::flush_folder`] make them
//! durable. Ceph comes behind the same two traits.
//!
//! Left out on purpose: generations. A backend reports the stamps (times, size, id) and how fine its
//! clock is; [`crate::generation`] decides.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod copy;
mod descriptor;
pub mod device;
pub mod export;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod sparse_file;
pub mod stream;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::extent::Extent;
use lacuna_transport::id::NodeId;
use lacuna_transport::limits::FOLDER_NODES_MAX;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;

use self::stream::Stream;
use crate::error::{Error, ErrorKind, Result};

/// An error if `count` names are too many for one folder.
pub(crate) fn room_for_another(path: &NodePath, count: usize) -> Result<()> {
    if count <= FOLDER_NODES_MAX {
        return Ok(());
    }
    let why = format!("the folder '{path}' has more than {FOLDER_NODES_MAX} names; split it");
    Err(Error::new(ErrorKind::Exhausted, why))
}

/// An export. The `generation` of every [`Attr`] it returns is 0: see [`crate::catalog`].
pub trait Backend: Debug + Send + Sync + 'static {
    /// One line for logs: what is exported.
    fn describe(&self) -> String;

    fn stat(&self, path: &NodePath) -> Result<Attr>;

    /// Tells of the nodes in a folder, in any order; of one that is removed and made again meanwhile maybe twice. Ends
    /// with the first error of `tell`.
    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()>;

    /// The nodes in a folder in ascending byte order of their names, all of them in memory, at most
    /// [`FOLDER_NODES_MAX`] (else `Exhausted`).
    fn list(&self, path: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        let mut nodes = Vec::new();
        self.visit(path, &mut |name, attr| {
            nodes.push((name, attr));
            room_for_another(path, nodes.len())
        })?;
        nodes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        nodes.dedup_by(|a, b| a.0 == b.0);
        Ok(nodes)
    }

    /// Opens for reading; [`OpenVolume::ready_to_change`] makes it writable.
    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>>;

    /// Makes an empty volume with this owner and mode, whatever the umask is, and opens it for changes. What
    /// is there already is opened as it is, or is `Exists` if `exclusive`.
    ///
    /// `announce` is called once before the volume gets its name: with its attributes where the storage can
    /// make a volume before naming it, else with `None`.
    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created>;

    /// Makes an empty folder with this owner and mode, whatever the umask is.
    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr>;

    /// Takes the name of a volume, or of an empty folder, away. With an `id`: `Stale` if it is another node.
    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()>;

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()>;

    /// Sets attributes of a volume or folder: first the owner, then the mode, so that bits a change of
    /// owner takes off are there if they were asked for.
    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr>;

    /// Makes the names in a folder durable.
    fn flush_folder(&self, path: &NodePath) -> Result<()>;

    /// Copies `range` of `source` to `offset` of `target`, both opened here: holes stay holes, extents are
    /// shared where the storage can, and the target grows as needed. Ends where the source ends; returns
    /// how many bytes that is. Two ranges of one volume do not overlap.
    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64>;

    fn space(&self) -> Result<Space>;

    /// For so long after a change a further change may leave the change time as it is. Zero if the
    /// clock is fine enough to tell any two changes apart that were observed apart.
    fn clock_tick(&self) -> Duration;
}

/// What [`Backend::create`] opened.
#[derive(Debug)]
pub struct Created {
    pub volume: Arc<dyn OpenVolume>,
    /// False if it was there before.
    pub is_new: bool,
}

/// An open volume. Whoever has one may read; for changes [`OpenVolume::ready_to_change`] comes first, so that
/// a refusal is met when it is opened.
pub trait OpenVolume: Debug + Send + Sync + 'static {
    /// Attributes now. Cheap and does not wait for storage: called before and after each read.
    fn attr(&self) -> Result<Attr>;

    /// The largest size it can have, if that is less than there is space for.
    fn size_max(&self) -> Option<u64> {
        None
    }

    /// Fills all of `buffer` from `offset`; zeros beyond the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Fills as much of the front of `buffer` as can be had without waiting for storage, and returns
    /// how many bytes that is. `buffer.len()` means done, zeros beyond the end included.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// All of these will be read soon, so that storage can look for one while it brings another. Only a hint.
    fn will_read(&self, _ranges: &[ByteRange]) {}

    /// The extents from `range.start()` on, without gaps, neighbours of different kind, cut at
    /// `range.end()` and at the volume's end; at most `runs_max` of them, so that they may end
    /// earlier. Empty if `range` starts at or beyond the end.
    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>>;

    /// Makes sure that changes can be made. Again and again is cheap.
    fn ready_to_change(&self) -> Result<()>;

    /// Writes all of `bytes`; the volume grows as needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Frees the whole blocks of `range`, zeros the rest of it. Nothing happens beyond the end.
    fn punch(&self, range: ByteRange) -> Result<()>;

    /// Makes `range` read as zeros, allocated where the storage can. Without `grow` the size stays.
    fn zero(&self, range: ByteRange, grow: bool) -> Result<()>;

    /// Reserves space for `range`, so that later writes into it do not lack any. Without `grow` the size stays.
    fn allocate(&self, range: ByteRange, grow: bool) -> Result<()>;

    /// Cuts, or grows with a hole.
    fn resize(&self, size: u64) -> Result<()>;

    /// Grows with a hole, unless it is as large already. Never cuts, whatever else goes on.
    fn grow(&self, size: u64) -> Result<()>;

    /// Makes all changes so far durable. With `data_only` without attributes that no read needs.
    fn flush(&self, data_only: bool) -> Result<()>;

    /// As [`Backend::set_attr`].
    fn set_attr(&self, new: &NewAttr) -> Result<()>;

    /// The stream that this volume is, if it is one.
    fn stream(&self) -> Option<&Arc<Stream>> {
        None
    }

    /// A descriptor open for reading: for inotify, and for copies within the kernel.
    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A descriptor open for writing, for copies within the kernel; `None` if there is none yet.
    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
