//! The cache: what it finds, what it evicts, and that its budget is hard.

use std::time::Duration;

use super::*;

const KEY: CacheKey = CacheKey(1);

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

fn fill(cache: &BlockCache, key: CacheKey, within_block: ByteRange) {
    let share = cache
        .try_reserve(within_block.len())
        .expect("eviction makes room");
    let data = vec![7; within_block.len() as usize].into_boxed_slice();
    cache.insert(key, Arc::new(Fragment::new(within_block, data, share)));
}

fn missing(cache: &BlockCache, key: CacheKey, wanted: ByteRange) -> Vec<ByteRange> {
    cache
        .find(key, wanted)
        .into_iter()
        .filter(|(_, found)| found.is_none())
        .map(|(range, _)| range)
        .collect()
}

#[test]
fn what_is_missing_is_told_exactly_and_joined_across_blocks() {
    let cache = BlockCache::new(1 << 20);
    fill(&cache, KEY, range(4096, 8192));
    fill(&cache, KEY, range(BLOCK_BYTES, 2 * BLOCK_BYTES));
    let wanted = range(100, 4 * BLOCK_BYTES);
    assert_eq!(
        missing(&cache, KEY, wanted),
        [
            range(100, 4096),
            range(8192, BLOCK_BYTES),
            range(2 * BLOCK_BYTES, 4 * BLOCK_BYTES)
        ]
    );
    let covered: u64 = cache.find(KEY, wanted).iter().map(|(range, _)| range.len()).sum();
    assert_eq!(covered, wanted.len());
    assert_eq!(
        missing(&cache, CacheKey(2), range(4096, 8192)),
        [range(4096, 8192)]
    );
}

#[test]
fn the_budget_is_hard_and_the_oldest_goes_first() {
    let cache = BlockCache::new(4 * BLOCK_BYTES);
    for block in 0..4 {
        fill(&cache, KEY, range(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
    }
    assert_eq!(cache.bytes(), cache.bytes_max());
    assert!(
        missing(&cache, KEY, range(0, 1)).is_empty(),
        "block 0 was just used"
    );
    fill(&cache, KEY, range(9 * BLOCK_BYTES, 10 * BLOCK_BYTES));
    assert_eq!(cache.bytes(), cache.bytes_max());
    assert!(missing(&cache, KEY, range(0, 1)).is_empty());
    assert_eq!(missing(&cache, KEY, range(BLOCK_BYTES, BLOCK_BYTES + 1)).len(), 1);
}

#[test]
fn a_reader_keeps_its_share_after_eviction() {
    let cache = BlockCache::new(BLOCK_BYTES);
    fill(&cache, KEY, range(0, BLOCK_BYTES));
    let held = cache.find(KEY, range(0, BLOCK_BYTES)).remove(0).1.unwrap();
    cache.remove(KEY, ByteRange::ALL);
    assert_eq!(cache.bytes(), BLOCK_BYTES);
    assert!(cache.try_reserve(PAGE_BYTES).is_none());
    drop(held);
    assert_eq!(cache.bytes(), 0);
    assert!(cache.try_reserve(BLOCK_BYTES).is_some());
}

#[test]
fn a_fragment_that_overlaps_is_not_added() {
    let cache = BlockCache::new(1 << 20);
    fill(&cache, KEY, range(0, 8192));
    fill(&cache, KEY, range(4096, 12288));
    assert_eq!(missing(&cache, KEY, range(0, 12288)), [range(8192, 12288)]);
    assert_eq!(cache.bytes(), 8192);
}

#[test]
fn removing_a_range_leaves_the_rest() {
    let cache = BlockCache::new(1 << 20);
    for block in 0..3 {
        fill(&cache, KEY, range(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
    }
    cache.remove(KEY, range(BLOCK_BYTES + 5, BLOCK_BYTES + 6));
    assert_eq!(
        missing(&cache, KEY, range(0, 3 * BLOCK_BYTES)),
        [range(BLOCK_BYTES, 2 * BLOCK_BYTES)]
    );
}

#[tokio::test]
async fn waiting_for_room_ends_when_a_share_comes_back_or_can_be_evicted() {
    let cache = Arc::new(BlockCache::new(2 * BLOCK_BYTES));
    let first = cache.reserve(BLOCK_BYTES).await;
    let second = cache.reserve(BLOCK_BYTES).await;
    let waiter = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.reserve(2 * BLOCK_BYTES).await }
    });
    tokio::task::yield_now().await;
    drop(first);
    // The other share goes into the cache: nothing is released, but it can be evicted.
    let data = vec![0; BLOCK_BYTES as usize].into_boxed_slice();
    cache.insert(KEY, Arc::new(Fragment::new(range(0, BLOCK_BYTES), data, second)));
    let share = tokio::time::timeout(Duration::from_secs(10), waiter)
        .await
        .expect("was woken")
        .unwrap();
    assert_eq!(cache.bytes(), 2 * BLOCK_BYTES);
    drop(share);
}

/// Whether each of the first `count` blocks is there, without a look that counts.
fn held(cache: &BlockCache, count: u64) -> Vec<u64> {
    let blocks = cache.blocks.lock();
    (0..count)
        .filter(|number| blocks.by_age.peek(&(KEY, *number)).is_some())
        .collect()
}

#[test]
fn of_what_was_passed_by_a_part_stays_and_what_was_looked_for_again_does() {
    // A quarter of the budget.
    let kept = 4;
    let cache = BlockCache::new(4 * kept * BLOCK_BYTES);
    let block = |number: u64| range(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES);
    for number in 0..10 {
        fill(&cache, KEY, block(number));
    }
    for number in 0..4 {
        cache.pass(KEY, block(number));
    }
    assert_eq!(
        held(&cache, 10),
        Vec::from_iter(0..10),
        "not more than what stays"
    );
    assert!(
        missing(&cache, KEY, range(4096, 8192)).is_empty(),
        "looked for again"
    );
    for number in 4..8 {
        cache.pass(KEY, block(number));
    }
    assert_eq!(
        held(&cache, 10),
        [0, 4, 5, 6, 7, 8, 9],
        "the oldest that were passed are gone"
    );
    assert_eq!(cache.bytes(), 7 * BLOCK_BYTES, "with their share of the budget");
    // Passed once more it counts anew, and what is gone does not count.
    cache.pass(KEY, block(0));
    assert_eq!(held(&cache, 10), [0, 5, 6, 7, 8, 9]);
    cache.pass(KEY, range(0, 100 * BLOCK_BYTES));
    assert_eq!(held(&cache, 10), [0, 7, 8, 9]);
    cache.remove(KEY, block(7));
    cache.pass(KEY, block(9));
    assert_eq!(held(&cache, 10), [0, 8, 9]);
}
