//! Half-open byte ranges. The one place with offset arithmetic.

use std::fmt;

/// The bytes `start..end` of a volume; `start <= end` always holds.
///
/// Offsets are `u64`. Volumes end at or below 2^63-1 (the largest `off_t`), so that an offset fits
/// the signed type of `lseek(2)`; see [`crate::limits::VOLUME_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The empty range at 0.
    pub const EMPTY: Self = Self { start: 0, end: 0 };
    /// Every byte a volume can have.
    pub const ALL: Self = Self {
        start: 0,
        end: u64::MAX,
    };

    /// `start..end`, or `None` if `start > end`.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// `len` bytes from `start`, or `None` if the end does not fit in a `u64`.
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// `len` bytes from `start`, cut at `u64::MAX`.
    pub const fn at_saturating(start: u64, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// `0..end`.
    pub const fn up_to(end: u64) -> Self {
        Self { start: 0, end }
    }

    pub const fn start(self) -> u64 {
        self.start
    }

    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes in both. Empty (at the later start) if they share none.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end).max(start);
        Self { start, end }
    }

    /// True if they share at least one byte.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }

    /// The part below `offset` and the part at or above it.
    pub fn split_at(self, offset: u64) -> (Self, Self) {
        let middle = offset.clamp(self.start, self.end);
        (
            Self {
                start: self.start,
                end: middle,
            },
            Self {
                start: middle,
                end: self.end,
            },
        )
    }

    /// The smallest range of whole units that covers this one; the end saturates at `u64::MAX`.
    ///
    /// `unit` is a power of two.
    pub const fn align_out(self, unit: u64) -> Self {
        debug_assert!(unit.is_power_of_two());
        let start = self.start & !(unit - 1);
        let end = match self.end.checked_add(unit - 1) {
            Some(end) => end & !(unit - 1),
            None => u64::MAX,
        };
        Self { start, end }
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_do_not_fit_are_refused() {
        assert_eq!(ByteRange::at(u64::MAX, 0), ByteRange::new(u64::MAX, u64::MAX));
        assert_eq!(ByteRange::at(u64::MAX, 1), None);
        assert_eq!(ByteRange::new(1, 0), None);
    }

    #[test]
    fn intersection_of_strangers_is_empty() {
        let a = ByteRange::new(0, 10).unwrap();
        let b = ByteRange::new(20, 30).unwrap();
        assert!(a.intersect(b).is_empty());
        assert!(!a.overlaps(b));
        assert!(!a.overlaps(ByteRange::new(10, 20).unwrap()));
        assert_eq!(
            a.intersect(ByteRange::new(5, 30).unwrap()),
            ByteRange::new(5, 10).unwrap()
        );
    }

    #[test]
    fn aligning_out_covers_and_saturates() {
        let range = ByteRange::new(4095, 4097).unwrap();
        assert_eq!(range.align_out(4096), ByteRange::new(0, 8192).unwrap());
        assert_eq!(ByteRange::ALL.align_out(4096).end(), u64::MAX);
        assert_eq!(ByteRange::EMPTY.align_out(4096), ByteRange::EMPTY);
    }

    #[test]
    fn splitting_outside_leaves_one_side_empty() {
        let range = ByteRange::new(10, 20).unwrap();
        assert_eq!(range.split_at(5), (ByteRange::new(10, 10).unwrap(), range));
        assert_eq!(range.split_at(25), (range, ByteRange::new(20, 20).unwrap()));
    }
}
