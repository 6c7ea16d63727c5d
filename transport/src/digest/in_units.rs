//! The hashes of one unit after the other, of bytes that come in order.

use super::{Hashing, UnitHash, UnitHasher, bytes_of, zeros_hash};

/// Cuts bytes that come in order, however they are cut, into units of any size, and hashes each.
#[derive(Clone, Debug)]
pub struct InUnits {
    unit: Unit,
    hashes: Vec<UnitHash>,
}

impl InUnits {
    /// The first unit begins at `offset` of what is hashed; both are as [`UnitHasher::new`] wants them.
    pub const fn new(how: Hashing, offset: u64, unit_bytes: u64) -> Self {
        Self {
            unit: Unit::new(how, offset, unit_bytes),
            hashes: Vec::new(),
        }
    }

    /// The next bytes.
    pub fn data(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.unit.data(rest);
            self.hashes.extend(self.unit.complete());
        }
    }

    /// So many zeros come next.
    pub fn zeros(&mut self, len: u64) {
        let mut left = len;
        while left > 0 {
            left = self.unit.zeros(left);
            self.hashes.extend(self.unit.complete());
        }
    }

    /// One hash for each unit; the last unit may have been short.
    pub fn finish(mut self) -> Vec<UnitHash> {
        if !self.unit.is_empty() {
            self.hashes.push(self.unit.take());
        }
        self.hashes
    }
}

/// The unit that is not complete yet. Zeros are not hashed before something else follows them.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    how: Hashing,
    offset: u64,
    bytes_max: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Zeros(u64),
    Hashed { hasher: Box<UnitHasher>, len: u64 },
}

impl Unit {
    pub(super) const fn new(how: Hashing, offset: u64, bytes_max: u64) -> Self {
        Self {
            how,
            offset,
            bytes_max,
            state: State::Zeros(0),
        }
    }

    const fn len(&self) -> u64 {
        match self.state {
            State::Zeros(len) | State::Hashed { len, .. } => len,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in what it has room for; returns the rest.
    pub(super) fn data<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = usize::try_from(self.bytes_max - self.len());
        let (piece, rest) = bytes.split_at(room.map_or(bytes.len(), |room| room.min(bytes.len())));
        if let State::Zeros(len) = self.state {
            let mut hasher = Box::new(UnitHasher::new(self.how, self.offset));
            hasher.zeros(len);
            self.state = State::Hashed { hasher, len };
        }
        if let State::Hashed { hasher, len } = &mut self.state {
            hasher.data(piece);
            *len += bytes_of(piece.len());
        }
        rest
    }

    /// As [`Self::data`].
    pub(super) fn zeros(&mut self, count: u64) -> u64 {
        let piece = count.min(self.bytes_max - self.len());
        match &mut self.state {
            State::Zeros(len) => *len += piece,
            State::Hashed { hasher, len } => {
                hasher.zeros(piece);
                *len += piece;
            }
        }
        count - piece
    }

    /// What it comes to, if it is complete; then the next one begins.
    pub(super) fn complete(&mut self) -> Option<UnitHash> {
        (self.len() == self.bytes_max).then(|| self.take())
    }

    /// What it comes to, complete or not; the next one begins. Never when it is empty.
    pub(super) fn take(&mut self) -> UnitHash {
        let state = std::mem::replace(&mut self.state, State::Zeros(0));
        let hash = match (state, self.how) {
            (State::Zeros(len), Hashing::Plain) => zeros_hash(len),
            (State::Zeros(len), Hashing::Chained) => {
                let mut hasher = UnitHasher::new(self.how, self.offset);
                hasher.zeros(len);
                hasher.finish()
            }
            (State::Hashed { hasher, .. }, _) => hasher.finish(),
        };
        self.offset += self.bytes_max;
        hash
    }
}
