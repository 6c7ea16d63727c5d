//! Fetches under way, shared by all who wait for the same bytes.
//!
//! Small ones that begin while others are under way leave together, as one wire read: when many read at
//! random at once, a request of the wire costs more than the bytes. None waits for others to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lacuna_transport::id::Generation;
use lacuna_transport::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use lacuna_transport::range::ByteRange;
use tokio::sync::watch;

use super::Volume;
use crate::cache::budget::Reservation;
use crate::cache::{BLOCK_BYTES, Fragment};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;

/// What a flight brought: fragments in order, and the base they were read at.
#[derive(Debug)]
pub struct Landed {
    pub fragments: Vec<Arc<Fragment>>,
    pub base: Generation,
}

/// How long a fetch may take that nobody waits for, or whose waiters have no deadline of their own.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// A flight of at most so many bytes leaves together with others.
const SMALL_BYTES: u64 = 32 << 10;
/// Flights that leave together have at most so many bytes: the first does not wait long for the last.
const TOGETHER_BYTES_MAX: u64 = 256 << 10;
/// What left together and did not come for so long, or for a quarter of the deadline, is tried one by one: a block that hangs holds up
/// only those who want it.
const TOGETHER_TIMEOUT: Duration = Duration::from_secs(5);

type Outcome = Option<Result<Arc<Landed>>>;

/// A fetch under way: a wire read, or a part of one.
#[derive(Debug)]
pub struct Flight {
    ranges: Vec<ByteRange>,
    stale: AtomicBool,
    outcome: watch::Sender<Outcome>,
}

impl Flight {
    fn new(ranges: Vec<ByteRange>) -> Arc<Self> {
        Arc::new(Self {
            ranges,
            stale: AtomicBool::new(false),
            outcome: watch::Sender::new(None),
        })
    }

    pub fn bytes(&self) -> u64 {
        bytes_of(&self.ranges)
    }

    /// The ranges this flight brings, in order.
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Marks it if it overlaps a changed range: its bytes may be older than the change.
    pub fn go_stale(&self, changed: ByteRange) -> bool {
        let hit = self.ranges.iter().any(|range| range.overlaps(changed));
        if hit {
            self.stale.store(true, Ordering::Relaxed);
        }
        hit
    }

    /// Waits until it lands.
    pub async fn landed(&self) -> Result<Arc<Landed>> {
        let mut outcome = self.outcome.subscribe();
        let landed = outcome.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(Error::new(ErrorKind::Internal, "a fetch was dropped")),
        }
    }
}

/// Splits sorted, disjoint ranges into wire reads, each within the bounds of one.
pub fn group(ranges: impl IntoIterator<Item = ByteRange>) -> Vec<Vec<ByteRange>> {
    let bytes_max = u64::from(READ_BYTES_MAX);
    let mut groups: Vec<Vec<ByteRange>> = Vec::new();
    let mut bytes = bytes_max;
    for mut range in ranges {
        while !range.is_empty() {
            let full = bytes == bytes_max || groups.last().is_none_or(|group| group.len() == READ_RANGES_MAX);
            if full {
                groups.push(Vec::new());
                bytes = 0;
            }
            let (part, rest) = range.split_at(range.start().saturating_add(bytes_max - bytes));
            bytes += part.len();
            if let Some(group) = groups.last_mut() {
                group.push(part);
            }
            range = rest;
        }
    }
    groups
}

/// Flights for `ranges` (sorted, disjoint). Who registers them lets later readers share them.
pub(super) fn plan_flights(ranges: Vec<ByteRange>) -> Vec<Arc<Flight>> {
    group(ranges).into_iter().map(Flight::new).collect()
}

impl<R: Remote> Volume<R> {
    /// Starts a flight; `share` is its room if that was taken before. Not while the state is locked: a runtime that ends lands it
    /// at once.
    pub(super) fn start(self: &Arc<Self>, flight: Arc<Flight>, share: Option<Reservation>) {
        let is_first = self.aloft.load(Ordering::Relaxed) == 0;
        let landing = Landing::of(self, flight);
        if share.is_some() || is_first || landing.flight.bytes() > SMALL_BYTES {
            let volume = Arc::clone(self);
            tokio::spawn(async move { volume.fly(landing, share).await });
            return;
        }
        let mut leaving = self.leaving.lock();
        leaving.push(landing);
        if leaving.len() > 1 {
            return;
        }
        drop(leaving);
        let mut departure = Departure(Some(Arc::clone(self)));
        tokio::spawn(async move {
            // Behind all that can go on now, among it those who are about to start a flight.
            tokio::task::yield_now().await;
            if let Some(volume) = departure.0.take() {
                volume.leave();
            }
        });
    }

