//! One open regular file.
//!
//! It is opened for reading. The first change opens the same inode again for writing, through /proc: all who
//! have a volume open share one of these, and only some of them change it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;
use parking_lot::RwLock;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::attr::{self, Origin};
use super::{change, extents, reopen};
use crate::backend::OpenVolume;
use crate::error::{Error, ErrorKind, Result};

/// See the module.
#[derive(Debug)]
pub(super) struct SparseVolume {
    file: OwnedFd,
    writer: OnceLock<OwnedFd>,
    /// Taken for writing to grow the file to a size without cutting what others append meanwhile.
    growth: RwLock<()>,
    origin: Origin,
    /// The path it was opened by, for messages only: it may have another one by now.
    name: String,
    /// The file system knows RWF_NOWAIT; asked for once.
    knows_nowait: AtomicBool,
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
            origin,
            name,
            knows_nowait: AtomicBool::new(true),
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

    /// What is left of `buffer` lies beyond the end.
    fn size(&self) -> Result<u64> {
        attr::of(&self.file)
            .map(|stat| stat.stx_size)
            .map_err(|errno| self.failed("stat", errno))
    }
}

impl OpenVolume for SparseVolume {
    fn attr(&self) -> Result<Attr> {
        let stat = attr::of(&self.file).map_err(|errno| self.failed("stat", errno))?;
        let attr = self.origin.attr(&stat);
        attr.ok_or_else(|| Error::new(ErrorKind::Io, format!("{} has an impossible size", self.name)))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset_after(offset, filled)?;
            match rustix::io::pread(&self.file, &mut buffer[filled..], at) {
                // The end of the file, now; what follows reads as zeros.
                Ok(0) => {
                    buffer[filled..].fill(0);
                    break;
                }
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read", errno)),
            }
        }
        Ok(())
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if !self.knows_nowait.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset_after(offset, filled)?;
            let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
            match rustix::io::preadv2(&self.file, &mut slices, at, ReadWriteFlags::NOWAIT) {
                // Some file systems say 0 where they mean "not now": ask for the size.
                Ok(0) if self.size()? > at => break,
                Ok(0) => {
                    buffer[filled..].fill(0);
                    filled = buffer.len();
                }
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::OPNOTSUPP) => {
                    self.knows_nowait.store(false, Ordering::Relaxed);
                    break;
                }
                Err(errno) => return Err(self.failed("read", errno)),
            }
        }
        Ok(filled)
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        extents::walk(&self.file.as_fd(), range, runs_max).map_err(|errno| self.failed("map", errno))
    }

    fn ready_to_change(&self) -> Result<()> {
        self.writer().map(drop)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let _others = self.growth.read();
        change::write_all(self.writer()?, bytes, offset).map_err(|errno| self.failed("write", errno))
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        change::punch(self.writer()?, range).map_err(|errno| self.failed("punch", errno))
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
        change::flush(self.file.as_fd(), data_only).map_err(|errno| self.failed("flush", errno))
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

fn offset_after(offset: u64, filled: usize) -> Result<u64> {
    u64::try_from(filled)
        .ok()
        .and_then(|filled| offset.checked_add(filled))
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "a read ends beyond the largest offset"))
}
