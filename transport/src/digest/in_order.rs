//! A digest of bytes that come from the first to the last, however many they are.

use blake3::Hasher;

use super::fold::Fold;
use super::{Digest, DigestKind, Hashing, UNIT_BYTES, UnitHasher, bytes_of, hash_zeros, zeros_hash};

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

/// The unit that is not complete yet.
#[derive(Clone, Debug)]
enum Unit {
    /// So many zeros so far, which were not hashed.
    Zeros(u64),
    Hashed {
        hasher: Box<UnitHasher>,
        len: u64,
    },
}

impl InOrder {
    pub fn new(kind: DigestKind) -> Self {
        let state = match kind {
            DigestKind::Blake3 => State::Blake3(Box::default()),
            DigestKind::Tree => State::Tree {
                fold: Fold::new(kind),
                unit: Unit::Zeros(0),
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
            let room = usize::try_from(unit.room()).map_or(rest.len(), |room| room.min(rest.len()));
            let (piece, tail) = rest.split_at(room);
            unit.data(piece);
            if unit.room() == 0 {
                fold.unit(unit.take());
            }
            rest = tail;
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
        if unit.room() < UNIT_BYTES {
            let front = left.min(unit.room());
            unit.zeros(front);
            left -= front;
            if unit.room() == 0 {
                fold.unit(unit.take());
            }
        }
        fold.whole_zeros(left / UNIT_BYTES);
        // Nothing, if the unit that was begun took all of them.
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
                if unit.room() < UNIT_BYTES {
                    fold.unit(unit.take());
                }
                fold.finish(self.size)
            }
        }
    }
}

impl Unit {
    /// Bytes until it is complete.
    const fn room(&self) -> u64 {
        match self {
            Self::Zeros(len) | Self::Hashed { len, .. } => UNIT_BYTES - *len,
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        if let Self::Zeros(zeros) = *self {
            let mut hasher = Box::new(UnitHasher::new(Hashing::Plain, 0));
            hasher.zeros(zeros);
            *self = Self::Hashed { hasher, len: zeros };
        }
        if let Self::Hashed { hasher, len } = self {
            hasher.data(bytes);
            *len += bytes_of(bytes.len());
        }
    }

    fn zeros(&mut self, count: u64) {
        match self {
            Self::Zeros(len) => *len += count,
            Self::Hashed { hasher, len } => {
                hasher.zeros(count);
                *len += count;
            }
        }
    }

    /// What it comes to; the next one begins.
    fn take(&mut self) -> super::UnitHash {
        match std::mem::replace(self, Self::Zeros(0)) {
            Self::Zeros(len) => zeros_hash(len),
            Self::Hashed { hasher, .. } => hasher.finish(),
        }
    }
}
