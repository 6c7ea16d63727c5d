//! Digests of a volume's bytes, or of a range of it as if that were a file.
//!
//! | kind | of | a hole costs |
//! |---|---|---|
//! | [`DigestKind::Blake3`] | the bytes, as `b3sum` of the raw image shows it | hashing its zeros, at memory speed |
//! | [`DigestKind::Tree`] | our own tree over the hashes of 64 KiB units | O(log n), whatever its length |
//!
//! BLAKE3 numbers its blocks of 1024 bytes, so that the zeros at one offset come to something else than the same
//! zeros at another: what `b3sum` shows cannot be had without hashing every hole. The tree has no offsets in it.
//! It is laid out as BLAKE3's own (the left side of a node is a power of two of units), a unit is
//! the plain BLAKE3 hash of its bytes (the last may be short), a node is BLAKE3 of left and right in a
//! key-derivation context, and the root of another context binds the size.
//!
//! **Invariants**
//!
//! * A digest depends on the size and on the bytes: not on what is a hole, a zero or data full of
//!   zeros, nor on how the bytes were cut or in which order they came.
//! * Units count from the start of what is hashed: from the start of a range, not of its volume.
//!
//! Left out on purpose: threads and IO. [`Units::leaf`] can be called from anywhere at once.

mod fold;
mod in_order;
mod in_units;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use minicbor::{Decode, Encode};
use thiserror::Error;

pub use self::in_order::InOrder;
pub use self::in_units::InUnits;
pub use self::tree::Tree;
use crate::hex;
use crate::range::ByteRange;

/// Bytes of a unit of both kinds of digest: 2 to the power of this. Zeros beside data in a unit are hashed with it, so
/// that larger units make a digest of many small extents slow.
pub const UNIT_LOG2: u8 = 16;
/// Bytes of a unit of both kinds of digest; the last one of a volume may be short.
pub const UNIT_BYTES: u64 = 1 << UNIT_LOG2;
/// The smallest unit that hashes are asked for, as a power of two: the block of most file systems.
pub const UNIT_LOG2_MIN: u8 = 12;
/// The largest one, as a power of two: a read.
pub const UNIT_LOG2_MAX: u8 = 20;

/// What a unit, or a node above units, comes to.
pub type UnitHash = [u8; 32];

/// What a [`Digest`] says and costs: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DigestKind {
    Blake3,
    Tree,
}

impl DigestKind {
    pub const ALL: [Self; 2] = [Self::Blake3, Self::Tree];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Tree => "tree",
        }
    }
}

impl fmt::Display for DigestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for DigestKind {
    type Err = DigestError;

    fn from_str(word: &str) -> Result<Self, DigestError> {
        let kind = Self::ALL.into_iter().find(|kind| kind.word() == word);
        kind.ok_or(DigestError)
    }
}

/// What a volume's bytes come to, shown as `blake3:` or `tree:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    pub kind: DigestKind,
    pub bytes: [u8; 32],
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        hex::write(f, &self.bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a digest is written blake3: or tree: and 64 hex digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (word, digits) = text.split_once(':').ok_or(DigestError)?;
        let kind = word.parse()?;
        let bytes = hex::parse(digits).ok_or(DigestError)?;
        Ok(Self { kind, bytes })
    }
}

/// How the bytes of a unit are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Hashing {
    /// As a file of their own: BLAKE3 of the bytes.
    #[n(0)]
    Plain,
    /// As a part of a larger file: the chaining value of BLAKE3 at the unit's offset, not a root.
    #[n(1)]
    Chained,
}

/// Hashes one unit, piece by piece.
#[derive(Clone, Debug)]
pub struct UnitHasher {
    how: Hashing,
    hasher: Hasher,
}

impl UnitHasher {
    /// For a unit that begins at `offset` of what is hashed, a multiple of its size.
    pub fn new(how: Hashing, offset: u64) -> Self {
        let mut hasher = Hasher::new();
        if how == Hashing::Chained {
            hasher.set_input_offset(offset);
        }
        Self { how, hasher }
    }

