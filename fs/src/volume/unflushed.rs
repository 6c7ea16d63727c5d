//! What a flush has to cover: also what others wrote.
//!
//! fsync(2) of a file makes durable whatever can be read of it, whoever wrote it. A database that comes back after a
//! crash of its host reads what its last run left in the memory of the server, and relies on its own fsync of that. So
//! a client asks the server to flush what it found, too, and what it was told of; once, until somebody else changes
//! the volume again.

use lacuna_transport::id::BootId;

/// Counts what this client did not write itself: what it found when it came, and each change that it was told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByOthers {
    seen: u64,
    flushed: u64,
}

impl Default for ByOthers {
    fn default() -> Self {
        Self { seen: 1, flushed: 0 }
    }
}

impl ByOthers {
    pub(super) fn note(&mut self) {
        self.seen += 1;
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.seen > self.flushed
    }

    /// A flush that began when this many were seen was answered.
    pub(super) fn note_flush(&mut self, seen: u64) {
        self.flushed = self.flushed.max(seen);
    }
}

/// Sizes that were set and are not flushed; more of them cause a flush.
const CUTS_MAX: usize = 1024;

/// Sizes that were set and are not flushed, lower and earlier ones first. One that is not lower than a later one tells
/// nothing more. A size goes with the flush that covers it, and not with a later one: what was written behind it since
/// may be flushed by then, and must not be cut off again.
#[derive(Debug, Default)]
pub(super) struct Cuts(Vec<Cut>);

#[derive(Debug)]
struct Cut {
    size: u64,
    answer: u64,
}

impl Cuts {
    pub(super) fn note(&mut self, size: u64, answer: u64) {
        self.0.retain(|cut| cut.size < size);
        self.0.push(Cut { size, answer });
    }

    pub(super) fn note_flush(&mut self, answers: u64) {
        self.0.retain(|cut| cut.answer > answers);
    }

    pub(super) fn lowest(&self) -> Option<u64> {
        self.0.first().map(|cut| cut.size)
    }

    pub(super) fn are_many(&self) -> bool {
        self.0.len() >= CUTS_MAX
    }
}

/// What a flush covers when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unflushed {
    /// Answers to changes of this client.
    pub(super) answers: u64,
    /// The run of the server that has such changes, if there are some to flush.
    pub(super) own_with: Option<BootId>,
    pub(super) by_others: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_goes_with_the_flush_that_covers_it() {
        let mut cuts = Cuts::default();
        assert_eq!(cuts.lowest(), None);
        cuts.note(100, 1);
        cuts.note(700, 3);
        assert_eq!(cuts.lowest(), Some(100));
        // What was written behind 100 in between is flushed.
        cuts.note_flush(2);
        assert_eq!(cuts.lowest(), Some(700));
        cuts.note(50, 4);
        cuts.note_flush(3);
        assert_eq!(cuts.lowest(), Some(50));
        cuts.note_flush(4);
        assert_eq!(cuts.lowest(), None);
    }

    #[test]
    fn growing_again_and_again_is_bounded() {
        let mut cuts = Cuts::default();
        for size in 1..=1024 {
            assert!(!cuts.are_many());
            cuts.note(size, size);
        }
        assert!(cuts.are_many());
        cuts.note(0, 1025);
        assert!(!cuts.are_many());
    }
}
