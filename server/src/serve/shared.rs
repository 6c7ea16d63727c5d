//! What the sessions share, each pool in fair turns between clients.

use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::limits::session_window_bytes;
use lacuna_transport::quic::identity::KeyId;
use parking_lot::Mutex;

use crate::fair::pool::{FairPool, Share};
use crate::memory::{self, Division};

/// Threads that wait for storage at once, of those the runtime has: what does not work for a client finds one of the
/// others.
pub(crate) const STORAGE_THREADS: u64 = 120;
/// Threads of the runtime for what blocks.
pub(crate) const BLOCKING_THREADS_MAX: usize = 128;
/// Digests that are made at once, half of them for one client: each takes a thread, a processor and 256 KiB, and
/// reads should find some of the storage free.
pub(super) const DIGESTS: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Bytes of memory for requests and replies.
    pub(crate) replies: Arc<FairPool>,
    /// Bytes of memory for payloads of writes.
    pub(crate) writes: Arc<FairPool>,
    /// Bytes of memory for folders that are being sent.
    pub(crate) listings: Arc<FairPool>,
    pub(crate) sessions: Arc<FairPool>,
    pub(crate) volumes: Arc<FairPool>,
    pub(crate) threads: Arc<FairPool>,
    pub(crate) digests: Arc<FairPool>,
    /// Bytes of memory that no receive window has.
    windows: Mutex<u64>,
}

impl Shared {
    pub(crate) fn new(division: &Division) -> Self {
        let count = |count: usize| FairPool::new(u64::try_from(count).unwrap_or(u64::MAX));
        Self {
            replies: FairPool::new(division.replies_bytes),
            writes: FairPool::new(division.writes_bytes),
            listings: FairPool::new(division.listings_bytes),
            sessions: count(division.sessions),
            volumes: count(division.volumes),
            threads: FairPool::new(STORAGE_THREADS),
            digests: FairPool::new(DIGESTS),
            windows: Mutex::new(division.windows_bytes),
        }
    }

    /// A receive window for a new session on a path of this round trip.
    pub(crate) fn window(&self, round_trip: Duration) -> Window<'_> {
        let mut free = self.windows.lock();
        let bytes = memory::window(*free, session_window_bytes(round_trip));
        let cost = memory::cost_of_window(bytes.saturating_sub(memory::WINDOW_BYTES_MIN)).min(*free);
        *free -= cost;
        Window {
            shared: self,
            bytes,
            cost,
        }
    }

    /// A place for a session of `client`.
    pub(crate) fn place(&self, client: KeyId) -> Option<Share> {
        self.sessions.try_take(client, 1)
    }
}

/// A receive window, until dropped.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    shared: &'a Shared,
    bytes: u64,
    cost: u64,
}

impl Window<'_> {
    pub(crate) fn bytes(&self) -> u32 {
        u32::try_from(self.bytes).unwrap_or(u32::MAX)
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        *self.shared.windows.lock() += self.cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_back() {
        let division = Division::of(memory::MEMORY_BYTES_MIN).unwrap();
        let shared = Shared::new(&division);
        let first = shared.window(Duration::ZERO).bytes();
        let many: Vec<_> = (0..100).map(|_| shared.window(Duration::ZERO)).collect();
        assert!(many[99].bytes() < first);
        assert!(many.iter().map(|window| window.cost).sum::<u64>() <= division.windows_bytes);
        drop(many);
        assert_eq!(shared.window(Duration::ZERO).bytes(), first);
    }
}
