//! A digest whose units come in any order, from here or from a server.

use std::collections::BTreeMap;

use super::fold::Fold;
use super::{Digest, DigestKind, UnitHash, Units};
use crate::range::ByteRange;

/// All zeros at first. Keeps 32 bytes (and a key) for each unit that is not known to be zero.
#[derive(Clone, Debug)]
pub struct Tree {
    units: Units,
    /// By index; what is missing is zero.
    leaves: BTreeMap<u64, UnitHash>,
}

impl Tree {
    pub const fn new(kind: DigestKind, size: u64) -> Self {
        Self {
            units: Units::new(kind, size),
            leaves: BTreeMap::new(),
        }
    }

    pub const fn units(&self) -> Units {
        self.units
    }

    /// What a unit comes to: [`Units::leaf`], or what a server says if it hashes by [`Units::hashing`].
    pub fn set(&mut self, index: u64, leaf: UnitHash) {
        debug_assert!(index < self.units.count());
        // In the other kind each unit of zeros has a hash of its own: telling them costs what it saves.
        if self.units.kind() == DigestKind::Tree && leaf == self.units.zero_leaf(index) {
            self.leaves.remove(&index);
        } else {
            self.leaves.insert(index, leaf);
        }
    }

    /// The units of `range`, given as indices, are zeros again.
    pub fn set_zeros(&mut self, range: ByteRange) {
        let zeros = self.leaves.range(range.start()..range.end());
        let indices: Vec<u64> = zeros.map(|(index, _)| *index).collect();
        for index in indices {
            self.leaves.remove(&index);
        }
    }

    /// Units kept.
    pub fn kept(&self) -> usize {
        self.leaves.len()
    }

    pub fn finish(&self) -> Digest {
        self.fold().finish(self.units.size())
    }

    pub(super) fn fold(&self) -> Fold {
        let mut fold = Fold::new(self.units.kind());
        let mut zeros = ByteRange::up_to(self.units.count());
        for (index, leaf) in &self.leaves {
            let (before, from) = zeros.split_at(*index);
            fold.zeros(self.units, before);
            fold.unit(*leaf);
            zeros = from.split_at(index + 1).1;
        }
        fold.zeros(self.units, zeros);
        fold
    }
}
