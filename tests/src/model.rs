//! The reference model of one volume: its bytes, and for each block whether it may be shown as data.
//!
//! It knows nothing of mounts, so that it can be driven against a mount, a local file or a core without one:
//! whatever implements [`Subject`]. [`drive`] makes random operations of one seed on both and compares all
//! bytes and the whole map after each.
//!
//! What the map of a subject has to say:
//! - a byte that is not zero is data;
//! - an aligned 64 KiB of blocks that were never touched, or punched since, is a hole;
//! - all else (zeros, reserved space, the rest of a block that holds data) may be shown as either.

use anyhow::{Result, ensure};

use crate::seek_map::SeekMap;

mod drive;
mod operation;
mod subject;

pub use drive::drive;
pub use operation::{Operation, Weights};
pub use subject::{LocalFile, Subject, change_file};

/// The unit in which space is taken.
pub const BLOCK: u64 = 4096;
/// The unit in which holes have to be found.
pub const HOLE: u64 = 64 << 10;
/// No operation makes a volume longer.
pub const SIZE_MAX: u64 = 3 << 20;

/// Whether a size changes with the range of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Keep,
    Grow,
}

/// What becomes of holes in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopiedHoles {
    Kept,
    /// They may become zeros: Linux copies so where its file system cannot share.
    Lost,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    bytes: Vec<u8>,
    /// One for each block up to [`SIZE_MAX`]: it was never touched, or punched since.
    untouched: Vec<bool>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// An empty volume.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            untouched: vec![true; index(SIZE_MAX.div_ceil(BLOCK))],
        }
    }

    pub fn size(&self) -> u64 {
        number(self.bytes.len())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + number(bytes.len());
        self.grow(end);
        self.bytes[index(at)..index(end)].copy_from_slice(bytes);
        self.touch(at, end);
    }

    pub fn punch(&mut self, start: u64, length: u64) {
        let end = start + length;
        self.clear(start, end);
        let (first, mut last) = (start.div_ceil(BLOCK), end / BLOCK);
        // Whether the block that holds the end is freed is for a test of its own.
        if end > self.size() && !self.size().is_multiple_of(BLOCK) {
            last = last.min(self.size() / BLOCK);
        }
        for block in first..last {
            self.untouched[index(block)] = true;
        }
    }

    pub fn zero(&mut self, start: u64, length: u64, size: Size) {
        self.allocate(start, length, size);
        self.clear(start, start + length);
    }

    pub fn allocate(&mut self, start: u64, length: u64, size: Size) {
        if size == Size::Grow {
            self.grow(start + length);
        }
        self.touch(start, start + length);
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size() {
            for block in size.div_ceil(BLOCK)..number(self.untouched.len()) {
                self.untouched[index(block)] = true;
            }
        }
        self.bytes.resize(index(size), 0);
    }

    /// Copies inside the volume; the two ranges do not overlap and the source ends before the end.
    pub fn copy(&mut self, from: u64, to: u64, length: u64, holes: CopiedHoles) {
        self.grow(to + length);
        let source = index(from)..index(from + length);
        let was_hole = |block: u64| {
            if holes == CopiedHoles::Lost {
                return false;
            }
            // The blocks of the source that this block of the target is made of.
            let start = (block * BLOCK + from) - to;
            (start / BLOCK..(start + BLOCK).div_ceil(BLOCK)).all(|source| self.untouched[index(source)])
        };
        let whole = to.div_ceil(BLOCK)..(to + length) / BLOCK;
        let holes: Vec<u64> = whole.filter(|block| was_hole(*block)).collect();
        self.touch(to, to + length);
        for block in holes {
            self.untouched[index(block)] = true;
        }
        self.bytes.copy_within(source, index(to));
    }

    /// `bytes` and `map` are what a subject may say.
    pub fn ensure_equal(&self, bytes: &[u8], map: &SeekMap) -> Result<()> {
        self.ensure_bytes(0, bytes)?;
        ensure!(
            bytes.len() == self.bytes.len(),
            "{} bytes, not {}",
            bytes.len(),
            self.bytes.len()
        );
        self.ensure_map(map)
    }

    /// `bytes` are those from `start`.
    fn ensure_bytes(&self, start: u64, bytes: &[u8]) -> Result<()> {
        let expected = self.bytes.get(index(start)..).unwrap_or_default();
        if bytes == expected {
            return Ok(());
        }
        let differs = bytes
            .iter()
            .zip(expected)
            .position(|(ours, theirs)| ours != theirs);
        if let Some(at) = differs {
            let wrong = bytes[at..]
                .iter()
                .zip(&expected[at..])
                .take_while(|(a, b)| a != b)
                .count();
            anyhow::bail!(
                "{wrong} wrong bytes from {}: {} is {:#04x}, should be {:#04x}",
                start + number(at),
                start + number(at),
                bytes[at],
                expected[at]
            );
        }
        Ok(())
    }

    fn ensure_map(&self, map: &SeekMap) -> Result<()> {
        ensure!(
            map.size == self.size(),
            "the map is of {} bytes, not {}",
            map.size,
            self.size()
        );
        for hole in map.holes() {
            let data = first_data(&self.bytes[index(hole.start)..index(hole.end)]);
            if let Some(at) = data {
                anyhow::bail!(
                    "the data at {} is in the hole {}..{}",
                    hole.start + number(at),
                    hole.start,
                    hole.end
                );
            }
        }
        for start in (0..self.size() / HOLE).map(|hole| hole * HOLE) {
            let mut blocks = start / BLOCK..(start + HOLE) / BLOCK;
            if blocks.all(|block| self.untouched[index(block)]) {
                map.ensure_hole(start, start + HOLE)?;
            }
        }
        Ok(())
    }

    fn grow(&mut self, size: u64) {
        assert!(
            size <= SIZE_MAX,
            "{size} is beyond the largest volume of the model"
        );
        if size > self.size() {
            self.bytes.resize(index(size), 0);
        }
    }

    fn clear(&mut self, start: u64, end: u64) {
        let end = index(end).min(self.bytes.len());
        if let Some(bytes) = self.bytes.get_mut(index(start)..end) {
            bytes.fill(0);
        }
    }

    fn touch(&mut self, start: u64, end: u64) {
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            self.untouched[index(block)] = false;
        }
    }
}

