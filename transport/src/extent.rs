//! Extents: what a server says about the bytes of a volume.

use crate::range::ByteRange;

/// What a range of a volume is.
///
/// Hole and zero are two facts: both read as zeros, only a hole is not allocated. A server that
/// cannot tell says `Data`; it never says `Hole` or `Zero` of bytes that may differ from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExtentKind {
    /// Allocated, may hold anything.
    Data = 0,
    /// Allocated, reads as zeros.
    Zero = 1,
    /// Not allocated, reads as zeros.
    Hole = 2,
}

impl ExtentKind {
    /// The lower-case word used in output and documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Zero => "zero",
            Self::Hole => "hole",
        }
    }
}

/// A range of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub range: ByteRange,
    pub kind: ExtentKind,
}

impl Extent {
    pub const fn new(range: ByteRange, kind: ExtentKind) -> Self {
        Self { range, kind }
    }
}
