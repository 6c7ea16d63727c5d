//! The block cache: clean data of all volumes of a mount, under one hard byte budget.
//!
//! The unit of eviction is a block of [`BLOCK_BYTES`]; a block holds fragments, whole pages of
//! [`PAGE_BYTES`], so that a random read of 4 KiB costs 4 KiB. Every fragment owns its share of the
//! budget and gives it back when the last reader lets go of it: what is in the cache, on the way from
//! the server, or being copied out, is all counted.
//!
//! Left out on purpose: who fetches what (see `volume`), dirty data, and any knowledge of holes.

pub mod budget;

use std::sync::Arc;

use lacuna_transport::range::ByteRange;
use lru::LruCache;
use parking_lot::Mutex;

use self::budget::{Budget, Reservation};

/// Unit of eviction, in bytes.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Unit of fetching and of the budget, in bytes.
pub const PAGE_BYTES: u64 = 4 << 10;

/// The volumes of one cache, numbered. A number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(pub u64);

/// Contiguous bytes of one block, as they were at the server.
#[derive(Debug)]
pub struct Fragment {
    range: ByteRange,
    data: Box<[u8]>,
    /// Given back when the fragment is dropped.
    _share: Reservation,
}

impl Fragment {
    /// `data` are the bytes of `range`, which lies within one block.
    pub fn new(range: ByteRange, data: Box<[u8]>, share: Reservation) -> Self {
        debug_assert_eq!(u64::try_from(data.len()), Ok(range.len()));
        debug_assert!(range.is_empty() || block_of(range.start()) == block_of(range.end() - 1));
        Self {
            range,
            data,
            _share: share,
        }
    }

    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// The bytes of `range`, which lies within this fragment.
    pub fn slice(&self, range: ByteRange) -> &[u8] {
        debug_assert!(self.range.covers(range));
        let skip = usize::try_from(range.start() - self.range.start()).expect("within a block");
        let len = usize::try_from(range.len()).expect("within a block");
        &self.data[skip..skip + len]
    }
}

/// Fragments of one block, in order, without overlap.
type Block = Vec<Arc<Fragment>>;

#[derive(Debug)]
pub struct BlockCache {
    blocks: Mutex<LruCache<(CacheKey, u64), Block>>,
    budget: Budget,
}

impl BlockCache {
    /// A cache that never holds more than `bytes_max`, rounded down to pages.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            blocks: Mutex::new(LruCache::unbounded()),
            budget: Budget::new(bytes_max),
        }
    }

    pub fn bytes_max(&self) -> u64 {
        self.budget.bytes_max()
    }

    /// Bytes of the budget in use: cached, being fetched, being read.
    pub fn bytes(&self) -> u64 {
        self.budget.bytes()
    }

    /// Splits `range` into what is cached and what is not (`None`), in order.
    pub fn find(&self, key: CacheKey, range: ByteRange) -> Vec<(ByteRange, Option<Arc<Fragment>>)> {
        let mut pieces = Vec::new();
        let mut blocks = self.blocks.lock();
        let mut at = range.start();
        while at < range.end() {
            let rest = range.split_at(at).1;
            let within = rest.intersect(ByteRange::at_saturating(block_of(at) * BLOCK_BYTES, BLOCK_BYTES));
            let block = blocks.get(&(key, block_of(at)));
            for fragment in block.into_iter().flatten() {
                let found = fragment.range.intersect(within);
                if found.is_empty() || found.end() <= at {
                    continue;
                }
                push_missing(&mut pieces, at, found.start());
                pieces.push((found, Some(Arc::clone(fragment))));
                at = found.end();
            }
            push_missing(&mut pieces, at, within.end());
            at = within.end();
        }
        pieces
    }

    /// Adds a fragment. Where something is already there, it stays.
    pub fn insert(&self, key: CacheKey, fragment: Arc<Fragment>) {
        let mut blocks = self.blocks.lock();
        let block = blocks.get_or_insert_mut((key, block_of(fragment.range.start())), Vec::new);
        if block.iter().all(|other| !other.range.overlaps(fragment.range)) {
            let place = block.partition_point(|other| other.range.start() < fragment.range.start());
            block.insert(place, fragment);
        }
        drop(blocks);
        // Who waits for memory can now evict this.
        self.budget.wake();
    }

    /// Drops what is cached of `range`, whole blocks at a time.
    pub fn remove(&self, key: CacheKey, range: ByteRange) {
        let mut blocks = self.blocks.lock();
        let touched = |block: u64| ByteRange::at_saturating(block * BLOCK_BYTES, BLOCK_BYTES).overlaps(range);
        let keys: Vec<_> = blocks
            .iter()
            .map(|(key, _)| *key)
            .filter(|(owner, block)| *owner == key && touched(*block))
            .collect();
        let dropped: Vec<_> = keys.iter().filter_map(|key| blocks.pop(key)).collect();
        drop(blocks);
        drop(dropped);
    }

    /// Room for `bytes`, evicting what was used longest ago; waits while all is in use by others.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        loop {
            // Registered before trying, so that a release in between is not missed.
            let released = self.budget.released();
            if let Some(share) = self.try_reserve(bytes) {
                return share;
            }
            released.await;
        }
    }

    /// Room for `bytes` if eviction alone can make it.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        loop {
            if let Some(share) = self.budget.try_take(bytes) {
                return Some(share);
            }
            // Dropped outside of the lock: a fragment gives back its share by itself.
            let evicted = self.blocks.lock().pop_lru();
            evicted?;
        }
    }
}

const fn block_of(offset: u64) -> u64 {
    offset / BLOCK_BYTES
}

fn push_missing(pieces: &mut Vec<(ByteRange, Option<Arc<Fragment>>)>, start: u64, end: u64) {
    let Some(missing) = ByteRange::new(start, end).filter(|range| !range.is_empty()) else {
        return;
    };
    match pieces.last_mut() {
        // Missing parts of neighbouring blocks are one.
        Some((last, None)) if last.end() == start => {
            *last = ByteRange::new(last.start(), end).expect("joined in order");
        }
        _ => pieces.push((missing, None)),
    }
}

#[cfg(test)]
mod tests;
