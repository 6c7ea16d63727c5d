//! Compares a copy, or a volume seen through a mount, with its original.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::seek_map::SeekMap;

const STEP_BYTES: usize = 1 << 20;

/// Space that a file system may take for its own notes on a small file.
const SLACK_BYTES: u64 = 64 << 10;

/// What is read of the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Every byte, holes too.
    Everything,
    /// Only where one of the two has data: for a copy on a local file system, whose holes are zeros.
    Data,
}

/// The copy has the size and the bytes of the original.
pub fn same_bytes(original: &Path, copy: &Path, reading: Reading) -> Result<()> {
    let (left, right) = (File::open(original)?, File::open(copy)?);
    let map = SeekMap::of(&left).with_context(|| format!("map of {}", original.display()))?;
    let size = right.metadata()?.len();
    ensure!(
        size == map.size,
        "{}: {size} bytes, the original has {}",
        copy.display(),
        map.size
    );
    for run in map.data() {
        same_range(&left, &right, run.start, run.end)?;
    }
    let data_of_copy = match reading {
        Reading::Everything => None,
        Reading::Data => Some(SeekMap::of(&right)?),
    };
    let mut data_of_copy = data_of_copy.as_ref().map(|map| map.data().peekable());
    for hole in map.holes() {
        let Some(runs) = &mut data_of_copy else {
            all_zero(&right, hole.start, hole.end)?;
            continue;
        };
        while runs.next_if(|run| run.end <= hole.start).is_some() {}
        while let Some(run) = runs.peek().filter(|run| run.start < hole.end) {
            all_zero(&right, run.start.max(hole.start), run.end.min(hole.end))?;
            if run.end > hole.end {
                break;
            }
            runs.next();
        }
    }
    Ok(())
}

/// `start..end` is the same in both.
pub fn same_range(left: &File, right: &File, start: u64, end: u64) -> Result<()> {
    let (mut ours, mut theirs) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    for (at, length) in steps(start, end) {
        left.read_exact_at(&mut ours[..length], at)
            .with_context(|| format!("original at {at}"))?;
        right
            .read_exact_at(&mut theirs[..length], at)
            .with_context(|| format!("copy at {at}"))?;
        if ours[..length] != theirs[..length] {
            let first = ours[..length]
                .iter()
                .zip(&theirs[..length])
                .position(|(a, b)| a != b);
            anyhow::bail!("bytes differ {} into {at}..+{length}", first.unwrap_or(0));
        }
    }
    Ok(())
}

/// `start..end` reads as zeros.
pub fn all_zero(file: &File, start: u64, end: u64) -> Result<()> {
    let zeros = vec![0; STEP_BYTES];
    let mut bytes = vec![0; STEP_BYTES];
    for (at, length) in steps(start, end) {
        file.read_exact_at(&mut bytes[..length], at)
            .with_context(|| format!("hole at {at}"))?;
        ensure!(
            bytes[..length] == zeros[..length],
            "a byte of the hole {at}..+{length} is not zero"
        );
    }
    Ok(())
}

/// Allocated bytes as `du` counts them, after everything has reached the disk.
pub fn allocated_bytes(path: &Path) -> Result<u64> {
    File::open(path)?
        .sync_all()
        .with_context(|| format!("cannot sync {}", path.display()))?;
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Whether a tool looks for zeros by itself: its copy may then take less space than the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Same,
    AtMost,
}

/// The copy takes the space of the original, within 1 %.
pub fn same_space(original: &Path, copy: &Path, space: Space) -> Result<()> {
    let (expected, actual) = (allocated_bytes(original)?, allocated_bytes(copy)?);
    let slack = expected / 100 + SLACK_BYTES;
    ensure!(
        actual <= expected + slack,
        "{}: takes {actual} bytes, the original {expected}",
        copy.display()
    );
    let too_little = space == Space::Same && actual + slack < expected;
    ensure!(
        !too_little,
        "{}: takes only {actual} bytes, the original {expected}",
        copy.display()
    );
    Ok(())
}

/// SHA-256 of a whole file.
pub fn digest(path: &Path) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = vec![0; STEP_BYTES];
    for (at, length) in steps(0, file.metadata()?.len()) {
        file.read_exact_at(&mut bytes[..length], at)
            .with_context(|| format!("{} at {at}", path.display()))?;
        hasher.update(&bytes[..length]);
    }
    Ok(hasher.finalize().into())
}

fn steps(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = u64::try_from(STEP_BYTES).unwrap_or(u64::MAX);
    let mut at = start;
    std::iter::from_fn(move || {
        let length = end.saturating_sub(at).min(step);
        let piece = (at, usize::try_from(length).ok()?);
        at += length;
        (length > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;

    fn sparse(dir: &Path, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> Result<std::path::PathBuf> {
        let path = dir.join(name);
        let file = File::create(&path)?;
        file.set_len(size)?;
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at)?;
        }
        Ok(path)
    }

    #[test]
    fn differences_in_data_and_in_holes_are_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let original = sparse(dir.path(), "a", 3 << 20, &[(4096, b"data"), (2 << 20, b"more")])?;
        let same = sparse(
            dir.path(),
            "b",
            3 << 20,
            &[(4096, b"data"), (8192, &[0; 99]), (2 << 20, b"more")],
        )?;
        let other_data = sparse(dir.path(), "c", 3 << 20, &[(4096, b"dato"), (2 << 20, b"more")])?;
        let other_hole = sparse(
            dir.path(),
            "d",
            3 << 20,
            &[(4096, b"data"), (1 << 20, b"x"), (2 << 20, b"more")],
        )?;
        let shorter = sparse(dir.path(), "e", 2 << 20, &[(4096, b"data")])?;
        for reading in [Reading::Everything, Reading::Data] {
            same_bytes(&original, &same, reading)?;
            same_bytes(&original, &other_data, reading).unwrap_err();
            same_bytes(&original, &other_hole, reading).unwrap_err();
            same_bytes(&original, &shorter, reading).unwrap_err();
        }
        assert_eq!(digest(&original)?, digest(&same)?);
        assert_ne!(digest(&original)?, digest(&other_hole)?);
        Ok(())
    }
}
