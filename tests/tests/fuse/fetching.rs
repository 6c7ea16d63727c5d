//! What is fetched, when, and what is kept: cache budget, readahead, page cache, single flight.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

use anyhow::{Result, ensure};
use lacuna_tests::at_once::at_once;
use lacuna_tests::compare;
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use rustix::fs::{Advice, fadvise};

use crate::{KIB, MIB};

fn dense(size: u64) -> impl FnOnce(&Path) -> Result<()> {
    move |dir| samples::write_sparse(&dir.join("volume"), size, 21, [(0, size)])
}

fn read_all(rig: &Rig) -> Result<()> {
    let original = File::open(rig.original("volume"))?;
    compare::same_range(
        &original,
        &rig.mount.open("volume")?,
        0,
        original.metadata()?.len(),
    )
}

fn random_reads_fetch_little(advice: Option<Advice>) -> Result<()> {
    const READS: u64 = 200;
    let rig = Rig::filled(dense(256 * MIB))?;
    let (original, volume) = (File::open(rig.original("volume"))?, rig.mount.open("volume")?);
    if let Some(advice) = advice {
        fadvise(&volume, 0, None, advice)?;
    }
    let before = rig.mount.settled()?;
    let mut random = Random::new(22);
    // Far from each other, in no order: each read has to be fetched by itself.
    let mut places: Vec<_> = (0..READS)
        .map(|i| i * MIB + random.below(200) * 4 * KIB)
        .collect();
    for i in (1..places.len()).rev() {
        places.swap(i, usize::try_from(random.below(u64::try_from(i)? + 1))?);
    }
    for place in places {
        compare::same_range(&original, &volume, place, place + 4 * KIB)?;
    }
    let after = rig.mount.settled()?;
    let fetched = after.fetched_bytes - before.fetched_bytes;
    ensure!(
        fetched >= READS * 4 * KIB,
        "{fetched} bytes fetched are less than were read"
    );
    ensure!(
        fetched <= READS * 64 * KIB,
        "{} bytes fetched for each read of 4 KiB",
        fetched / READS
    );
    Ok(())
}

#[test]
fn random_reads_fetch_little_by_default() -> Result<()> {
    random_reads_fetch_little(None)
}

#[test]
fn random_reads_fetch_little_when_announced() -> Result<()> {
    random_reads_fetch_little(Some(Advice::Random))
}

#[test]
fn a_sequential_read_fetches_each_byte_once_in_large_requests() -> Result<()> {
    let size = 64 * MIB;
    let rig = Rig::filled_with(&["compress=none"], dense(size))?;
    let before = rig.mount.status()?;
    read_all(&rig)?;
    let after = rig.mount.settled()?;
    assert_eq!(after.fetched_bytes - before.fetched_bytes, size);
    let requests = after.requests_sent - before.requests_sent;
    ensure!(requests <= size / (256 * KIB), "{requests} requests for 64 MiB");
    let received = after.bytes_received - before.bytes_received;
    ensure!(
        received >= size && received < size + size / 20,
        "{received} bytes received for {size}"
    );
    Ok(())
}

/// A second open of an unchanged volume keeps the kernel's pages: the daemon is not asked again.
#[test]
fn reopening_keeps_the_page_cache() -> Result<()> {
    let size = 32 * MIB;
    let rig = Rig::filled(dense(size))?;
    read_all(&rig)?;
    let before = rig.mount.settled()?;
    read_all(&rig)?;
    let after = rig.mount.settled()?;
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    let asked = after.cache_bytes_read - before.cache_bytes_read;
    // The kernel may have dropped some pages for want of memory.
    ensure!(
        asked <= size / 10,
        "{asked} bytes of {size} were asked of the daemon again"
    );
    Ok(())
}

/// Without the kernel's pages the client's own cache answers.
#[test]
fn what_is_cached_is_not_fetched_again() -> Result<()> {
    let size = 16 * MIB;
    let rig = Rig::filled_with(&["cache=64M"], dense(size))?;
    let volume = rig.mount.open("volume")?;
    read_all(&rig)?;
    let before = rig.mount.settled()?;
    fadvise(&volume, 0, None, Advice::DontNeed)?;
    read_all(&rig)?;
    let after = rig.mount.settled()?;
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    let cached = after.cache_bytes_read - before.cache_bytes_read;
    ensure!(cached >= size, "{cached} bytes came from the cache");
    Ok(())
}

