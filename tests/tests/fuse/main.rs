//! What applications see through a real mount: one module per call or behaviour.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};

mod access;
mod attributes;
mod changes;
mod direct;
mod fetching;
mod folders;
mod holes;
mod huge;
mod mapped;
mod million;
mod read;
mod read_only;
mod restart;
mod seek;
mod space;
mod status;
mod unmount;
mod xattr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Opens with O_DIRECT: reads reach the daemon as they are, without readahead.
fn open_direct(path: &Path) -> Result<File> {
    let file = open(
        path,
        OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC,
        Mode::empty(),
    );
    Ok(File::from(file.with_context(|| {
        format!("cannot open {} with O_DIRECT", path.display())
    })?))
}

/// Memory that O_DIRECT accepts: aligned to a page.
fn aligned(length: usize) -> Result<Aligned> {
    let layout = std::alloc::Layout::from_size_align(length.max(1), 4096).context("layout")?;
    // SAFETY: the size of the layout is not zero.
    let start = unsafe { std::alloc::alloc_zeroed(layout) };
    let start = std::ptr::NonNull::new(start).context("out of memory")?;
    Ok(Aligned {
        start,
        length,
        layout,
    })
}

/// See [`aligned`].
struct Aligned {
    start: std::ptr::NonNull<u8>,
    length: usize,
    layout: std::alloc::Layout,
}

impl std::ops::Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `length` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not freed before.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}
