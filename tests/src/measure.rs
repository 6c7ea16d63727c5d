//! Timed changes for scripts/bench.sh: each prints nothing and gives its figure, or the error of a system that
//! cannot do it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::random::Random;
use crate::reshape;
use crate::seek_map::SeekMap;

const MIB: u64 = 1 << 20;
const SMALL: usize = 4096;
const PUNCHED: u64 = 64 << 10;

/// MiB/s of writing `mib` in order, 1 MiB at a time, with the fsync that follows.
pub fn write(path: &Path, mib: u64) -> Result<f64> {
    let file = for_writing(path)?;
    let content = Random::new(1).bytes(usize::try_from(MIB)?);
    let start = Instant::now();
    for at in 0..mib {
        file.write_all_at(&content, at * MIB)?;
    }
    file.sync_all()?;
    Ok(per_second(mib, start))
}

/// Writes of 4 KiB per second, each with an fdatasync, for about `seconds`.
pub fn sync(path: &Path, seconds: u64) -> Result<f64> {
    let file = for_writing(path)?;
    let content = Random::new(2).bytes(SMALL);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        file.write_all_at(&content, count * 4096)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(per_second(count, start))
}

/// MiB/s of writing `mib` in order, 4 KiB at a time, with the fsync that follows.
pub fn dribble(path: &Path, mib: u64) -> Result<f64> {
    let file = for_writing(path)?;
    let content = Random::new(3).bytes(SMALL);
    let start = Instant::now();
    for at in (0..mib * MIB).step_by(SMALL) {
        file.write_all_at(&content, at)?;
    }
    file.sync_all()?;
    Ok(per_second(mib, start))
}

/// Punches of 64 KiB per second, every second 64 KiB of `mib` of data, with the fsync that follows.
pub fn punch(path: &Path, mib: u64) -> Result<f64> {
    write(path, mib)?;
    let file = for_writing(path)?;
    let start = Instant::now();
    let mut count = 0;
    for at in (0..mib * MIB).step_by(usize::try_from(2 * PUNCHED)?) {
        reshape::punch(&file, at, PUNCHED)?;
        count += 1;
    }
    file.sync_all()?;
    let rate = per_second(count, start);
    let mut found = vec![1; usize::try_from(PUNCHED)?];
    file.read_exact_at(&mut found, 0)?;
    ensure!(found.iter().all(|byte| *byte == 0), "a punched byte is not zero");
    Ok(rate)
}

/// Seconds of copying the data of `source` by copy_file_range to a new file `target`, with the fsync that follows.
pub fn inside(source: &Path, target: &Path) -> Result<f64> {
    let start = Instant::now();
    let from = File::open(source)?;
    let to = File::create_new(target)?;
    let map = SeekMap::of(&from)?;
    to.set_len(map.size)?;
    for run in map.data() {
        reshape::copy_range(&from, run.start, &to, run.start, run.end - run.start)?;
    }
    to.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

fn for_writing(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {} for writing", path.display()))
}

fn per_second(count: u64, start: Instant) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / start.elapsed().as_secs_f64()
}