#[test]
fn the_cache_keeps_its_budget() -> Result<()> {
    let (size, budget) = (256 * MIB, 16 * MIB);
    let rig = Rig::filled_with(&["cache=16M"], dense(size))?;
    assert_eq!(rig.mount.status()?.cache_bytes_max, budget);
    let (original, volume) = (File::open(rig.original("volume"))?, rig.mount.open("volume")?);
    // Here and there: of what is read in order little is kept.
    for step in 0..512 {
        let at = step * 197 % 512 * 512 * KIB;
        compare::same_range(&original, &volume, at, at + 512 * KIB)?;
        let status = rig.mount.status()?;
        ensure!(
            status.cache_bytes <= budget,
            "{} bytes are cached",
            status.cache_bytes
        );
    }
    let status = rig.mount.settled()?;
    ensure!(
        status.cache_bytes <= budget,
        "{} bytes are cached",
        status.cache_bytes
    );
    ensure!(
        status.cache_bytes > budget / 2,
        "only {} bytes are cached",
        status.cache_bytes
    );
    Ok(())
}

/// What is read in order the kernel has; of the rest nothing is pushed out.
#[test]
fn a_scan_leaves_little_in_the_cache_and_pushes_nothing_out() -> Result<()> {
    let (size, scanned) = (128 * MIB, 16 * MIB);
    let rig = Rig::filled_with(&["cache=64M"], dense(size))?;
    let (original, volume) = (File::open(rig.original("volume"))?, rig.mount.open("volume")?);
    // Read here and there, through a handle of its own.
    let others: Vec<u64> = (1..=12).rev().map(|i| i * MIB + 64 * KIB).collect();
    let read_others = || {
        let volume = rig.mount.open("volume")?;
        fadvise(&volume, 0, None, Advice::Random)?;
        others
            .iter()
            .try_for_each(|at| compare::same_range(&original, &volume, *at, at + 4 * KIB))
    };
    read_others()?;
    compare::same_range(&original, &volume, scanned, size)?;
    let status = rig.mount.settled()?;
    ensure!(
        status.cache_bytes <= 28 * MIB,
        "{} bytes are cached: a quarter of the budget, and readahead, were expected",
        status.cache_bytes
    );
    fadvise(&volume, 0, None, Advice::DontNeed)?;
    read_others()?;
    let again = rig.mount.settled()?;
    assert_eq!(again.fetched_bytes, status.fetched_bytes);
    Ok(())
}

/// Sixteen readers at once at different places: there are fewer requests than reads.
#[test]
fn small_reads_at_once_share_requests() -> Result<()> {
    const READERS: u64 = 16;
    const READS: u64 = 200;
    let rig = Rig::filled(dense(256 * MIB))?;
    let volume = rig.mount.open("volume")?;
    fadvise(&volume, 0, None, Advice::Random)?;
    let before = rig.mount.settled()?;
    let original = File::open(rig.original("volume"))?;
    at_once(READERS, |reader| {
        let mut random = Random::new(reader);
        (0..READS).try_for_each(|_| {
            // Each of its own 16 MiB.
            let at = reader * 16 * MIB + random.below(4096) * 4 * KIB;
            compare::same_range(&original, &volume, at, at + 4 * KIB)
        })
    })?;
    let after = rig.mount.settled()?;
    let (fetched, requests) = (
        (after.fetched_bytes - before.fetched_bytes) / (4 * KIB),
        after.requests_sent - before.requests_sent,
    );
    ensure!(fetched > READERS * READS / 2, "only {fetched} pages were fetched");
    ensure!(requests < fetched, "{requests} requests for {fetched} pages");
    Ok(())
}

/// Eight readers at once, each at another page of the same 32 KiB, cause one fetch of them. (Pages of their own,
/// for the kernel lets only one reader ask for a page; not O_DIRECT, for that passes by the cache.)
#[test]
fn readers_share_a_fetch() -> Result<()> {
    const PLACES: u64 = 64;
    const READERS: u64 = 8;
    let rig = Rig::filled(dense(PLACES * MIB))?;
    let before = rig.mount.settled()?;
    let start = Barrier::new(usize::try_from(READERS)?);
    let read = |reader: u64| -> Result<()> {
        let volume = rig.mount.open("volume")?;
        fadvise(&volume, 0, None, Advice::Random)?;
        let (mut page, mut outcome) = ([0; 4096], Ok(()));
        for place in 0..PLACES {
            // After an error too, or the others would wait for ever.
            start.wait();
            outcome =
                outcome.and(volume.read_exact_at(&mut page, place * MIB + 512 * KIB + reader * 4 * KIB));
        }
        Ok(outcome?)
    };
    at_once(READERS, read)?;
    let fetched = rig.mount.settled()?.fetched_bytes - before.fetched_bytes;
    ensure!(
        fetched >= PLACES * READERS * 4 * KIB,
        "{fetched} bytes fetched are less than were read"
    );
    ensure!(
        fetched <= PLACES * 64 * KIB,
        "{} bytes fetched at each place",
        fetched / PLACES
    );
    Ok(())
}