    pub fn data(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub fn zeros(&mut self, len: u64) {
        hash_zeros(&mut self.hasher, len);
    }

    /// A chained unit is never empty.
    pub fn finish(&self) -> UnitHash {
        match self.how {
            Hashing::Plain => *self.hasher.finalize().as_bytes(),
            Hashing::Chained => self.hasher.finalize_non_root(),
        }
    }
}

/// Zeros at hand: as many as BLAKE3 needs to use all of the processor.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

fn hash_zeros(hasher: &mut Hasher, len: u64) {
    let mut left = len;
    while left > 0 {
        let piece = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        hasher.update(&ZEROS[..piece]);
        left -= bytes_of(piece);
    }
}

/// The plain hash of `len` zeros. That of a whole unit of any size is kept once it was asked for.
pub fn zeros_hash(len: u64) -> UnitHash {
    #[expect(clippy::as_conversions, reason = "a constant that fits any usize")]
    const SIZES: usize = 1 + (UNIT_LOG2 - UNIT_LOG2_MIN) as usize;
    static WHOLE: [OnceLock<UnitHash>; SIZES] = [const { OnceLock::new() }; SIZES];
    let hash = || {
        let mut hasher = UnitHasher::new(Hashing::Plain, 0);
        hasher.zeros(len);
        hasher.finish()
    };
    let sizes = WHOLE.iter().zip(UNIT_LOG2_MIN..);
    let mut kept = sizes.filter(|(_, log2)| 1 << log2 == len);
    kept.next().map_or_else(hash, |(kept, _)| *kept.get_or_init(hash))
}

/// How the bytes behind a digest are cut into units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    kind: DigestKind,
    size: u64,
}

impl Units {
    /// For a digest of `size` bytes.
    pub const fn new(kind: DigestKind, size: u64) -> Self {
        Self { kind, size }
    }

    pub const fn kind(self) -> DigestKind {
        self.kind
    }

    pub const fn size(self) -> u64 {
        self.size
    }

    pub const fn count(self) -> u64 {
        self.size.div_ceil(UNIT_BYTES)
    }

    /// The bytes of a unit, from the start of what is hashed. Only the last unit may be short.
    pub fn range(self, index: u64) -> ByteRange {
        let start = index.saturating_mul(UNIT_BYTES);
        ByteRange::at_saturating(start, UNIT_BYTES).intersect(ByteRange::up_to(self.size))
    }

    /// How every unit is hashed, here or at a server. A file of one unit has no nodes above it: with BLAKE3 its
    /// only unit is the root.
    pub const fn hashing(self) -> Hashing {
        match self.kind {
            DigestKind::Blake3 if self.size > UNIT_BYTES => Hashing::Chained,
            DigestKind::Blake3 | DigestKind::Tree => Hashing::Plain,
        }
    }

    /// For a unit that comes in pieces.
    pub fn hasher(self, index: u64) -> UnitHasher {
        UnitHasher::new(self.hashing(), self.range(index).start())
    }

    /// What a unit with these bytes comes to. They are all of [`Self::range`].
    pub fn leaf(self, index: u64, bytes: &[u8]) -> UnitHash {
        debug_assert_eq!(bytes_of(bytes.len()), self.range(index).len());
        let mut hasher = self.hasher(index);
        hasher.data(bytes);
        hasher.finish()
    }

    /// What a unit of zeros comes to.
    pub fn zero_leaf(self, index: u64) -> UnitHash {
        let len = self.range(index).len();
        match self.hashing() {
            Hashing::Plain => zeros_hash(len),
            Hashing::Chained => {
                let mut hasher = self.hasher(index);
                hasher.zeros(len);
                hasher.finish()
            }
        }
    }
}

/// A length in memory as one in a volume.
fn bytes_of(len: usize) -> u64 {
    u64::try_from(len).expect("no memory is larger than 2^64 bytes")
}
