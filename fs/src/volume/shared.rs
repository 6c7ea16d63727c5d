//! What all volumes of a mount share: the door to the server, the budget, the counters, and the list of
//! those that have something the server has not flushed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodePath;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::Volume;
use super::notices::Notices;
use super::waiting::{NOTED_AFTER, Operation, Waiting};
use crate::cache::budget::Budget;
use crate::cache::{BlockCache, CacheKey, PAGE_BYTES};
use crate::counters::Counters;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Division;
use crate::overlay::buffer::DirtyShare;
use crate::remote::Remote;
use crate::rescue::{Rescue, Salvage};

/// What becomes of aligned blocks of a write that are all zero, as QEMU's option of this name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are data.
    #[default]
    Off,
    /// They become zeros.
    On,
    /// They become a hole.
    Unmap,
}

/// How a mount behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cache_bytes_max: u64,
    /// Of those, how many may be waiting to be sent or flushed.
    pub dirty_bytes_max: u64,
    /// How long one operation may take in all; `None` waits for ever (`-o hard`).
    pub deadline: Option<Duration>,
    pub detect_zeroes: DetectZeroes,
    /// Runs of extent maps held, all volumes together.
    pub map_runs_max: usize,
    /// What is read through the cache is kept by the kernel, too.
    pub kernel_caches: bool,
}

impl Settings {
    /// The defaults for a budget: half of it may be dirty.
    pub fn new(cache_bytes_max: u64, deadline: Option<Duration>) -> Self {
        Self {
            cache_bytes_max,
            dirty_bytes_max: cache_bytes_max / 2,
            deadline,
            detect_zeroes: DetectZeroes::Off,
            map_runs_max: Division::default().map_runs_max,
            kernel_caches: false,
        }
    }
}

/// Counts the runs of all extent maps against their bound.
#[derive(Debug)]
pub struct MapRuns {
    held: AtomicUsize,
    most: usize,
}

