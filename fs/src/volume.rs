//! One volume of the mount: its attributes, its map, what is being fetched for it.
//!
//! Owns the volume's state behind one lock, held for look-ups only, never across IO or a copy of data.
//! Lock order: `Volume::state`, then `Volume::bound` or the cache's own lock.
//!
//! Invariants:
//! * map, attributes and cached data belong to one generation; when the server names another one, what
//!   is known of the changed range is dropped before anything new is taken in;
//! * no two fetches of one byte are under way at once (`flight`), but after a change: what was asked for
//!   before it is never cached after it;
//! * a hole or zero is read without a request.
//!
//! The parts: `read` (plan and gather), `flight` (fetch and share), `map` (fetch and seek).

pub mod flight;
pub mod map;
pub mod notices;
pub mod read;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::Generation;
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::flight::Flight;
use self::notices::Notices;
use crate::cache::{BlockCache, CacheKey, PAGE_BYTES};
use crate::counters::Counters;
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::ExtentMap;
use crate::remote::{Remote, SharedPath};

/// Fetches of one volume at once: half of the lanes.
const FETCHES_MAX: usize = 32;

/// What all volumes of a mount share.
#[derive(Debug)]
pub struct Shared<R> {
    pub remote: R,
    pub cache: BlockCache,
    pub counters: Counters,
    pub notices: Notices,
    /// How long one operation may take in all; `None` waits for ever (`-o hard`).
    pub deadline: Option<Duration>,
    /// Pages that reads which wait may pin at once: half of the budget. What a read has gathered stays
    /// pinned while it waits for the rest, so without this bound many reads could hold all of the budget
    /// and wait for each other.
    admitted: Semaphore,
    admitted_pages_max: u32,
    keys: AtomicU64,
}

impl<R> Shared<R> {
    pub fn new(remote: R, cache_bytes_max: u64, deadline: Option<Duration>) -> Self {
        let admitted_pages_max = u32::try_from(cache_bytes_max / PAGE_BYTES / 2)
            .unwrap_or(u32::MAX)
            .max(1);
        let permits = usize::try_from(admitted_pages_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            remote,
            cache: BlockCache::new(cache_bytes_max),
            admitted: Semaphore::new(permits.min(Semaphore::MAX_PERMITS)),
            admitted_pages_max,
            counters: Counters::default(),
            notices: Notices::default(),
            deadline,
            keys: AtomicU64::new(0),
        }
    }

    /// Waits until a read of `bytes` may pin what it gathers.
    async fn admit(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        // Whole pages, and one more at either end.
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES) + 2).unwrap_or(u32::MAX);
        let permit = self
            .admitted
            .acquire_many(pages.min(self.admitted_pages_max))
            .await;
        permit.map_err(|_| Error::new(ErrorKind::Internal, "the mount has ended"))
    }

    /// Ends an operation that takes too long.
    pub async fn within_deadline<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
                let text = format!("{what}: no answer within {} s (-o timeout=)", deadline.as_secs());
                Err(Error::new(ErrorKind::TimedOut, text))
            }),
        }
    }
}

#[derive(Debug)]
struct State {
    attr: Attr,
    map: ExtentMap,
    flights: Vec<Arc<Flight>>,
    opens: u64,
    /// Opens under way: while there are any, the volume stays bound.
    opening: u64,
    /// The server tells of changes since these attributes: an answer of an older generation was overtaken
    /// on its way. Not so while closed, or after a reconnect until the volume was looked at again.
    followed: bool,
    /// The generation whose pages the kernel may hold.
    kernel_generation: Option<Generation>,
}

pub struct Volume<R: Remote> {
    path: SharedPath,
    key: CacheKey,
    shared: Arc<Shared<R>>,
    state: Mutex<State>,
    /// The volume as opened at the server, while anyone has it open here.
    bound: Mutex<Option<Arc<R::Volume>>>,
    /// Held while opening, so that two first opens make one handle.
    opening: tokio::sync::Mutex<()>,
    /// Fetches of this volume under way: one that hangs at the server leaves lanes to the others.
    fetches: Semaphore,
    /// Held while a single page of the map is fetched.
    map_fetch: tokio::sync::Mutex<()>,
}

impl<R: Remote> std::fmt::Debug for Volume<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What an open found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOutcome {
    /// The kernel's cached pages are still those of the volume.
    pub keep_cache: bool,
}

impl<R: Remote> Volume<R> {
    /// A volume that nobody has open yet.
    pub fn new(shared: Arc<Shared<R>>, path: NodePath, attr: Attr) -> Self {
        debug_assert_eq!(attr.kind, NodeKind::Volume);
        let key = CacheKey(shared.keys.fetch_add(1, Ordering::Relaxed));
        let map = ExtentMap::new(attr.size);
        let state = State {
            attr,
            map,
            flights: Vec::new(),
            opens: 0,
            opening: 0,
            followed: false,
            kernel_generation: None,
        };
        Self {
            path: SharedPath::new(path),
            key,
            shared,
            state: Mutex::new(state),
            bound: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            fetches: Semaphore::new(FETCHES_MAX),
            map_fetch: tokio::sync::Mutex::new(()),
        }
    }

