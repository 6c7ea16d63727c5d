//! One open regular file.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use lacuna_transport::attr::Attr;
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};

use super::attr::{self, Origin};
use super::extents;
use crate::backend::OpenVolume;
use crate::error::{Error, ErrorKind, Result};

/// The file, open for reading.
#[derive(Debug)]
pub(super) struct SparseVolume {
    file: OwnedFd,
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
            origin,
            name,
            knows_nowait: AtomicBool::new(true),
        }
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

    fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

fn offset_after(offset: u64, filled: usize) -> Result<u64> {
    u64::try_from(filled)
        .ok()
        .and_then(|filled| offset.checked_add(filled))
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "a read ends beyond the largest offset"))
}