/// The place of the first byte that is not zero.
fn first_data(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let block = bytes
        .chunks(ZEROS.len())
        .position(|block| block != &ZEROS[..block.len()])?;
    let start = block * ZEROS.len();
    let inside = bytes[start..].iter().position(|byte| *byte != 0)?;
    Some(start + inside)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("the model is smaller than memory")
}

fn number(index: usize) -> u64 {
    u64::try_from(index).expect("memory is smaller than 2^64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seek_map::Run;

    fn map(size: u64, data: &[(u64, u64)]) -> SeekMap {
        let (mut runs, mut at) = (Vec::new(), 0);
        let run = |start, end, is_data| Run { start, end, is_data };
        for &(start, end) in data {
            runs.extend((at < start).then_some(run(at, start, false)));
            runs.push(run(start, end, true));
            at = end;
        }
        runs.extend((at < size).then_some(run(at, size, false)));
        SeekMap { runs, size }
    }

    #[test]
    fn data_in_a_hole_and_holes_that_are_lost_are_found() {
        let mut model = Model::new();
        model.resize(4 * HOLE);
        model.write(HOLE + 10, b"data");
        let bytes = model.bytes().to_vec();
        let block = (HOLE, HOLE + BLOCK);
        model.ensure_equal(&bytes, &map(4 * HOLE, &[block])).unwrap();
        model
            .ensure_equal(&bytes, &map(4 * HOLE, &[(HOLE, 2 * HOLE)]))
            .unwrap();
        model.ensure_equal(&bytes, &map(4 * HOLE, &[])).unwrap_err();
        model
            .ensure_equal(&bytes, &map(4 * HOLE, &[(0, 4 * HOLE)]))
            .unwrap_err();
        model
            .ensure_equal(&bytes[1..], &map(4 * HOLE, &[block]))
            .unwrap_err();
        model.punch(HOLE, HOLE);
        let bytes = model.bytes().to_vec();
        model.ensure_equal(&bytes, &map(4 * HOLE, &[])).unwrap();
        model.ensure_equal(&bytes, &map(4 * HOLE, &[block])).unwrap_err();
    }

    #[test]
    fn a_copy_of_a_hole_is_a_hole() {
        let mut model = Model::new();
        model.resize(8 * HOLE);
        model.write(4 * HOLE, &[1; 65536]);
        model.copy(0, 4 * HOLE, HOLE, CopiedHoles::Kept);
        let bytes = model.bytes().to_vec();
        model.ensure_equal(&bytes, &map(8 * HOLE, &[])).unwrap();
        model
            .ensure_equal(&bytes, &map(8 * HOLE, &[(4 * HOLE, 5 * HOLE)]))
            .unwrap_err();
    }
}
