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

/// What a flush covers when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unflushed {
    /// Answers to changes of this client.
    pub(super) answers: u64,
    /// The run of the server that has such changes, if there are some to flush.
    pub(super) own_with: Option<BootId>,
    pub(super) by_others: u64,
}
