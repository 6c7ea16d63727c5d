//! A digest of bytes that come from the first to the last, however many they are.

use blake3::Hasher;

use super::fold::Fold;
use super::in_units::Unit;
use super::{Digest, DigestKind, Hashing, UNIT_BYTES, bytes_of, hash_zeros};

/// See the module. Takes the same memory for any size.
#[derive(Clone, Debug)]
pub struct InOrder {
    size: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Blake3(Box<Hasher>),
    Tree { fold: Fold, unit: Unit },
}

impl InOrder {
    pub fn new(kind: DigestKind) -> Self {
        let state = match kind {
            DigestKind::Blake3 => State::Blake3(Box::default()),
            DigestKind::Tree => State::Tree {
                fold: Fold::new(kind),
                unit: Unit::new(Hashing::Plain, 0, UNIT_BYTES),
            },
        };
        Self { size: 0, state }
    }

    /// The next bytes.
    pub fn data(&mut self, bytes: &[u8]) {
        self.size += bytes_of(bytes.len());
        let (fold, unit) = match &mut self.state {
            State::Blake3(hasher) => {
                hasher.update(bytes);
                return;
            }
            State::Tree { fold, unit } => (fold, unit),
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = unit.data(rest);
            if let Some(hash) = unit.complete() {
                fold.unit(hash);
            }
        }
    }

    /// So many zeros come next: a hole, or what is known to be zero.
    pub fn zeros(&mut self, len: u64) {
        self.size += len;
        let (fold, unit) = match &mut self.state {
            State::Blake3(hasher) => {
                hash_zeros(hasher, len);
                return;
            }
            State::Tree { fold, unit } => (fold, unit),
        };
        let mut left = len;
        if !unit.is_empty() {
            left = unit.zeros(left);
            if let Some(hash) = unit.complete() {
                fold.unit(hash);
            }
        }
        fold.whole_zeros(left / UNIT_BYTES);
        // None, if the unit that was begun took all of them.
        unit.zeros(left % UNIT_BYTES);
    }

    /// Bytes so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    pub fn finish(mut self) -> Digest {
        match &mut self.state {
            State::Blake3(hasher) => Digest {
                kind: DigestKind::Blake3,
                bytes: *hasher.finalize().as_bytes(),
            },
            State::Tree { fold, unit } => {
                if !unit.is_empty() {
                    fold.unit(unit.take());
                }
                fold.finish(self.size)
            }
        }
    }
}
