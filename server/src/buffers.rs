//! Memory for payloads, used again: touching a fresh mebibyte costs more than copying one.
//!
//! **Invariant.** A buffer still holds what was in it before, maybe of another client: whoever takes one fills
//! all of it before a byte leaves.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes of each kept buffer: the largest read or write.
const BUFFER_BYTES: usize = 1 << 20;
/// Smaller ones come from the allocator, which has them at hand.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// Unused buffers kept: 64 MiB, what a few busy sessions have in flight.
const KEPT_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub struct BufferPool {
    unused: Mutex<Vec<Box<[u8]>>>,
}

/// `len` bytes of anything, until dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Option<Arc<BufferPool>>,
}

impl BufferPool {
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if !(POOLED_BYTES_MIN..=BUFFER_BYTES).contains(&len) {
            return Buffer {
                bytes: vec![0; len].into_boxed_slice(),
                len,
                pool: None,
            };
        }
        let unused = self.unused.lock().pop();
        Buffer {
            bytes: unused.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()),
            len,
            pool: Some(Arc::clone(self)),
        }
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
        if let Some(pool) = self.pool.take() {
            let mut unused = pool.unused.lock();
            if unused.len() < KEPT_MAX {
                unused.push(std::mem::take(&mut self.bytes));
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
        write!(f, "BufferPool({} unused)", self.unused.lock().len())
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

    #[test]
    fn lengths_are_exact_and_large_ones_come_back() {
        let pool = Arc::new(BufferPool::default());
        for len in [0, 1, POOLED_BYTES_MIN - 1, BUFFER_BYTES + 1] {
            assert_eq!(pool.take(len).len(), len);
            assert!(pool.unused.lock().is_empty(), "{len} bytes are not kept");
        }
        for len in [POOLED_BYTES_MIN, BUFFER_BYTES] {
            assert_eq!(pool.take(len).len(), len);
            assert_eq!(pool.unused.lock().len(), 1);
        }
    }

    #[test]
    fn the_count_of_kept_ones_is_bounded() {
        let pool = Arc::new(BufferPool::default());
        let many: Vec<_> = (0..KEPT_MAX + 5).map(|_| pool.take(BUFFER_BYTES)).collect();
        drop(many);
        assert_eq!(pool.unused.lock().len(), KEPT_MAX);
    }
}
