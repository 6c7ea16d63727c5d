//! The calls of fallocate(2) and copy_file_range(2) under the names of this project.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

pub const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
pub const ZERO_KEEP_SIZE: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// Makes a hole.
pub fn punch(file: &File, start: u64, length: u64) -> Result<()> {
    fallocate(file, PUNCH, start, length).with_context(|| format!("punch {start}..+{length}"))
}

/// Makes zeros; a range beyond the end makes the file longer.
pub fn zero(file: &File, start: u64, length: u64) -> Result<()> {
    fallocate(file, FallocateFlags::ZERO_RANGE, start, length)
        .with_context(|| format!("zero {start}..+{length}"))
}

/// Makes zeros and keeps the size.
pub fn zero_keep_size(file: &File, start: u64, length: u64) -> Result<()> {
    fallocate(file, ZERO_KEEP_SIZE, start, length)
        .with_context(|| format!("zero {start}..+{length}, size kept"))
}

/// Reserves space; a range beyond the end makes the file longer.
pub fn allocate(file: &File, start: u64, length: u64) -> Result<()> {
    fallocate(file, FallocateFlags::empty(), start, length)
        .with_context(|| format!("allocate {start}..+{length}"))
}

/// Reserves space and keeps the size.
pub fn allocate_keep_size(file: &File, start: u64, length: u64) -> Result<()> {
    fallocate(file, FallocateFlags::KEEP_SIZE, start, length)
        .with_context(|| format!("allocate {start}..+{length}, size kept"))
}

/// Copies all of `start..+length` to `to`, which short copies and an early end of the source would not do.
pub fn copy_range(source: &File, start: u64, target: &File, to: u64, length: u64) -> Result<()> {
    let (mut from, mut into, end) = (start, to, start + length);
    while from < end {
        let step = usize::try_from(end - from).unwrap_or(usize::MAX);
        let copied = copy_file_range(source, Some(&mut from), target, Some(&mut into), step)
            .with_context(|| format!("copy {start}..{end} to {to}"))?;
        ensure!(copied > 0, "copy_file_range stopped at {from} of {end}");
    }
    Ok(())
}
