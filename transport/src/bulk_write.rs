//! Writing to files and devices, so that what is written in bulk does not fill the page cache.
//!
//! Who stores an image does not read it again soon, and each page of it would take the place of one that is: memory
//! that is touched for the first time, and what others read pushed out. So what is at least [`UNCACHED_BYTES_MIN`] at once is
//! written with RWF_DONTCACHE (Linux 6.14; ext4, xfs, btrfs): it is on its way to the disk when the call returns, and its pages are used
//! again once it is there. Pages that the cache had before stay. Where that is not known, it is an ordinary write.
//!
//! Nothing is durable before a flush, here as there.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

/// Less is left in the page cache: it may well be read or written again, and small writes to a disk are slow.
pub const UNCACHED_BYTES_MIN: usize = 256 << 10;
/// `include/uapi/linux/fs.h`.
const RWF_DONTCACHE: u32 = 0x80;
/// Slices of one call; the kernel takes 1,024.
const SLICES_MAX: usize = 64;

/// Writes of one open file.
#[derive(Debug)]
pub struct BulkWrites {
    uncached_bytes_min: usize,
    /// The storage knows RWF_DONTCACHE; asked for once.
    known: AtomicBool,
}

impl Default for BulkWrites {
    fn default() -> Self {
        Self::from(UNCACHED_BYTES_MIN)
    }
}

impl BulkWrites {
    /// What is at least `uncached_bytes_min` at once leaves the page cache.
    pub const fn from(uncached_bytes_min: usize) -> Self {
        Self {
            uncached_bytes_min,
            known: AtomicBool::new(true),
        }
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        self.write_slices(file, &mut [IoSlice::new(bytes)], offset)
    }

    /// Writes all of `slices`, one behind the other, at `offset`. They are used up.
    pub fn write_slices(
        &self,
        file: BorrowedFd<'_>,
        mut slices: &mut [IoSlice<'_>],
        offset: u64,
    ) -> Result<(), Errno> {
        let is_large = slices.iter().map(|slice| slice.len()).sum::<usize>() >= self.uncached_bytes_min;
        let mut at = offset;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let next = &slices[..slices.len().min(SLICES_MAX)];
            let uncached = is_large && self.known.load(Ordering::Relaxed);
            let written = if uncached {
                let flags = ReadWriteFlags::from_bits_retain(RWF_DONTCACHE);
                rustix::io::pwritev2(file, next, at, flags)
            } else {
                rustix::io::pwritev(file, next, at)
            };
            match written {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    let count_u64 = u64::try_from(count).map_err(|_| Errno::FBIG)?;
                    at = at.checked_add(count_u64).ok_or(Errno::FBIG)?;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(Errno::INTR) => {}
                // An old kernel says INVAL where it looks at the flags first.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if uncached => {
                    self.known.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSliceMut, Read};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, Instant};

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn every_byte_is_written_where_it_belongs() {
        let file = tempfile::tempfile().unwrap();
        let writes = BulkWrites::default();
        for len in [
            0,
            1,
            4096,
            UNCACHED_BYTES_MIN - 1,
            UNCACHED_BYTES_MIN,
            3 * UNCACHED_BYTES_MIN + 17,
        ] {
            let bytes = pattern(len);
            file.set_len(0).unwrap();
            writes.write(file.as_fd(), &bytes, 5).unwrap();
            let mut found = vec![1; len];
            file.read_exact_at(&mut found, 5).unwrap();
            assert!(found == bytes, "{len} bytes");
        }
    }

    /// More slices than one call takes, some of them empty.
    #[test]
    fn slices_are_written_one_behind_the_other() {
        let file = tempfile::tempfile().unwrap();
        let bytes = pattern(3 * SLICES_MAX * 4099);
        let mut slices = Vec::new();
        for slice in bytes.chunks(4099) {
            slices.extend([IoSlice::new(slice), IoSlice::new(&[])]);
        }
        BulkWrites::default()
            .write_slices(file.as_fd(), &mut slices, 1 << 20)
            .unwrap();
        let mut found = vec![1; bytes.len()];
        file.read_exact_at(&mut found, 1 << 20).unwrap();
        assert!(found == bytes);
    }

    /// A pipe knows no offset, tmpfs not the flag: an error, and an ordinary write.
    #[test]
    fn what_cannot_be_done_is_an_error_and_what_is_unknown_is_done_without() {
        let (mut read, write) = std::io::pipe().unwrap();
        let refused = BulkWrites::default().write(write.as_fd(), &pattern(UNCACHED_BYTES_MIN), 0);
        assert_eq!(refused, Err(Errno::SPIPE));
        drop(write);
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
        let shm = tempfile::tempfile_in("/dev/shm").unwrap();
        let writes = BulkWrites::default();
        let bytes = pattern(UNCACHED_BYTES_MIN);
        writes.write(shm.as_fd(), &bytes, 0).unwrap();
        assert!(
            !writes.known.load(Ordering::Relaxed),
            "tmpfs has no disk to write to"
        );
        assert_eq!(contents(&shm, bytes.len()), bytes);
    }

    /// Whether the first page is in the page cache; `None` where the file system does not tell.
    fn is_cached(file: &File) -> Option<bool> {
        let mut page = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut page)];
        match rustix::io::preadv2(file, &mut slices, 0, ReadWriteFlags::NOWAIT) {
            Ok(count) => Some(count > 0),
            Err(Errno::AGAIN) => Some(false),
            Err(errno) => {
                assert_eq!(errno, Errno::OPNOTSUPP);
                None
            }
        }
    }

    /// Where the file system knows how; elsewhere it is an ordinary write.
    #[test]
    fn bulk_leaves_the_page_cache_and_what_is_small_stays() {
        let large = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let small = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let writes = BulkWrites::default();
        writes.write(small.as_fd(), &pattern(4096), 0).unwrap();
        writes
            .write(large.as_fd(), &pattern(UNCACHED_BYTES_MIN), 0)
            .unwrap();
        small.sync_all().unwrap();
        large.sync_all().unwrap();
        assert_ne!(is_cached(&small), Some(false));
        if writes.known.load(Ordering::Relaxed) {
            // It is dropped when it is on the disk, by a thread of the kernel.
            let deadline = Instant::now() + Duration::from_secs(10);
            while is_cached(&large) == Some(true) {
                assert!(Instant::now() < deadline, "it is still there");
                std::thread::yield_now();
            }
        } else {
            eprintln!("SKIPPED: this file system does not know RWF_DONTCACHE");
        }
        assert_eq!(contents(&large, UNCACHED_BYTES_MIN), pattern(UNCACHED_BYTES_MIN));
    }

    fn contents(file: &File, len: usize) -> Vec<u8> {
        let mut found = vec![0; len];
        file.read_exact_at(&mut found, 0).unwrap();
        found
    }
}
