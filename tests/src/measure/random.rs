//! Random reads of 4 KiB, none of them twice: what is read is in no cache of the client, unless it was fetched ahead.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{Advice, fadvise};

use super::{Bound, SMALL, for_reading};
use crate::random::Random;

/// Reads that were made, and how long each of them took, shortest first.
#[derive(Debug)]
pub struct Reads {
    /// Per second, of all threads together.
    pub rate: f64,
    latencies: Vec<Duration>,
}

impl Reads {
    /// What so many of a hundred took at most, in microseconds.
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let latency = self.latencies.get(last * percent / 100);
        latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// Reads with `threads` at once for `seconds`, or until each block was read. `seed` says in which order.
pub fn read(path: &Path, threads: usize, seconds: f64, seed: u64) -> Result<Reads> {
    let blocks = shuffled(for_reading(path)?.metadata()?.len() / u64::try_from(SMALL)?, seed);
    let bound = Bound::of(seconds)?;
    let parts = blocks.chunks(blocks.len().div_ceil(threads).max(1));
    let done: Result<Vec<_>> = thread::scope(|scope| {
        let readers: Vec<_> = parts
            .map(|part| scope.spawn(move || read_blocks(path, part, bound)))
            .collect();
        let joined = readers.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|reader| reader.map_err(|_| anyhow!("a thread that reads panicked"))?)
            .collect()
    });
    let mut latencies = done?.concat();
    let rate = bound.rate(u64::try_from(latencies.len())?);
    latencies.sort_unstable();
    Ok(Reads { rate, latencies })
}

fn read_blocks(path: &Path, blocks: &[u64], bound: Bound) -> Result<Vec<Duration>> {
    let file = for_reading(path)?;
    // As any program does that knows it reads at random.
    fadvise(&file, 0, None, Advice::Random)?;
    let mut buffer = [0; SMALL];
    let mut latencies = Vec::with_capacity(blocks.len());
    for block in blocks {
        let begun = bound.start.elapsed();
        if begun >= bound.longest {
            break;
        }
        file.read_exact_at(&mut buffer, block * 4096)
            .with_context(|| format!("cannot read block {block}"))?;
        latencies.push(bound.start.elapsed() - begun);
    }
    Ok(latencies)
}

/// The numbers below `count`, each once.
fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut numbers: Vec<_> = (0..count).collect();
    for last in (1..numbers.len()).rev() {
        let other = random.below(u64::try_from(last + 1).unwrap_or(1));
        numbers.swap(last, usize::try_from(other).unwrap_or(last));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_comes_once_and_in_no_order() {
        let mut numbers = shuffled(1000, 5);
        assert!(!numbers.is_sorted());
        assert_eq!(numbers, shuffled(1000, 5), "the same seed, the same order");
        assert_ne!(numbers, shuffled(1000, 6));
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..1000));
    }

    #[test]
    fn percentiles_are_of_the_reads_that_were_made() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(64 * 4096)?;
        let reads = read(file.path(), 3, 60.0, 1)?;
        assert_eq!(reads.latencies.len(), 64, "all are read, none twice");
        assert!(reads.rate > 0.0);
        assert!(reads.percentile_us(50) <= reads.percentile_us(99));
        Ok(())
    }
}
