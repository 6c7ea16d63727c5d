//! Changes that each wait for the server: small writes made durable, and punches.

use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Bound, Figure, MIB, SMALL, for_writing, sequential};
use crate::random::Random;
use crate::reshape;

const PUNCHED: u64 = 64 << 10;

/// Writes of 4 KiB per second, each with an fdatasync, for about `seconds`.
pub fn sync(path: &Path, seconds: f64) -> Result<Figure> {
    let file = for_writing(path)?;
    let content = Random::new(2).bytes(SMALL);
    let bound = Bound::of(seconds)?;
    let mut count = 0;
    while !bound.is_over() {
        file.write_all_at(&content, count * 4096)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(Figure::done(bound.rate(count)))
}

/// Punches of 64 KiB per second, every second 64 KiB of `mib` of data, with the fsync that follows.
pub fn punch(path: &Path, mib: u64, bound: f64) -> Result<Figure> {
    let written = sequential::write(path, mib, bound)?;
    ensure!(
        written.stopped.is_none(),
        "there was no time to write what is to be punched"
    );
    let file = for_writing(path)?;
    let bound = Bound::of(bound)?;
    let all = mib * MIB / (2 * PUNCHED);
    let mut count = 0;
    while count < all && !bound.is_over() {
        reshape::punch(&file, count * 2 * PUNCHED, PUNCHED)?;
        count += 1;
    }
    file.sync_all()?;
    let figure = Figure::of(bound.rate(count), count, all, "holes");
    let mut found = vec![1; usize::try_from(PUNCHED)?];
    file.read_exact_at(&mut found, 0)?;
    ensure!(found.iter().all(|byte| *byte == 0), "a punched byte is not zero");
    Ok(figure)
}
