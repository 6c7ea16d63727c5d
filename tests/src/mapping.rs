//! A part of a file mapped into memory, shared; unmapped on drop.
//!
//! The file must not become shorter than the mapping while it is touched: that would be SIGBUS.

use std::fs::File;
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// See the module.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes of `file` from `start`, a multiple of the page size.
    pub fn shared(file: &File, start: u64, length: usize) -> Result<Self> {
        Self::with_access(ProtFlags::READ | ProtFlags::WRITE, file, start, length)
    }

    /// The same for loads only: a store is SIGSEGV.
    pub fn for_loads(file: &File, start: u64, length: usize) -> Result<Self> {
        Self::with_access(ProtFlags::READ, file, start, length)
    }

    fn with_access(access: ProtFlags, file: &File, start: u64, length: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                access,
                MapFlags::SHARED,
                file,
                start,
            )
        }
        .with_context(|| format!("cannot map {length} bytes at {start}"))?;
        let start = NonNull::new(address.cast()).context("mapped at address 0")?;
        Ok(Self { start, length })
    }

    /// Stores `bytes` at `at`, counted from the start of the mapping.
    pub fn store(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let end = at.checked_add(bytes.len()).context("too far")?;
        ensure!(end <= self.length, "{at}..{end} is outside the mapping");
        // SAFETY: inside the mapping, which nothing else of this process points into.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len()) };
        Ok(())
    }

    /// What a load of `length` bytes at `at` sees.
    pub fn load(&self, at: usize, length: usize) -> Result<Vec<u8>> {
        let end = at.checked_add(length).context("too far")?;
        ensure!(end <= self.length, "{at}..{end} is outside the mapping");
        let mut bytes = vec![0; length];
        // SAFETY: as in `store`, for reading.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), bytes.as_mut_ptr(), length) };
        Ok(bytes)
    }

    /// msync with MS_SYNC.
    pub fn sync(&self) -> Result<()> {
        // SAFETY: the whole mapping, which lives.
        unsafe { msync(self.start.as_ptr().cast(), self.length, MsyncFlags::SYNC) }.context("msync")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and no reference into it exists outside a call.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            eprintln!("munmap: {error}");
        }
    }
}
