//! Changes of the bytes of a file. Each is completed or reported: system calls may do less than they were
//! asked, or be interrupted.
//!
//! Where a file system lacks a way to make zeros (tmpfs has no ZERO_RANGE), they are written, in bounded
//! pieces, and only over what is data: a hole reads as zeros already, so there it is enough to reserve space.

use std::os::fd::{AsFd, BorrowedFd};

use lacuna_transport::extent::ExtentKind;
use lacuna_transport::range::ByteRange;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};

use super::extents;
use crate::backend::descriptor;

/// Smallest block of the file systems there are: a larger one that a file ends in stays allocated.
const BLOCK_BYTES: u64 = 4 << 10;
/// Extents walked at once.
const RUNS: usize = 1024;

/// `size`: that of the file, which nobody of this process makes larger meanwhile if `range` reaches it.
pub(super) fn punch(file: BorrowedFd<'_>, range: ByteRange, size: u64) -> Result<(), Errno> {
    let range = range.intersect(ByteRange::up_to(size));
    if range.is_empty() {
        return Ok(());
    }
    // A block that the file ends in is freed whole.
    let whole = if range.end() == size {
        ByteRange::new(range.start(), size.next_multiple_of(BLOCK_BYTES)).unwrap_or(range)
    } else {
        range
    };
    match allocate_as(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        whole,
    ) {
        Err(Errno::OPNOTSUPP) => write_zeros(file, range, false),
        other => other,
    }
}

pub(super) fn zero(file: BorrowedFd<'_>, range: ByteRange, grow: bool) -> Result<(), Errno> {
    let flags = FallocateFlags::ZERO_RANGE | keep_size(grow);
    match allocate_as(file, flags, range) {
        Err(Errno::OPNOTSUPP) => {}
        other => return other,
    }
    let size = size(file)?;
    write_zeros(file, range.intersect(ByteRange::up_to(size)), true)?;
    let beyond = range.split_at(size).1;
    if !grow || beyond.is_empty() {
        return Ok(());
    }
    match allocate_as(file, FallocateFlags::empty(), beyond) {
        Err(Errno::OPNOTSUPP) => grow_to(file, range.end()),
        other => other,
    }
}

pub(super) fn allocate(file: BorrowedFd<'_>, range: ByteRange, grow: bool) -> Result<(), Errno> {
    allocate_as(file, keep_size(grow), range)
}

pub(super) fn resize(file: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    match retry_on_intr(|| rustix::fs::ftruncate(file, size)) {
        // Linux says so of sizes that no file can have; the request was well formed.
        Err(Errno::INVAL) => Err(Errno::FBIG),
        other => other,
    }
}

/// The caller sees to it that nobody else of this process grows the file meanwhile.
pub(super) fn grow_to(file: BorrowedFd<'_>, wanted: u64) -> Result<(), Errno> {
    if size(file)? < wanted {
        resize(file, wanted)?;
    }
    Ok(())
}

/// Data from one file into another by the kernel; the bytes that are done when it cannot do any more.
pub(super) fn copy_data(
    source: BorrowedFd<'_>,
    range: ByteRange,
    target: BorrowedFd<'_>,
    offset: u64,
) -> Result<u64, Errno> {
    let (mut from, mut to) = (range.start(), offset);
    while from < range.end() {
        let len = usize::try_from(range.end() - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len) {
            // Cut since, or a kernel that means "not me".
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(from - range.start())
}

pub(super) fn size(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    super::attr::of(file).map(|stat| stat.stx_size)
}

fn keep_size(grow: bool) -> FallocateFlags {
    if grow {
        FallocateFlags::empty()
    } else {
        FallocateFlags::KEEP_SIZE
    }
}

fn allocate_as(file: BorrowedFd<'_>, flags: FallocateFlags, range: ByteRange) -> Result<(), Errno> {
    retry_on_intr(|| rustix::fs::fallocate(file, flags, range.start(), range.len()))
}

/// Zeros over all data of `range`, which lies within the size; holes get space if `reserve`.
fn write_zeros(file: BorrowedFd<'_>, range: ByteRange, reserve: bool) -> Result<(), Errno> {
    let mut left = range;
    while !left.is_empty() {
        let found = extents::walk(&file.as_fd(), left, RUNS)?;
        if found.is_empty() {
            // Cut since: nothing is left to zero.
            return Ok(());
        }
        for extent in found {
            match extent.kind {
                ExtentKind::Data => descriptor::write_zeros(file, extent.range)?,
                ExtentKind::Zero => {}
                ExtentKind::Hole if reserve => {
                    match allocate_as(file, FallocateFlags::KEEP_SIZE, extent.range) {
                        Ok(()) | Err(Errno::OPNOTSUPP) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                ExtentKind::Hole => {}
            }
            left = left.split_at(extent.range.end()).1;
        }
    }
    Ok(())
}
