//! One open regular file.
//!
//! It is opened for reading. The first change opens the same inode again for writing, through /proc: all who
//! have a volume open share one of these, and only some of them change it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::bulk_write::BulkWrites;
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;
use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::attr::{self, Origin};
use super::{change, extents, reopen};
use crate::backend::OpenVolume;
use crate::backend::descriptor::{self, CachedReads};
use crate::error::{Error, ErrorKind, Result};

/// See the module.
#[derive(Debug)]
pub(super) struct SparseVolume {
    file: OwnedFd,
    writer: OnceLock<OwnedFd>,
    /// Taken for writing to grow the file to a size without cutting what others append meanwhile.
    growth: RwLock<()>,
    /// Taken to write and to punch, after `growth`.
    writing: Mutex<()>,
    origin: Origin,
    /// The path it was opened by, for messages only: it may have another one by now.
    name: String,
    cached: CachedReads,
    writes: BulkWrites,
}

/// The name under which /proc shows a descriptor of this process.
pub(super) fn proc_name(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl SparseVolume {
    pub(super) fn new(file: OwnedFd, origin: Origin, name: String) -> Self {
        Self {
            file,
            writer: OnceLock::new(),
            growth: RwLock::new(()),
            writing: Mutex::new(()),
            origin,
            name,
            cached: CachedReads::default(),
            writes: BulkWrites::default(),
        }
    }

    /// Of a file that was just made: its creator may write whatever its mode says.
    pub(super) fn made(writer: OwnedFd, origin: Origin, name: String) -> Result<Self, Errno> {
        let volume = Self::new(rustix::io::fcntl_dupfd_cloexec(&writer, 0)?, origin, name);
        volume.writer.get_or_init(|| writer);
        Ok(volume)
    }

    fn writer(&self) -> Result<BorrowedFd<'_>> {
        if let Some(writer) = self.writer.get() {
            return Ok(writer.as_fd());
        }
        let opened = reopen(self.file.as_fd(), OFlags::WRONLY)
            .map_err(|errno| self.failed("open for writing", errno))?;
        // Another thread may have been faster; then this one closes.
        Ok(self.writer.get_or_init(|| opened).as_fd())
    }

    fn failed(&self, verb: &str, errno: Errno) -> Error {
        Error::os(format!("cannot {verb} {}", self.name), errno)
    }
}

impl OpenVolume for SparseVolume {
    fn attr(&self) -> Result<Attr> {
        let stat = attr::of(&self.file).map_err(|errno| self.failed("stat", errno))?;
        let attr = self.origin.attr(&stat);
        attr.ok_or_else(|| Error::new(ErrorKind::Io, format!("{} has an impossible size", self.name)))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        descriptor::read(self.file.as_fd(), buffer, offset).map_err(|errno| self.failed("read", errno))
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let cached = self.cached.read(self.file.as_fd(), buffer, offset, || {
            attr::of(&self.file).map(|stat| stat.stx_size)
        });
        cached.map_err(|errno| self.failed("read", errno))
    }

    fn will_read(&self, ranges: &[ByteRange]) {
        descriptor::will_read(self.file.as_fd(), ranges);
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        extents::walk(&self.file.as_fd(), range, runs_max).map_err(|errno| self.failed("map", errno))
    }

    fn ready_to_change(&self) -> Result<()> {
        self.writer().map(drop)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let _others = self.growth.read();
        // The kernel lets one at a time write to a file, and the others spin.
        let _turn = self.writing.lock();
        let written = self.writes.write(self.writer()?, bytes, offset);
        written.map_err(|errno| self.failed("write", errno))
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        let writer = self.writer()?;
        let punch = || {
            let others = self.growth.read();
            let size = change::size(writer)?;
            if range.end() < size {
                let _turn = self.writing.lock();
                return change::punch(writer, range, size);
            }
            drop(others);
            // What others append meanwhile is not to be freed with the block that the file ends in.
            let _alone = self.growth.write();
            change::punch(writer, range, change::size(writer)?)
        };
        punch().map_err(|errno| self.failed("punch", errno))
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        let _others = self.growth.read();
        change::zero(self.writer()?, range, grow).map_err(|errno| self.failed("zero", errno))
    }

    fn allocate(&self, range: ByteRange, grow: bool) -> Result<()> {
        let _others = self.growth.read();
        change::allocate(self.writer()?, range, grow).map_err(|errno| self.failed("allocate", errno))
    }

    fn resize(&self, size: u64) -> Result<()> {
        let _others = self.growth.read();
        change::resize(self.writer()?, size).map_err(|errno| self.failed("resize", errno))
    }

    fn grow(&self, size: u64) -> Result<()> {
        let _alone = self.growth.write();
        change::grow_to(self.writer()?, size).map_err(|errno| self.failed("grow", errno))
    }

    fn flush(&self, data_only: bool) -> Result<()> {
        descriptor::flush(self.file.as_fd(), data_only).map_err(|errno| self.failed("flush", errno))
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        attr::set(self.file.as_fd(), new).map_err(|errno| self.failed("set attributes of", errno))
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.writer.get().map(AsFd::as_fd)
    }
}
