//! What a mount has done, as plain counters. All are of whole bytes or requests since the mount began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Only ever counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the file system; those of the connection are kept where the connection is.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes given to applications out of holes and zeros, without a request.
    pub hole_bytes_read: Counter,
    /// Bytes given to applications out of the block cache.
    pub cache_bytes_read: Counter,
    /// Payload bytes of data that came from the server.
    pub fetched_bytes: Counter,
    /// Bytes that applications wrote.
    pub written_bytes: Counter,
    /// Payload bytes of data that the server took.
    pub sent_bytes: Counter,
    /// Bytes that were acknowledged and that nobody can take any more.
    pub lost_bytes: Counter,
}
