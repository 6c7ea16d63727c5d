//! Moving volumes to and from files, block devices and pipes: `lacuna pull` and `lacuna push` without their
//! command lines.
//!
//! A transfer has two sides that run at once: the volume (async, many requests on their way) and a local
//! [`source`] or [`target`] (blocking, in order, on a thread of its own), with a bounded queue of
//! [`Piece`]s between them. A hole is one piece of any length from one end to the other.
//!
//! Invariants: nothing outside the range is touched; no byte of a source is read twice; what is refused is
//! refused before anything moves, where that can be known.

mod compare;
mod early_sync;
pub mod local;
pub mod pull;
pub mod push;
pub mod range;
pub mod records;
pub mod source;
pub mod target;
pub mod verify;

use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_transport::digest::{Digest, DigestKind, InOrder};

use crate::error::{Error, ErrorKind};
use crate::zeros::Piece;

/// Pieces between the two sides: each is at most 1 MiB, most are 64 KiB.
const QUEUE_PIECES_MAX: usize = 64;

/// What becomes of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sparse {
    /// Holes stay holes; zeros are looked for where the source has no map.
    #[default]
    Auto,
    /// Zeros are looked for in all data.
    Always,
    /// Holes become zeros that take space.
    Never,
}

/// How far a transfer is. Bytes are logical ones.
#[derive(Debug, Default)]
pub struct Tally {
    /// In all, where that is known; else 0.
    pub total_bytes: AtomicU64,
    pub data_bytes: AtomicU64,
    pub hole_bytes: AtomicU64,
    /// Found to be there already.
    pub same_bytes: AtomicU64,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn data(&self) -> u64 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    pub fn hole(&self) -> u64 {
        self.hole_bytes.load(Ordering::Relaxed)
    }

    pub fn same(&self) -> u64 {
        self.same_bytes.load(Ordering::Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// So far.
    pub fn done(&self) -> u64 {
        self.data() + self.hole() + self.same()
    }
}

/// The digest of what passes, if one is wanted.
#[derive(Debug)]
pub(crate) struct Hasher(Option<InOrder>);

impl Hasher {
    fn new(kind: Option<DigestKind>) -> Self {
        Self(kind.map(InOrder::new))
    }

    fn piece(&mut self, piece: &Piece) {
        match (&mut self.0, piece) {
            (Some(hasher), Piece::Data(bytes)) => hasher.data(bytes),
            (Some(hasher), Piece::Hole(len)) => hasher.zeros(*len),
            (None, _) => {}
        }
    }

    fn finish(self) -> Option<Digest> {
        self.0.map(InOrder::finish)
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}

fn thread_lost(error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, format!("a thread of the transfer: {error}"))
}

#[cfg(test)]
mod tests;
