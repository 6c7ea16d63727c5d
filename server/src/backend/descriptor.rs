//! Reading, writing and flushing a descriptor to the end: system calls may do less than they were asked, or be
//! interrupted. Files and block devices have these calls in common.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use lacuna_transport::bulk_write::BulkWrites;
use lacuna_transport::range::ByteRange;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

/// Zeros written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Fills all of `buffer`; zeros beyond the end.
pub(super) fn read(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset_after(offset, filled)?) {
            // The end, now; what follows reads as zeros.
            Ok(0) => {
                buffer[filled..].fill(0);
                break;
            }
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads that do not wait for storage.
#[derive(Debug)]
pub(super) struct CachedReads {
    /// The storage knows RWF_NOWAIT; asked for once.
    known: AtomicBool,
}

impl Default for CachedReads {
    fn default() -> Self {
        Self {
            known: AtomicBool::new(true),
        }
    }
}

impl CachedReads {
    /// Fills as much of the front of `buffer` as is in memory; zeros beyond the end.
    pub(super) fn read(
        &self,
        file: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
        size: impl Fn() -> Result<u64, Errno>,
    ) -> Result<usize, Errno> {
        if !self.known.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset_after(offset, filled)?;
            let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
            match rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) {
                // Some file systems say 0 where they mean "not now": ask for the size.
                Ok(0) if size()? > at => break,
                Ok(0) => {
                    buffer[filled..].fill(0);
                    filled = buffer.len();
                }
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::OPNOTSUPP) => {
                    self.known.store(false, Ordering::Relaxed);
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(filled)
    }
}

/// Asks storage for all of these at once; what is in memory costs little. A hint: whether it is heard shows when they are read.
pub(super) fn will_read(file: BorrowedFd<'_>, ranges: &[ByteRange]) {
    for range in ranges {
        let Some(len) = NonZeroU64::new(range.len()) else {
            continue;
        };
        if rustix::fs::fadvise(file, range.start(), Some(len), Advice::WillNeed).is_err() {
            return;
        }
    }
}

fn offset_after(offset: u64, done: usize) -> Result<u64, Errno> {
    let done = u64::try_from(done).ok();
    done.and_then(|done| offset.checked_add(done)).ok_or(Errno::FBIG)
}

pub(super) fn write_zeros(file: BorrowedFd<'_>, range: ByteRange) -> Result<(), Errno> {
    let mut left = range;
    while !left.is_empty() {
        let len = usize::try_from(left.len()).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
        BulkWrites::default().write(file, &ZEROS[..len], left.start())?;
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        left = left.split_at(left.start().saturating_add(len)).1;
    }
    Ok(())
}

pub(super) fn flush(file: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
    if data_only {
        retry_on_intr(|| rustix::fs::fdatasync(file))
    } else {
        retry_on_intr(|| rustix::fs::fsync(file))
    }
}