    pub fn attr(&self) -> Attr {
        self.state.lock().attr
    }

    /// Attributes kept true by events: only while the volume is open and followed.
    pub fn attr_if_followed(&self) -> Option<Attr> {
        let state = self.state.lock();
        (state.opens > 0 && state.followed).then_some(state.attr)
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().opens > 0
    }

    /// There is a new session: events may have been missed, and its numbers may be lower.
    pub fn unfollow(&self) {
        self.state.lock().followed = false;
    }

    pub fn path(&self) -> NodePath {
        self.path.path()
    }

    /// The volume was found under another name.
    pub fn set_path(&self, path: NodePath) {
        self.path.set(path);
    }

    /// Runs of the map held in memory.
    pub fn map_runs(&self) -> usize {
        self.state.lock().map.runs_held()
    }

    /// Opens once more. Asks the server each time: what changed behind our back is noticed here.
    pub async fn open(self: &Arc<Self>) -> Result<OpenOutcome> {
        let _under_way = Opening::begin(self);
        let opening = self.opening.lock().await;
        let path = self.path();
        let id = self.attr().id;
        let attr = if self.bound.lock().is_some() {
            self.shared.remote.stat(&path).await?
        } else {
            let (volume, attr) = self.shared.remote.open(&self.path, id).await?;
            *self.bound.lock() = Some(Arc::new(volume));
            attr
        };
        if attr.id != id {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{path} was replaced at the server"),
            ));
        }
        self.update(attr, ByteRange::ALL);
        let (outcome, incomplete) = {
            let mut state = self.state.lock();
            state.opens += 1;
            state.followed = true;
            let keep_cache = state.kernel_generation == Some(state.attr.generation);
            state.kernel_generation = Some(state.attr.generation);
            (OpenOutcome { keep_cache }, state.map.first_unknown(0).is_some())
        };
        drop(opening);
        if incomplete {
            self.start_loading_map();
        }
        Ok(outcome)
    }

    /// Closes once. After the last one the map and the cached data stay, for the next open.
    pub fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.opens = state.opens.saturating_sub(1);
        let last = state.opens == 0;
        drop(state);
        if last {
            self.unbind_if_idle();
        }
        last
    }

    /// Drops the map of a closed volume.
    pub fn forget_map(&self) {
        let mut state = self.state.lock();
        if state.opens == 0 {
            state.map = ExtentMap::new(state.attr.size);
        }
    }

    /// Takes in attributes from the server. If they are of another generation, what is known of `range`
    /// is dropped and the kernel told.
    pub fn update(&self, attr: Attr, range: ByteRange) {
        let mut state = self.state.lock();
        if state.followed && attr.generation < state.attr.generation {
            return;
        }
        let changed = attr.generation != state.attr.generation;
        let resized = attr.size != state.attr.size;
        state.attr = attr;
        if !changed && !resized {
            return;
        }
        let range = if resized { ByteRange::ALL } else { range };
        if range == ByteRange::ALL {
            state.map = ExtentMap::new(attr.size);
        } else {
            state.map.forget(range);
        }
        state.flights.retain(|flight| !flight.go_stale(range));
        self.shared.cache.remove(self.key, range);
        tracing::debug!(volume = %self.path, generation = attr.generation.0, %range, "changed at the server");
        // The kernel may still hold pages and attributes, also of a volume that nobody has open. It is told
        // on another thread: an open that comes first must not keep its pages, so `kernel_generation`
        // stays what it was.
        drop(state);
        self.shared.notices.post(attr.id);
    }

    /// Looks at the open volume again, whatever became of its name, and takes in what changed.
    pub async fn resync(&self) -> Result<()> {
        let attr = self.shared.remote.stat_open(&*self.bound()?).await?;
        self.update(attr, ByteRange::ALL);
        self.state.lock().followed = true;
        Ok(())
    }

    fn bound(&self) -> Result<Arc<R::Volume>> {
        let bound = self.bound.lock().clone();
        bound.ok_or_else(|| Error::new(ErrorKind::Stale, format!("{} is not open", self.path())))
    }

    /// Lets go of the server's handle once nobody has the volume open or is about to. Checked and done
    /// under the lock, so that an open that comes meanwhile makes a new one.
    fn unbind_if_idle(&self) {
        let mut state = self.state.lock();
        let mut unbound = None;
        if state.opens == 0 && state.opening == 0 {
            state.followed = false;
            unbound = self.bound.lock().take();
        }
        drop(state);
        drop(unbound);
    }
}

/// An open under way, also one that is given up.
struct Opening<'a, R: Remote>(&'a Volume<R>);

impl<'a, R: Remote> Opening<'a, R> {
    fn begin(volume: &'a Volume<R>) -> Self {
        volume.state.lock().opening += 1;
        Self(volume)
    }
}

impl<R: Remote> Drop for Opening<'_, R> {
    fn drop(&mut self) {
        self.0.state.lock().opening -= 1;
        self.0.unbind_if_idle();
    }
}

impl<R: Remote> Drop for Volume<R> {
    fn drop(&mut self) {
        self.shared.cache.remove(self.key, ByteRange::ALL);
    }
}

#[cfg(test)]
mod tests;
