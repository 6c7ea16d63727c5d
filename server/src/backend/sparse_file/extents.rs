//! The extents of a file by `lseek(2)` with SEEK_DATA and SEEK_HOLE.
//!
//! Each extent was true at the moment of its call. A file that changes during the walk gives a mixture
//! of moments; the caller sees that from the generation before and after. What never happens, whatever
//! the file does meanwhile: an answer that calls hole what the kernel called data, an extent beyond the
//! end, or a walk that does not end.

use std::os::fd::BorrowedFd;

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The two questions a walk asks; a trait so that tests can answer them wrongly timed.
pub(super) trait Seek {
    fn size(&self) -> Result<u64, Errno>;
    /// First data at or after `offset`; ENXIO if there is none.
    fn data(&self, offset: u64) -> Result<u64, Errno>;
    /// First hole at or after `offset`, the end of the file counting as one; ENXIO beyond the end.
    fn hole(&self, offset: u64) -> Result<u64, Errno>;
}

impl Seek for BorrowedFd<'_> {
    fn size(&self) -> Result<u64, Errno> {
        super::attr::of(self).map(|stat| stat.stx_size)
    }

    fn data(&self, offset: u64) -> Result<u64, Errno> {
        rustix::fs::seek(self, SeekFrom::Data(offset))
    }

    fn hole(&self, offset: u64) -> Result<u64, Errno> {
        rustix::fs::seek(self, SeekFrom::Hole(offset))
    }
}

/// See [`crate::backend::OpenVolume::extents`].
pub(super) fn walk(file: &impl Seek, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>, Errno> {
    let mut end = range.end().min(file.size()?);
    let mut at = range.start();
    let mut runs = Runs {
        extents: Vec::new(),
        runs_max,
    };
    while at < end {
        let data = match file.data(at) {
            Ok(data) => data.max(at),
            Err(Errno::NXIO) => {
                // A hole up to the end, or the file was cut below `at`.
                end = end.min(file.size()?);
                runs.push(at, end, ExtentKind::Hole);
                break;
            }
            // A file system that cannot tell: all of it may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                runs.push(at, end, ExtentKind::Data);
                break;
            }
            Err(errno) => return Err(errno),
        };
        if !runs.push(at, data.min(end), ExtentKind::Hole) || data >= end {
            break;
        }
        let hole = match file.hole(data) {
            // `hole == data`: punched since. It was data a moment ago, so it stays that up to the next
            // data, or else two calls that disagree for ever would never get on.
            Ok(hole) if hole <= data => match file.data(data) {
                Ok(next) if next > data => next,
                Ok(_) | Err(Errno::NXIO) => end,
                Err(errno) => return Err(errno),
            },
            Ok(hole) => hole,
            // Cut below `data`: nothing is left here.
            Err(Errno::NXIO) => {
                end = end.min(file.size()?);
                runs.push(data, end, ExtentKind::Data);
                break;
            }
            Err(errno) => return Err(errno),
        };
        if !runs.push(data, hole.min(end), ExtentKind::Data) {
            break;
        }
        at = hole;
    }
    Ok(runs.extents)
}

struct Runs {
    extents: Vec<Extent>,
    runs_max: usize,
}

impl Runs {
    /// False when there is no room for another run.
    fn push(&mut self, start: u64, end: u64, kind: ExtentKind) -> bool {
        let Some(range) = ByteRange::new(start, end).filter(|range| !range.is_empty()) else {
            return true;
        };
        let full = self.extents.len() == self.runs_max;
        match self.extents.last_mut().filter(|last| last.kind == kind) {
            Some(last) => last.range = ByteRange::new(last.range.start(), end).unwrap_or(range),
            None if full => return false,
            None => self.extents.push(Extent::new(range, kind)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;

    /// Answers from a script, each question once: a file that changes between any two calls.
    struct Script {
        sizes: RefCell<VecDeque<u64>>,
        answers: RefCell<VecDeque<Result<u64, Errno>>>,
    }

    impl Seek for Script {
        fn size(&self) -> Result<u64, Errno> {
            let mut sizes = self.sizes.borrow_mut();
            let size = sizes.front().copied().expect("a size");
            if sizes.len() > 1 {
                sizes.pop_front();
            }
            Ok(size)
        }

        fn data(&self, _: u64) -> Result<u64, Errno> {
            self.answers
                .borrow_mut()
                .pop_front()
                .expect("a walk that asks too much")
        }

        fn hole(&self, _: u64) -> Result<u64, Errno> {
            self.answers
                .borrow_mut()
                .pop_front()
                .expect("a walk that asks too much")
        }
    }

    fn run(sizes: &[u64], answers: &[Result<u64, Errno>]) -> Vec<(u64, u64, &'static str)> {
        let script = Script {
            sizes: RefCell::new(sizes.iter().copied().collect()),
            answers: RefCell::new(answers.iter().copied().collect()),
        };
        let extents = walk(&script, ByteRange::ALL, 100).unwrap();
        extents
            .iter()
            .map(|e| (e.range.start(), e.range.end(), e.kind.word()))
            .collect()
    }

    #[test]
    fn holes_and_data_take_turns() {
        let got = run(&[100], &[Ok(10), Ok(20), Ok(50), Ok(100)]);
        assert_eq!(
            got,
            [
                (0, 10, "hole"),
                (10, 20, "data"),
                (20, 50, "hole"),
                (50, 100, "data")
            ]
        );
    }

    #[test]
    fn a_hole_at_the_end_ends_at_the_size() {
        assert_eq!(
            run(&[100], &[Ok(0), Ok(20), Err(Errno::NXIO)]),
            [(0, 20, "data"), (20, 100, "hole")]
        );
    }

    #[test]
    fn a_file_cut_short_while_walking_has_nothing_beyond_its_end() {
        assert_eq!(
            run(&[100, 30], &[Ok(0), Ok(20), Err(Errno::NXIO)]),
            [(0, 20, "data"), (20, 30, "hole")]
        );
        assert_eq!(
            run(&[100, 10], &[Ok(0), Ok(20), Err(Errno::NXIO)]),
            [(0, 20, "data")]
        );
        assert_eq!(run(&[100, 5], &[Ok(10), Err(Errno::NXIO)]), [(0, 10, "hole")]);
    }

    #[test]
    fn a_file_that_grows_while_walking_is_cut_where_it_ended() {
        assert_eq!(run(&[100, 500], &[Ok(0), Ok(400)]), [(0, 100, "data")]);
        assert_eq!(run(&[100, 500], &[Err(Errno::NXIO)]), [(0, 100, "hole")]);
    }

    #[test]
    fn data_punched_between_the_two_calls_stays_data() {
        let got = run(&[100], &[Ok(10), Ok(10), Ok(40), Ok(40), Ok(100)]);
        assert_eq!(got, [(0, 10, "hole"), (10, 100, "data")]);
        assert_eq!(
            run(&[100], &[Ok(10), Ok(10), Err(Errno::NXIO)]),
            [(0, 10, "hole"), (10, 100, "data")]
        );
    }

    #[test]
    fn a_file_system_that_cannot_tell_is_all_data() {
        assert_eq!(run(&[100], &[Err(Errno::INVAL)]), [(0, 100, "data")]);
    }

    #[test]
    fn the_count_of_runs_is_bounded() {
        let script = Script {
            sizes: RefCell::new([100].into()),
            answers: RefCell::new([Ok(10), Ok(20), Ok(30)].into()),
        };
        let extents = walk(&script, ByteRange::ALL, 2).unwrap();
        assert_eq!(extents.len(), 2);
        assert_eq!(extents[1].range.end(), 20);
    }
}