impl MapRuns {
    fn new(most: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            most,
        }
    }

    /// Most of them.
    pub fn most(&self) -> usize {
        self.most
    }

    /// True if `more` would be too many.
    pub(super) fn are_full(&self, more: usize) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(more) > self.most
    }

    /// A map has `now` runs and was counted with `before`.
    pub(super) fn recount(&self, before: usize, now: usize) {
        self.held.fetch_add(now, Ordering::Relaxed);
        self.held.fetch_sub(before, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub struct Shared<R: Remote> {
    pub remote: R,
    pub cache: BlockCache,
    /// Room for what is not flushed yet, inside the budget of the cache.
    pub dirty: Budget,
    pub counters: Counters,
    pub notices: Notices,
    /// Operations that wait for the server.
    pub waiting: Waiting,
    pub deadline: Option<Duration>,
    pub detect_zeroes: DetectZeroes,
    /// See [`Settings::kernel_caches`].
    pub(super) kernel_caches: bool,
    /// Runs of the extent maps of all volumes.
    pub map_runs: MapRuns,
    /// Pages that reads which wait may pin at once: half of the budget. What a read has gathered stays
    /// pinned while it waits for the rest, so without this bound many reads could hold all of the budget
    /// and wait for each other.
    admitted: Semaphore,
    admitted_pages_max: u32,
    pub(super) keys: AtomicU64,
    /// No more writes are taken in: what is there is being saved for the last time.
    closing: AtomicBool,
    /// Kept alive until the server has flushed all of it, whether or not the kernel still knows them.
    unsettled: Mutex<HashMap<CacheKey, Arc<Volume<R>>>>,
    lost: Mutex<BTreeSet<NodePath>>,
    pub rescue: Arc<Rescue>,
    refused_opens: Mutex<BTreeMap<NodePath, String>>,
}

/// Volumes kept that could not be opened because another client writes to them.
const REFUSED_OPENS_MAX: usize = 16;
/// Names kept of volumes of which data was lost.
const LOST_NAMES_MAX: usize = 16;

impl<R: Remote> Shared<R> {
    pub fn new(remote: R, settings: Settings) -> Self {
        let cache_bytes_max = settings.cache_bytes_max;
        let admitted_pages_max = u32::try_from(cache_bytes_max / PAGE_BYTES / 2)
            .unwrap_or(u32::MAX)
            .max(1);
        let permits = usize::try_from(admitted_pages_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            remote,
            cache: BlockCache::new(cache_bytes_max),
            dirty: Budget::new(settings.dirty_bytes_max),
            admitted: Semaphore::new(permits.min(Semaphore::MAX_PERMITS)),
            admitted_pages_max,
            counters: Counters::default(),
            notices: Notices::default(),
            waiting: Waiting::default(),
            deadline: settings.deadline,
            detect_zeroes: settings.detect_zeroes,
            kernel_caches: settings.kernel_caches,
            map_runs: MapRuns::new(settings.map_runs_max),
            keys: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            unsettled: Mutex::default(),
            lost: Mutex::default(),
            rescue: Arc::default(),
            refused_opens: Mutex::default(),
        }
    }

    /// Takes in no more writes: they could not be saved any more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until a read of `bytes` may pin what it gathers.
    pub(super) async fn admit(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        // Whole pages, and one more at either end.
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES) + 2).unwrap_or(u32::MAX);
        let permit = self
            .admitted
            .acquire_many(pages.min(self.admitted_pages_max))
            .await;
        permit.map_err(|_| Error::new(ErrorKind::Internal, "the mount has ended"))
    }

    /// Ends an operation that takes too long. It is noted as one that waits when it has for a while.
    pub async fn within_deadline<'a, T>(
        &self,
        what: impl Into<Operation<'a>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (what, begun) = (what.into(), Instant::now());
        let noted_after = self
            .deadline
            .map_or(NOTED_AFTER, |deadline| deadline.min(NOTED_AFTER));
        let mut work = pin!(work);
        if let Ok(result) = tokio::time::timeout(noted_after, &mut work).await {
            return result;
        }
        let _noted = self.waiting.note(&what, begun);
        match self.deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout(deadline.saturating_sub(noted_after), work)
                .await
                .unwrap_or_else(|_| Err(too_late(&what, deadline))),
        }
    }

    /// Ends an operation during which nothing was sent any more for too long.
    pub async fn while_it_goes_on<'a, T>(
        &self,
        what: impl Into<Operation<'a>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.while_it_goes_on_within(self.deadline, what, work).await
    }

    /// The same with another deadline than that of the mount.
    pub async fn while_it_goes_on_within<'a, T>(
        &self,
        deadline: Option<Duration>,
        what: impl Into<Operation<'a>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (what, begun) = (what.into(), Instant::now());
        let mut noted = None;
        let mut work = pin!(work);
        let (mut sent, mut moved) = (self.counters.sent_bytes.value(), begun);
        loop {
            let patience = deadline.map_or(NOTED_AFTER, |deadline| {
                deadline.saturating_sub(moved.elapsed()).min(NOTED_AFTER)
            });
            if let Ok(result) = tokio::time::timeout(patience, &mut work).await {
                return result;
            }
            let sent_now = self.counters.sent_bytes.value();
            if sent_now != sent {
                (sent, moved) = (sent_now, Instant::now());
            } else if let Some(deadline) = deadline.filter(|deadline| moved.elapsed() >= *deadline) {
                return Err(too_late(&what, deadline));
            }
            noted.get_or_insert_with(|| self.waiting.note(&what, begun));
        }
    }

    /// Room for `bytes` of dirty data, if there is some right now.
    pub(super) fn dirty_share(&self, bytes: u64) -> Option<DirtyShare> {
        let dirty = self.dirty.try_take(bytes)?;
        let budget = self.cache.try_reserve(bytes)?;
        Some(DirtyShare::new(dirty, budget))
    }

    /// More than half of what may be dirty is.
    pub(super) fn is_half_dirty(&self) -> bool {
        self.dirty.bytes() > self.dirty.bytes_max() / 2
    }

    /// The volume has something to send or to flush.
    pub(super) fn unsettle(&self, volume: &Arc<Volume<R>>) {
        self.unsettled.lock().insert(volume.key, Arc::clone(volume));
    }

    /// All of it is flushed.
    pub(super) fn settle(&self, volume: &Arc<Volume<R>>) {
        let removed = self.unsettled.lock().remove(&volume.key);
        drop(removed);
    }

    /// A volume that the kernel may have forgotten, and we cannot yet.
    pub fn unsettled(&self, id: NodeId, birth_ns: u64) -> Option<Arc<Volume<R>>> {
        let unsettled = self.unsettled.lock();
        let same = |volume: &&Arc<Volume<R>>| volume.id == id && volume.birth_ns == birth_ns;
        unsettled.values().find(same).cloned()
    }

    /// All volumes with something the server has not flushed.
    pub fn all_unsettled(&self) -> Vec<Arc<Volume<R>>> {
        self.unsettled.lock().values().cloned().collect()
    }

    /// Data of this volume could not be saved.
    pub(super) fn note_lost(&self, path: NodePath) {
        let mut lost = self.lost.lock();
        if lost.len() < LOST_NAMES_MAX {
            lost.insert(path);
        }
    }

    /// Volumes of which data was lost: the first ones.
    pub fn lost(&self) -> Vec<NodePath> {
        self.lost.lock().iter().cloned().collect()
    }

    /// Keeps what another client's writing made impossible to save. Call it within the runtime.
    pub(super) fn rescue(&self, salvage: Salvage) {
        self.rescue.keep(salvage);
    }

    /// Takes note of an open that was refused because another client writes; the log names that one, once.
    pub fn note_opened<T>(&self, path: &NodePath, opened: Result<T>) -> Result<T> {
        let mut refused = self.refused_opens.lock();
        match &opened {
            Err(error) if error.kind() == ErrorKind::Busy => {
                if refused.len() >= REFUSED_OPENS_MAX && !refused.contains_key(path) {
                    refused.pop_first();
                }
                if refused.insert(path.clone(), error.to_string()).is_none() {
                    tracing::warn!(volume = %path, %error, "cannot be opened for writing");
                }
            }
            Ok(_) => drop(refused.remove(path)),
            Err(_) => {}
        }
        opened
    }

    /// Volumes that could not be opened for writing when that was tried last, and who writes to them.
    pub fn refused_opens(&self) -> Vec<(NodePath, String)> {
        let refused = self.refused_opens.lock();
        refused
            .iter()
            .map(|(path, why)| (path.clone(), why.clone()))
            .collect()
    }

    /// Bytes that the server has not flushed.
    pub fn dirty_bytes(&self) -> u64 {
        let volumes = self.all_unsettled();
        volumes.iter().map(|volume| volume.unflushed_bytes()).sum()
    }
}

fn too_late(what: &Operation<'_>, deadline: Duration) -> Error {
    let text = format!("{what}: no answer within {} s (-o timeout=)", deadline.as_secs());
    Error::new(ErrorKind::TimedOut, text)
}
