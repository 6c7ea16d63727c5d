//! Memory of dirty data, and its share of the budget.

use std::sync::Arc;

use lacuna_transport::range::ByteRange;

use crate::cache::PAGE_BYTES;
use crate::cache::budget::Reservation;

/// Buffers of a run of small writes grow up to this.
const RUN_BUFFER_BYTES_MAX: u64 = 64 << 10;

/// A share of what may be dirty, and of the budget of the mount that it lies in.
#[derive(Debug)]
pub struct DirtyShare {
    _dirty: Reservation,
    _budget: Reservation,
}

impl DirtyShare {
    pub fn new(dirty: Reservation, budget: Reservation) -> Self {
        Self {
            _dirty: dirty,
            _budget: budget,
        }
    }
}

/// Bytes that were written, filled from the front.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    _share: Option<DirtyShare>,
}

impl Buffer {
    /// Room of a buffer for `bytes`.
    pub fn room_for(bytes: u64) -> u64 {
        bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
    }

    /// Room of the buffer for `bytes` that follow those of `slice`.
    pub fn room_after(slice: &Slice, bytes: u64) -> u64 {
        let before = u64::try_from(slice.buffer.bytes.capacity()).unwrap_or(u64::MAX);
        let grown = before.saturating_mul(2).min(RUN_BUFFER_BYTES_MAX);
        Self::room_for(bytes.max(grown))
    }
}

/// Part of a buffer.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

impl Slice {
    /// A copy of `bytes` in a buffer of its own with room for `room` bytes in all, which is what the share
    /// is for.
    pub fn new(bytes: &[u8], room: u64, share: Option<DirtyShare>) -> Self {
        let room = usize::try_from(room).unwrap_or(0).max(bytes.len());
        let mut own = Vec::with_capacity(room);
        own.extend_from_slice(bytes);
        Self {
            start: 0,
            end: own.len(),
            buffer: Arc::new(Buffer {
                bytes: own,
                _share: share,
            }),
        }
    }

    /// The part of it that is `range`, counted from its first byte.
    #[must_use]
    pub fn part(&self, range: ByteRange) -> Self {
        let at = |offset: u64| self.start + usize::try_from(offset).expect("within a buffer");
        let (start, end) = (at(range.start()), at(range.end()));
        debug_assert!(start <= end && end <= self.end);
        Self {
            buffer: Arc::clone(&self.buffer),
            start,
            end,
        }
    }

    pub(super) fn skip(&self, bytes: u64) -> Self {
        let start = self.start + usize::try_from(bytes).expect("within a buffer");
        Self {
            buffer: Arc::clone(&self.buffer),
            start: start.min(self.end),
            end: self.end,
        }
    }

    /// Keeps the first `bytes`.
    pub(super) fn cut(&mut self, bytes: u64) {
        self.end = self.start + usize::try_from(bytes).expect("within a buffer");
    }

    /// True if nobody else holds the buffer: it may be changed in place.
    pub(super) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1
    }

    /// True if `bytes` can follow in the same buffer.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        let own = &self.buffer.bytes;
        let room = u64::try_from(own.capacity() - own.len()).unwrap_or(u64::MAX);
        self.is_alone() && self.end == own.len() && room >= bytes
    }

    pub(super) fn overwrite(&mut self, skip: u64, bytes: &[u8]) {
        let start = self.start + usize::try_from(skip).expect("within a buffer");
        if let Some(buffer) = Arc::get_mut(&mut self.buffer) {
            buffer.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        if let Some(buffer) = Arc::get_mut(&mut self.buffer) {
            buffer.bytes.extend_from_slice(bytes);
            self.end = buffer.bytes.len();
        }
    }
}
