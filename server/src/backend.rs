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
//!
//! Methods block, apart from [`OpenVolume::read_cached`], and run on the blocking pool. Step 2 adds
//! `write_at`, `punch`, `zero`, `resize` and `flush` to [`OpenVolume`], `create`, `remove` and `rename`
//! to [`Backend`]; block devices and Ceph come behind the same two traits.
//!
//! Left out on purpose: generations. A backend reports the stamps (times, size, id) and how fine its
//! clock is; [`crate::generation`] decides.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod sparse_file;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, Space};
use lacuna_transport::extent::Extent;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;

use crate::error::Result;

/// An export. The `generation` of every [`Attr`] it returns is 0: see [`crate::catalog`].
pub trait Backend: Debug + Send + Sync + 'static {
    /// One line for logs: what is exported.
    fn describe(&self) -> String;

    fn stat(&self, path: &NodePath) -> Result<Attr>;

    /// The nodes in a folder in ascending byte order of their names, at most
    /// [`lacuna_transport::limits::FOLDER_NODES_MAX`] (else `Exhausted`).
    fn list(&self, path: &NodePath) -> Result<Vec<(NodeName, Attr)>>;

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>>;

    fn space(&self) -> Result<Space>;

    /// For so long after a change a further change may leave the change time as it is. Zero if the
    /// clock is fine enough to tell any two changes apart that were observed apart.
    fn clock_tick(&self) -> Duration;
}

/// An open volume.
pub trait OpenVolume: Debug + Send + Sync + 'static {
    /// Attributes now. Cheap and does not wait for storage: called before and after each read.
    fn attr(&self) -> Result<Attr>;

    /// Fills all of `buffer` from `offset`; zeros beyond the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Fills as much of the front of `buffer` as can be had without waiting for storage, and returns
    /// how many bytes that is. `buffer.len()` means done, zeros beyond the end included.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// The extents from `range.start()` on, without gaps, neighbours of different kind, cut at
    /// `range.end()` and at the volume's end; at most `runs_max` of them, so that they may end
    /// earlier. Empty if `range` starts at or beyond the end.
    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>>;

    /// A descriptor whose inode inotify can watch for changes behind our back.
    fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