    /// Starts those that leave together.
    fn leave(self: &Arc<Self>) {
        let leaving = std::mem::take(&mut *self.leaving.lock());
        for landings in together(leaving) {
            let volume = Arc::clone(self);
            tokio::spawn(async move { volume.fly_together(landings).await });
        }
    }

    async fn fly(self: &Arc<Self>, mut landing: Landing<R>, share: Option<Reservation>) {
        let fetched = self
            .fetch_within(self.fetch_limit(), &landing.flight.ranges, share)
            .await;
        landing.outcome = Some(fetched.map(Arc::new));
    }

    /// Small flights as one wire read. If it fails each is tried alone: most of the bytes may be well.
    async fn fly_together(self: &Arc<Self>, mut landings: Vec<Landing<R>>) {
        if landings.len() > 1 {
            let ranges = landings.iter().flat_map(|landing| &landing.flight.ranges);
            let ranges: Vec<ByteRange> = ranges.copied().collect();
            let limit = TOGETHER_TIMEOUT.min(self.fetch_limit() / 4);
            let fetched = self.fetch_within(limit, &ranges, None).await;
            if let Ok(Landed { fragments, base }) = fetched {
                let mut fragments = fragments.into_iter();
                for landing in &mut landings {
                    let parts = landing.flight.ranges.iter().copied().flat_map(blocks_of);
                    let fragments = fragments.by_ref().take(parts.count()).collect();
                    landing.outcome = Some(Ok(Arc::new(Landed { fragments, base })));
                }
                return;
            }
        }
        for landing in landings {
            let volume = Arc::clone(self);
            tokio::spawn(async move { volume.fly(landing, None).await });
        }
    }

    fn fetch_limit(&self) -> Duration {
        self.shared.deadline.unwrap_or(FETCH_TIMEOUT)
    }

    /// It holds a lane and room in the cache: it ends, whoever waits for it.
    async fn fetch_within(
        &self,
        limit: Duration,
        ranges: &[ByteRange],
        share: Option<Reservation>,
    ) -> Result<Landed> {
        let fetched = tokio::time::timeout(limit, self.fetch(ranges, share)).await;
        fetched.unwrap_or_else(|_| {
            let text = format!("{}: no data within {} s", self.path(), limit.as_secs());
            Err(Error::new(ErrorKind::TimedOut, text))
        })
    }

    /// Fetches without telling anyone: for O_DIRECT.
    pub(super) async fn fetch_uncached(self: &Arc<Self>, ranges: Vec<ByteRange>) -> Result<Vec<Landed>> {
        let mut landed = Vec::new();
        for ranges in group(ranges) {
            landed.push(self.fetch(&ranges, None).await?);
        }
        Ok(landed)
    }

    /// One wire read.
    async fn fetch(&self, ranges: &[ByteRange], share: Option<Reservation>) -> Result<Landed> {
        let mut share = match share {
            Some(share) => share,
            None => self.shared.cache.reserve(room_for(ranges)).await,
        };
        let ended = |_| Error::new(ErrorKind::Internal, "the mount has ended");
        let _slot = self.fetches.acquire().await.map_err(ended)?;
        let bound = self.bound()?;
        let parts: Vec<ByteRange> = ranges.iter().copied().flat_map(blocks_of).collect();
        let len = |part: &ByteRange| usize::try_from(part.len()).expect("within a block");
        let lengths: Vec<usize> = parts.iter().map(len).collect();
        let reading = self.shared.remote.read(&bound, ranges.to_vec(), &lengths);
        let (base, buffers) = reading.await?;
        self.shared.counters.fetched_bytes.add(bytes_of(ranges));
        let fragments = parts.into_iter().zip(buffers).map(|(part, data)| {
            let share = share.split(part.len()).expect("room was made for every part");
            Arc::new(Fragment::new(part, data, share))
        });
        Ok(Landed {
            fragments: fragments.collect(),
            base,
        })
    }

    /// Caches what landed, if it still is what the volume is, and lets the waiters go on.
    fn land(self: &Arc<Self>, flight: &Arc<Flight>, outcome: Result<Arc<Landed>>) {
        let mut state = self.state.lock();
        let before = state.flights.len();
        state.flights.retain(|other| !Arc::ptr_eq(other, flight));
        let registered = state.flights.len() < before;
        let mut outdated = false;
        if let Ok(landed) = &outcome {
            outdated = landed.base != state.base;
            if registered && !outdated && !flight.stale.load(Ordering::Relaxed) {
                for fragment in &landed.fragments {
                    self.shared.cache.insert(self.key, Arc::clone(fragment));
                }
            }
        }
        drop(state);
        if outdated {
            // The readers that waited see it themselves; nobody may wait for a prefetch.
            let volume = Arc::clone(self);
            tokio::spawn(async move {
                let resync = volume
                    .shared
                    .within_deadline(("look", &volume.path), volume.resync());
                if let Err(error) = resync.await {
                    tracing::debug!(volume = %volume.path(), %error, "cannot refresh");
                }
            });
        }
        flight.outcome.send_replace(Some(outcome));
    }
}

