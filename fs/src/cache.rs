//! The block cache: clean data of all volumes of a mount, under one hard byte budget.
//!
//! The unit of eviction is a block of [`BLOCK_BYTES`]; a block holds fragments, whole pages of
//! [`PAGE_BYTES`], so that a random read of 4 KiB costs 4 KiB. Every fragment owns its share of the
//! budget and gives it back when the last reader lets go of it: what is in the cache, on the way from
//! the server, or being copied out, is all counted.
//!
//! What a reader has passed by in order is dropped after 32 MiB of it, if the kernel has it in its page cache: a long
//! scan does not push out what is read again and again, and goes through memory that is in use already.
//!
//! Left out on purpose: who fetches what (see `volume`), dirty data, and any knowledge of holes.

pub mod budget;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::RangeBounds;
use std::sync::Arc;

use lacuna_transport::range::ByteRange;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::futures::OwnedNotified;

use self::budget::{Budget, Reservation};

/// Unit of eviction, in bytes. As large as the reads of the kernel's readahead, which then get their bytes from one
/// place.
pub const BLOCK_BYTES: u64 = 128 << 10;
/// Unit of fetching and of the budget, in bytes.
pub const PAGE_BYTES: u64 = 4 << 10;
/// Kept of what readers have passed by, where the kernel has it too; a quarter of a small cache.
const PASSED_BYTES_MAX: u64 = 32 << 20;

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

#[derive(Debug, Default)]
struct Block {
    /// In order, without overlap.
    fragments: Vec<Arc<Fragment>>,
    /// When a reader passed it by, if nobody looked for it since.
    passed: Option<u64>,
}

/// A block that was passed by.
#[derive(Debug)]
struct Passed {
    at: (CacheKey, u64),
    bytes: u64,
    when: u64,
}

/// Blocks by age, and by volume, so that dropping what is cached of one does not look at all others.
#[derive(Debug)]
struct Blocks {
    by_age: LruCache<(CacheKey, u64), Block>,
    by_volume: HashMap<CacheKey, BTreeSet<u64>>,
    /// The oldest first; of some the block is gone or was looked for since.
    passed: VecDeque<Passed>,
    passed_bytes: u64,
    /// Counts what was passed by.
    passed_count: u64,
}

impl Blocks {
    fn note_passed(&mut self, key: CacheKey, number: u64) {
        let Some(block) = self.by_age.peek_mut(&(key, number)) else {
            return;
        };
        if block.passed.is_some() {
            return;
        }
        self.passed_count += 1;
        block.passed = Some(self.passed_count);
        let bytes = block.fragments.iter().map(|fragment| fragment.range.len());
        let bytes = bytes.sum::<u64>().max(PAGE_BYTES);
        self.passed_bytes += bytes;
        self.passed.push_back(Passed {
            at: (key, number),
            bytes,
            when: self.passed_count,
        });
    }

    /// Takes out those that were passed by first, until no more than `bytes_max` of them are left.
    fn take_passed(&mut self, bytes_max: u64) -> Vec<Block> {
        let mut taken = Vec::new();
        while self.passed_bytes > bytes_max
            && let Some(passed) = self.passed.pop_front()
        {
            self.passed_bytes -= passed.bytes;
            let is_so = |block: &Block| block.passed == Some(passed.when);
            if self.by_age.peek(&passed.at).is_some_and(is_so) {
                taken.extend(self.take(passed.at));
            }
        }
        taken
    }

    /// The numbers of the blocks of a volume that are there.
    fn held(&self, key: CacheKey, numbers: impl RangeBounds<u64>) -> Vec<u64> {
        let own = self.by_volume.get(&key);
        own.map(|own| own.range(numbers).copied().collect())
            .unwrap_or_default()
    }

    fn take(&mut self, at: (CacheKey, u64)) -> Option<Block> {
        self.forget(at.0, at.1);
        self.by_age.pop(&at)
    }

    fn forget(&mut self, key: CacheKey, block: u64) {
        if let Some(blocks) = self.by_volume.get_mut(&key) {
            blocks.remove(&block);
            if blocks.is_empty() {
                self.by_volume.remove(&key);
            }
        }
    }
}

#[derive(Debug)]
pub struct BlockCache {
    blocks: Mutex<Blocks>,
    budget: Budget,
}

impl BlockCache {
    /// A cache that never holds more than `bytes_max`, rounded down to pages.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            blocks: Mutex::new(Blocks {
                by_age: LruCache::unbounded(),
                by_volume: HashMap::new(),
                passed: VecDeque::new(),
                passed_bytes: 0,
                passed_count: 0,
            }),
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
            let block = blocks.by_age.get_mut(&(key, block_of(at)));
            let fragments = block.map(|block| {
                block.passed = None;
                &block.fragments
            });
            for fragment in fragments.into_iter().flatten() {
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
        let number = block_of(fragment.range.start());
        blocks.by_volume.entry(key).or_default().insert(number);
        let block = blocks.by_age.get_or_insert_mut((key, number), Block::default);
        let block = &mut block.fragments;
        if block.iter().all(|other| !other.range.overlaps(fragment.range)) {
            let place = block.partition_point(|other| other.range.start() < fragment.range.start());
            block.insert(place, fragment);
        }
        drop(blocks);
        // Who waits for memory can now evict this.
        self.budget.wake();
    }

    /// A reader has gone through `range`, and the kernel has it in its page cache.
    pub fn pass(&self, key: CacheKey, range: ByteRange) {
        let numbers = block_of(range.start())..block_of(range.end());
        let mut blocks = self.blocks.lock();
        for number in blocks.held(key, numbers) {
            blocks.note_passed(key, number);
        }
        let bytes_max = PASSED_BYTES_MAX.min(self.budget.bytes_max() / 4);
        let dropped = blocks.take_passed(bytes_max);
        drop(blocks);
        drop(dropped);
    }

    /// Drops what is cached of `range`, whole blocks at a time.
    pub fn remove(&self, key: CacheKey, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let mut blocks = self.blocks.lock();
        let numbers = block_of(range.start())..=block_of(range.end() - 1);
        let found = blocks.held(key, numbers).into_iter();
        let dropped: Vec<_> = found.filter_map(|number| blocks.take((key, number))).collect();
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

    /// Resolves when room was given back after this call.
    pub fn released(&self) -> OwnedNotified {
        self.budget.released()
    }

    /// Room for `bytes` if eviction can make it: what others are fetching or reading stays theirs.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        loop {
            if let Some(share) = self.budget.try_take(bytes) {
                return Some(share);
            }
            // Dropped outside of the lock: a fragment gives back its share by itself.
            let evicted = self.evict();
            evicted?;
        }
    }

    /// As [`Self::try_reserve`], but gives up where that would throw away much more than it needs,
    /// because most of the budget is in use: for prefetches.
    pub fn try_reserve_gently(&self, bytes: u64) -> Option<Reservation> {
        let blocks_max = bytes.div_ceil(PAGE_BYTES) + 1;
        for _ in 0..blocks_max {
            if let Some(share) = self.budget.try_take(bytes) {
                return Some(share);
            }
            self.evict()?;
        }
        self.budget.try_take(bytes)
    }

    fn evict(&self) -> Option<Block> {
        let mut blocks = self.blocks.lock();
        let ((key, number), block) = blocks.by_age.pop_lru()?;
        blocks.forget(key, number);
        Some(block)
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
