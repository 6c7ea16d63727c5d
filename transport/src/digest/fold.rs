//! Folds units that come from left to right into the root of a tree.
//!
//! The stack holds the roots of complete subtrees, larger ones first, as the binary digits of the number of units. A
//! subtree is joined to its left neighbour only once something comes to the right of it: the last join of all
//! makes the root, which BLAKE3 hashes in another way than a node.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{
    ContextKey, HasherExt, Mode, hash_derive_key_context, merge_subtrees_non_root, merge_subtrees_root,
};

use super::{Digest, DigestKind, UNIT_BYTES, UnitHash, Units, zeros_hash};
use crate::range::ByteRange;

/// Another layout, unit size or node needs other contexts: these are what tells versions apart.
const NODE_CONTEXT: &str = "lacuna volume digest, version 1, 64 KiB units: node";
const ROOT_CONTEXT: &str = "lacuna volume digest, version 1, 64 KiB units: root";

static NODE_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context(NODE_CONTEXT));
static ROOT_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context(ROOT_CONTEXT));

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    kind: DigestKind,
    units: u64,
    stack: Vec<UnitHash>,
    /// Roots of zeros: of 1, 2, 4, … units. As many as were needed so far.
    zeros: Vec<UnitHash>,
    #[cfg(test)]
    pub(super) joins: u64,
}

impl Fold {
    pub(super) fn new(kind: DigestKind) -> Self {
        Self {
            kind,
            units: 0,
            stack: Vec::new(),
            zeros: Vec::new(),
            #[cfg(test)]
            joins: 0,
        }
    }

    /// The next unit. Only the last one of all may be short.
    pub(super) fn unit(&mut self, hash: UnitHash) {
        self.subtree(hash, 1);
    }

    /// The zeros of `units.range(..)` that come next: the whole ones, and the short one at the end.
    pub(super) fn zeros(&mut self, units: Units, range: ByteRange) {
        match self.kind {
            DigestKind::Blake3 => {
                for index in range.start()..range.end() {
                    self.unit(units.zero_leaf(index));
                }
            }
            DigestKind::Tree => {
                let (whole, short) = range.split_at(units.size() / UNIT_BYTES);
                self.whole_zeros(whole.len());
                if !short.is_empty() {
                    self.unit(units.zero_leaf(short.start()));
                }
            }
        }
    }

    /// So many whole units of zeros come next in a tree of ours.
    pub(super) fn whole_zeros(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            // A subtree of 2^n units begins at a multiple of that.
            let log2 = self.units.trailing_zeros().min(left.ilog2());
            let hash = self.zero_subtree(log2);
            self.subtree(hash, 1 << log2);
            left -= 1 << log2;
        }
    }

    fn zero_subtree(&mut self, log2: u32) -> UnitHash {
        let log2 = usize::try_from(log2).expect("a u64 has 64 bits");
        while self.zeros.len() <= log2 {
            let next = match self.zeros.last().copied() {
                None => zeros_hash(UNIT_BYTES),
                Some(half) => self.join(&half, &half),
            };
            self.zeros.push(next);
        }
        self.zeros[log2]
    }

    fn subtree(&mut self, hash: UnitHash, units: u64) {
        self.join_complete();
        self.stack.push(hash);
        self.units += units;
    }

    /// Joins what is complete now that something comes to the right of it.
    fn join_complete(&mut self) {
        let complete = usize::try_from(self.units.count_ones()).expect("a u64 has 64 bits");
        while self.stack.len() > complete {
            let (left, right) = self.pop_two().expect("more than one is left");
            let node = self.join(&left, &right);
            self.stack.push(node);
        }
    }

    /// The two at the right end, if there are two.
    fn pop_two(&mut self) -> Option<(UnitHash, UnitHash)> {
        let [.., left, right] = *self.stack.as_slice() else {
            return None;
        };
        self.stack.truncate(self.stack.len() - 2);
        Some((left, right))
    }

    fn join(&mut self, left: &UnitHash, right: &UnitHash) -> UnitHash {
        #[cfg(test)]
        {
            self.joins += 1;
        }
        match self.kind {
            DigestKind::Blake3 => merge_subtrees_non_root(left, right, Mode::Hash),
            DigestKind::Tree => {
                let mut hasher = Hasher::new_from_context_key(&NODE_KEY);
                hasher.update(left).update(right);
                *hasher.finalize().as_bytes()
            }
        }
    }

    /// The digest, now that all of `size` bytes came.
    pub(super) fn finish(&mut self, size: u64) -> Digest {
        debug_assert_eq!(self.units, size.div_ceil(UNIT_BYTES));
        while self.stack.len() > 2 {
            let (left, right) = self.pop_two().expect("more than two are left");
            let node = self.join(&left, &right);
            self.stack.push(node);
        }
        let bytes = match self.kind {
            DigestKind::Blake3 => match self.pop_two() {
                Some((left, right)) => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
                None => self.only(),
            },
            DigestKind::Tree => {
                let top = match self.pop_two() {
                    Some((left, right)) => self.join(&left, &right),
                    None => self.only(),
                };
                let mut hasher = Hasher::new_from_context_key(&ROOT_KEY);
                hasher.update(&size.to_le_bytes()).update(&top);
                *hasher.finalize().as_bytes()
            }
        };
        Digest {
            kind: self.kind,
            bytes,
        }
    }

    /// The only subtree; that of no bytes is the hash of none.
    fn only(&self) -> UnitHash {
        self.stack.last().copied().unwrap_or_else(|| zeros_hash(0))
    }
}