/// Small flights leave whatever happens to the task that is to start them: if it never runs, they land.
struct Departure<R: Remote>(Option<Arc<Volume<R>>>);

impl<R: Remote> Drop for Departure<R> {
    fn drop(&mut self) {
        if let Some(volume) = self.0.take() {
            let left_behind = std::mem::take(&mut *volume.leaving.lock());
            drop(left_behind);
        }
    }
}

/// Lands a flight whatever happens to its task.
pub(super) struct Landing<R: Remote> {
    volume: Arc<Volume<R>>,
    flight: Arc<Flight>,
    outcome: Outcome,
}

impl<R: Remote> Landing<R> {
    fn of(volume: &Arc<Volume<R>>, flight: Arc<Flight>) -> Self {
        volume.aloft.fetch_add(1, Ordering::Relaxed);
        Self {
            volume: Arc::clone(volume),
            flight,
            outcome: None,
        }
    }
}

impl<R: Remote> Drop for Landing<R> {
    fn drop(&mut self) {
        let dropped = || Err(Error::new(ErrorKind::Internal, "a fetch was dropped"));
        self.volume.aloft.fetch_sub(1, Ordering::Relaxed);
        self.volume
            .land(&self.flight, self.outcome.take().unwrap_or_else(dropped));
    }
}

/// Splits small flights into wire reads, in order.
fn together<R: Remote>(leaving: Vec<Landing<R>>) -> Vec<Vec<Landing<R>>> {
    let mut groups: Vec<Vec<Landing<R>>> = Vec::new();
    let (mut bytes, mut ranges) = (0, 0);
    for landing in leaving {
        bytes += landing.flight.bytes();
        ranges += landing.flight.ranges.len();
        match groups.last_mut() {
            Some(group) if bytes <= TOGETHER_BYTES_MAX && ranges <= READ_RANGES_MAX => group.push(landing),
            _ => {
                (bytes, ranges) = (landing.flight.bytes(), landing.flight.ranges.len());
                groups.push(vec![landing]);
            }
        }
    }
    groups
}

fn bytes_of(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| range.len()).sum()
}

/// Room for the parts of ranges, each in whole pages.
pub(super) fn room_for(ranges: &[ByteRange]) -> u64 {
    use crate::cache::PAGE_BYTES;
    let parts = ranges.iter().copied().flat_map(blocks_of);
    parts
        .map(|part| part.len().div_ceil(PAGE_BYTES) * PAGE_BYTES)
        .sum()
}

/// The pieces of a range in each block it touches.
fn blocks_of(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = (rest.start() / BLOCK_BYTES + 1).saturating_mul(BLOCK_BYTES);
        let (part, tail) = rest.split_at(end);
        rest = tail;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn groups_keep_every_byte_and_both_bounds() {
        let mut ranges: Vec<_> = (0..1000).map(|index| range(index << 20, 4096)).collect();
        ranges.push(range(1 << 40, 5 << 20));
        let groups = group(ranges.clone());
        for group in &groups {
            assert!(group.len() <= READ_RANGES_MAX);
            assert!(group.iter().map(|range| range.len()).sum::<u64>() <= u64::from(READ_BYTES_MAX));
        }
        let total: u64 = groups.iter().flatten().map(|range| range.len()).sum();
        assert_eq!(total, ranges.iter().map(|range| range.len()).sum::<u64>());
        assert!(groups.iter().flatten().is_sorted_by_key(|range| range.start()));
        assert!(groups.len() <= 4 + 6);
    }

    #[test]
    fn blocks_split_at_their_edges() {
        let parts: Vec<_> = blocks_of(range(BLOCK_BYTES - 10, BLOCK_BYTES + 20)).collect();
        assert_eq!(
            parts,
            [
                range(BLOCK_BYTES - 10, 10),
                range(BLOCK_BYTES, BLOCK_BYTES),
                range(2 * BLOCK_BYTES, 10)
            ]
        );
        assert_eq!(room_for(&[range(BLOCK_BYTES - 10, 20)]), 8192);
    }
}
