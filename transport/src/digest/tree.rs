//! A digest of units that come one by one, from here or from a server.

use super::fold::Fold;
use super::{Digest, DigestKind, UnitHash, Units};
use crate::range::ByteRange;

/// Takes the units that are not zero, in ascending order; what is left out is zero. Memory does not grow with their
/// number.
#[derive(Clone, Debug)]
pub struct Tree {
    units: Units,
    fold: Fold,
    /// Units before this one are folded.
    next: u64,
}

impl Tree {
    pub fn new(kind: DigestKind, size: u64) -> Self {
        Self {
            units: Units::new(kind, size),
            fold: Fold::new(kind),
            next: 0,
        }
    }

    pub const fn units(&self) -> Units {
        self.units
    }

    /// What a unit comes to: [`Units::leaf`], or what a server says if it hashes by [`Units::hashing`]. Later than
    /// all before; in a digest of the other kind the zeros in between are hashed here.
    pub fn set(&mut self, index: u64, leaf: UnitHash) {
        debug_assert!(self.next <= index && index < self.units.count());
        self.zeros_to(index);
        self.fold.unit(leaf);
        self.next = index + 1;
    }

    pub fn finish(self) -> Digest {
        let size = self.units.size();
        self.into_fold().finish(size)
    }

    pub(super) fn into_fold(mut self) -> Fold {
        self.zeros_to(self.units.count());
        self.fold
    }

    fn zeros_to(&mut self, index: u64) {
        let zeros = ByteRange::new(self.next, index).unwrap_or(ByteRange::EMPTY);
        self.fold.zeros(self.units, zeros);
    }
}
