//! The map of a file as `lseek(2)` gives it, and comparing two of them.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A maximal run of data or of hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u64,
    /// One past its last byte.
    pub end: u64,
    pub is_data: bool,
}

/// The runs of a file, in order, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeekMap {
    pub runs: Vec<Run>,
    pub size: u64,
}

impl SeekMap {
    pub fn of_path(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::of(&file).with_context(|| format!("map of {}", path.display()))
    }

    /// Walks as cp does: SEEK_DATA, SEEK_HOLE, and again from there.
    pub fn of(file: &File) -> Result<Self> {
        let size = file.metadata()?.len();
        let mut runs = Vec::new();
        let mut position = 0;
        while position < size {
            let data = match seek(file, SeekFrom::Data(position)) {
                Ok(data) => data,
                Err(Errno::NXIO) => size,
                Err(error) => return Err(error).with_context(|| format!("SEEK_DATA at {position}")),
            };
            ensure!(data >= position, "SEEK_DATA at {position} went back to {data}");
            if data > position {
                runs.push(Run {
                    start: position,
                    end: data,
                    is_data: false,
                });
            }
            if data >= size {
                break;
            }
            let hole = seek(file, SeekFrom::Hole(data)).with_context(|| format!("SEEK_HOLE at {data}"))?;
            ensure!(
                hole > data && hole <= size,
                "SEEK_HOLE at {data} says {hole}, of {size}"
            );
            runs.push(Run {
                start: data,
                end: hole,
                is_data: true,
            });
            position = hole;
        }
        Ok(Self { runs, size })
    }

    pub fn data(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().copied().filter(|run| run.is_data)
    }

    pub fn holes(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().copied().filter(|run| !run.is_data)
    }

    pub fn data_bytes(&self) -> u64 {
        self.data().map(|run| run.end - run.start).sum()
    }

    /// What SEEK_DATA and SEEK_HOLE have to answer at `position`.
    pub fn answers(&self, position: u64) -> (Answer, Answer) {
        let next = |is_data: bool| {
            let run = self
                .runs
                .iter()
                .find(|run| run.is_data == is_data && run.end > position);
            run.map(|run| run.start.max(position))
        };
        if position >= self.size {
            return (Err(Errno::NXIO), Err(Errno::NXIO));
        }
        (
            next(true).ok_or(Errno::NXIO),
            Ok(next(false).unwrap_or(self.size)),
        )
    }

    /// `start..end` is all hole.
    pub fn ensure_hole(&self, start: u64, end: u64) -> Result<()> {
        let data = self.data().find(|run| run.start < end && run.end > start);
        ensure!(data.is_none(), "{start}..{end} should be a hole: {data:?}");
        Ok(())
    }

    /// `start..end` is all data.
    pub fn ensure_data(&self, start: u64, end: u64) -> Result<()> {
        let hole = self.holes().find(|run| run.start < end && run.end > start);
        ensure!(hole.is_none(), "{start}..{end} should be data: {hole:?}");
        Ok(())
    }

    /// The first runs of data, for a message.
    pub fn short(&self) -> String {
        const RUNS: usize = 20;
        let runs: Vec<_> = self
            .data()
            .take(RUNS)
            .map(|run| format!("{}..{}", run.start, run.end))
            .collect();
        let more = self.data().count().saturating_sub(RUNS);
        format!("data {} and {more} more, of {}", runs.join(" "), self.size)
    }

    /// What is data here and not in `other`, in order.
    pub fn data_beyond(&self, other: &Self) -> Vec<Range<u64>> {
        let mut beyond = Vec::new();
        for run in self.data() {
            let mut at = run.start;
            for their in other
                .data()
                .filter(|their| their.end > run.start && their.start < run.end)
            {
                if at < their.start {
                    beyond.push(at..their.start);
                }
                at = at.max(their.end);
            }
            if at < run.end {
                beyond.push(at..run.end);
            }
        }
        beyond
    }

    /// Every byte that is data here is data in `other`: `other` may call more of the file data, never less.
    pub fn ensure_within(&self, other: &Self) -> Result<()> {
        ensure!(
            self.size == other.size,
            "sizes differ: {} and {}",
            self.size,
            other.size
        );
        let mut theirs = other.data().peekable();
        for run in self.data() {
            while theirs.next_if(|their| their.end <= run.start).is_some() {}
            let covered = theirs
                .peek()
                .is_some_and(|their| their.start <= run.start && run.end <= their.end);
            ensure!(
                covered,
                "data {}..{} is not all data in the other map",
                run.start,
                run.end
            );
        }
        Ok(())
    }
}

/// The errno or the offset that `lseek` gives.
pub type Answer = std::result::Result<u64, Errno>;

/// Both answers at `position`: SEEK_DATA, SEEK_HOLE.
pub fn answers(file: &File, position: u64) -> (Answer, Answer) {
    (
        seek(file, SeekFrom::Data(position)),
        seek(file, SeekFrom::Hole(position)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(data: &[(u64, u64)]) -> SeekMap {
        let runs = data
            .iter()
            .map(|&(start, end)| Run {
                start,
                end,
                is_data: true,
            })
            .collect();
        SeekMap { runs, size: 100 }
    }

    #[test]
    fn a_superset_is_within_and_a_subset_is_not() {
        let original = map(&[(0, 10), (20, 30)]);
        original.ensure_within(&original).unwrap();
        original.ensure_within(&map(&[(0, 12), (15, 40)])).unwrap();
        original.ensure_within(&map(&[(0, 100)])).unwrap();
        original.ensure_within(&map(&[(0, 10), (21, 30)])).unwrap_err();
        original.ensure_within(&map(&[(0, 10)])).unwrap_err();
        original.ensure_within(&map(&[])).unwrap_err();
    }
}
