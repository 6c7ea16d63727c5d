//! Timed work for scripts/bench.sh: each function gives its figure, or the error of a system that cannot do it.
//!
//! What takes longer than its bound is stopped there; the figure then is of what was done, and says how far it got.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub mod cpu;
pub mod memory;
pub mod random;
pub mod seek;
pub mod sequential;
pub mod small;

pub use sequential::{dribble, inside, read, write};
pub use small::{punch, sync};

const MIB: u64 = 1 << 20;
const SMALL: usize = 4096;

/// One measurement: `VALUE`, or `VALUE stopped PROGRESS`.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub value: f64,
    /// How far it got until its bound.
    pub stopped: Option<String>,
}

impl Figure {
    pub fn done(value: f64) -> Self {
        Self { value, stopped: None }
    }

    /// `done` of `all` units, stopped if that is less.
    fn of(value: f64, done: u64, all: u64, unit: &str) -> Self {
        let stopped = (done < all).then(|| format!("at {done} of {all} {unit}"));
        Self { value, stopped }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.value)?;
        match &self.stopped {
            Some(progress) => write!(f, " stopped {progress}"),
            None => Ok(()),
        }
    }
}

/// When work that began now is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    start: Instant,
    longest: Duration,
}

impl Bound {
    pub fn of(seconds: f64) -> Result<Self> {
        let longest = Duration::try_from_secs_f64(seconds).context("not a time to stop after")?;
        Ok(Self {
            start: Instant::now(),
            longest,
        })
    }

    fn is_over(&self) -> bool {
        self.start.elapsed() >= self.longest
    }

    /// `count` for each second since the start.
    fn rate(&self, count: u64) -> f64 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        f64::from(count) / self.seconds()
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

fn for_writing(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {} for writing", path.display()))
}

fn for_reading(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
