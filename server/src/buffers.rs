//! Memory for payloads, used again: touching a fresh mebibyte costs more than copying one.
//!
//! **Invariants**
//!
//! * A buffer still holds what was in it before, maybe of another client: whoever takes one fills all of it before
//!   a byte leaves.
//! * A buffer takes as much memory as [`cost`] says: that is what its user has to pay for.
//! * What is kept unused is bounded.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes of the largest kept buffers: the largest read or write.
const BUFFER_BYTES: usize = 1 << 20;
/// Smaller ones come from the allocator, which has them at hand.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// Sizes of kept buffers: powers of two, so that a user pays for twice of what it needs at most.
const SIZES: usize = 5;

const _: () = assert!(POOLED_BYTES_MIN << (SIZES - 1) == BUFFER_BYTES);

/// See the module.
pub struct BufferPool {
    unused: Mutex<Unused>,
    kept_bytes_max: usize,
}

#[derive(Default)]
struct Unused {
    /// Of each size, the smallest first.
    buffers: [Vec<Box<[u8]>>; SIZES],
    bytes: usize,
}

/// `len` bytes of anything, until dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Option<Arc<BufferPool>>,
}

/// Bytes of memory that a buffer of `len` takes.
pub fn cost(len: usize) -> usize {
    size_of_kept(len).map_or(len, |size| POOLED_BYTES_MIN << size)
}

/// Which of the kept sizes has room for `len`; `None` for what is not kept.
fn size_of_kept(len: usize) -> Option<usize> {
    let kept = (POOLED_BYTES_MIN..=BUFFER_BYTES).contains(&len);
    (0..SIZES).find(|size| kept && len <= POOLED_BYTES_MIN << size)
}

impl BufferPool {
    /// Keeps unused buffers of `kept_bytes_max` in all.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            unused: Mutex::default(),
            kept_bytes_max,
        }
    }

    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let Some(size) = size_of_kept(len) else {
            return Buffer {
                bytes: vec![0; len].into_boxed_slice(),
                len,
                pool: None,
            };
        };
        Buffer {
            bytes: self
                .unused
                .lock()
                .take(size)
                .unwrap_or_else(|| vec![0; cost(len)].into_boxed_slice()),
            len,
            pool: Some(Arc::clone(self)),
        }
    }
}

impl Unused {
    fn take(&mut self, size: usize) -> Option<Box<[u8]>> {
        let buffer = self.buffers[size].pop()?;
        self.bytes -= buffer.len();
        Some(buffer)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take()
            && let Some(size) = size_of_kept(self.bytes.len())
        {
            let mut unused = pool.unused.lock();
            if unused.bytes + self.bytes.len() <= pool.kept_bytes_max {
                unused.bytes += self.bytes.len();
                unused.buffers[size].push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} unused bytes)", self.unused.lock().bytes)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 4 << 20;

    #[test]
    fn lengths_are_exact_and_large_ones_come_back() {
        for len in [0, 1, POOLED_BYTES_MIN - 1, BUFFER_BYTES + 1] {
            let pool = Arc::new(BufferPool::new(KEPT));
            assert_eq!(pool.take(len).len(), len);
            assert_eq!(cost(len), len);
            assert_eq!(pool.unused.lock().bytes, 0, "{len} bytes are not kept");
        }
        for len in [
            POOLED_BYTES_MIN,
            POOLED_BYTES_MIN + 1,
            BUFFER_BYTES - 1,
            BUFFER_BYTES,
        ] {
            let pool = Arc::new(BufferPool::new(KEPT));
            let buffer = pool.take(len);
            assert_eq!((buffer.len(), buffer.bytes.len()), (len, cost(len)));
            let address = buffer.as_ptr();
            drop(buffer);
            assert_eq!(pool.unused.lock().bytes, cost(len));
            assert_eq!(pool.take(len).as_ptr(), address, "it is used again");
        }
    }

    /// A read of 64 KiB takes 64 KiB, not a buffer of the largest.
    #[test]
    fn what_is_paid_is_never_more_than_twice_what_is_needed() {
        for len in (POOLED_BYTES_MIN..=BUFFER_BYTES).step_by(4097) {
            assert!((len..2 * len).contains(&cost(len)), "{len}: {}", cost(len));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Arc::new(BufferPool::new(KEPT));
        let many: Vec<_> = (0..9).map(|_| pool.take(BUFFER_BYTES)).collect();
        drop(many);
        assert_eq!(pool.unused.lock().bytes, KEPT);
    }
}
