//! Whole volumes in order: reading, writing, copying at the server.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;

use super::{Bound, Figure, MIB, SMALL, for_reading, for_writing};
use crate::random::Random;
use crate::reshape;
use crate::seek_map::SeekMap;

/// MiB/s of reading a file from its start to its end, 1 MiB at a time, opening included.
pub fn read(path: &Path, bound: f64) -> Result<Figure> {
    let mut buffer = vec![0; usize::try_from(MIB)?];
    let bound = Bound::of(bound)?;
    let mut file = for_reading(path)?;
    let all = file.metadata()?.len();
    let mut done = 0;
    while !bound.is_over() {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        done += u64::try_from(count)?;
    }
    Ok(Figure::of(
        bound.rate(done >> 10) / 1024.0,
        done >> 20,
        all >> 20,
        "MiB",
    ))
}

/// MiB/s of writing `mib` in order, 1 MiB at a time, with the fsync that follows.
pub fn write(path: &Path, mib: u64, bound: f64) -> Result<Figure> {
    let file = for_writing(path)?;
    let content = Random::new(1).bytes(usize::try_from(MIB)?);
    let bound = Bound::of(bound)?;
    let mut done = 0;
    while done < mib && !bound.is_over() {
        file.write_all_at(&content, done * MIB)?;
        done += 1;
    }
    file.sync_all()?;
    Ok(Figure::of(bound.rate(done), done, mib, "MiB"))
}

/// MiB/s of writing `mib` in order, 4 KiB at a time, with the fsync that follows.
pub fn dribble(path: &Path, mib: u64, bound: f64) -> Result<Figure> {
    let file = for_writing(path)?;
    let content = Random::new(3).bytes(SMALL);
    let bound = Bound::of(bound)?;
    let mut done = 0;
    while done < mib * MIB && !bound.is_over() {
        file.write_all_at(&content, done)?;
        done += 4096;
    }
    file.sync_all()?;
    Ok(Figure::of(
        bound.rate(done >> 10) / 1024.0,
        done >> 20,
        mib,
        "MiB",
    ))
}

/// Seconds of copying the data of `source` by copy_file_range to a new file `target`, with the fsync that follows.
pub fn inside(source: &Path, target: &Path, bound: f64) -> Result<Figure> {
    let bound = Bound::of(bound)?;
    let from = for_reading(source)?;
    let to = File::create_new(target)?;
    let map = SeekMap::of(&from)?;
    to.set_len(map.size)?;
    let all = map.data_bytes();
    let mut done = 0;
    // A file system without holes has one run: parts of it, so that it can be stopped.
    for (start, end) in map.data().flat_map(|run| parts(run.start, run.end)) {
        if bound.is_over() {
            break;
        }
        reshape::copy_range(&from, start, &to, start, end - start)?;
        done += end - start;
    }
    to.sync_all()?;
    Ok(Figure::of(bound.seconds(), done >> 20, all >> 20, "MiB"))
}

fn parts(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    const PART: u64 = 16 * MIB;
    let count = (end - start).div_ceil(PART);
    (0..count).map(move |part| (start + part * PART, (start + (part + 1) * PART).min(end)))
}
