//! O_DIRECT: files that are opened so, and memory that it accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};

/// Opens for reading: reads reach the daemon as they are, without readahead.
pub fn open_direct(path: &Path) -> Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// Opens an existing file for reading and writing.
pub fn open_direct_for_writing(path: &Path) -> Result<File> {
    open_with(path, OFlags::RDWR)
}

fn open_with(path: &Path, access: OFlags) -> Result<File> {
    let file = open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    Ok(File::from(file.with_context(|| {
        format!("cannot open {} with O_DIRECT", path.display())
    })?))
}

/// Memory that O_DIRECT accepts: aligned to a page, zeroed.
pub fn aligned(length: usize) -> Result<Aligned> {
    let layout = Layout::from_size_align(length.max(1), 4096).context("layout")?;
    // SAFETY: the size of the layout is not zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }).context("out of memory")?;
    Ok(Aligned {
        start,
        length,
        layout,
    })
}

/// The same, with these bytes in it.
pub fn aligned_from(bytes: &[u8]) -> Result<Aligned> {
    let mut memory = aligned(bytes.len())?;
    memory.copy_from_slice(bytes);
    Ok(memory)
}

/// See [`aligned`].
#[derive(Debug)]
pub struct Aligned {
    start: NonNull<u8>,
    length: usize,
    layout: Layout,
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `length` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not freed before.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
