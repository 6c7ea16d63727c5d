//! One volume of the mount: its attributes, its map, what is being fetched for it, what is to be sent.
//!
//! Owns the volume's state behind one lock, held for look-ups and copies into memory, never across IO.
//! Lock order: `Volume::state`, then `Volume::bound` or the cache's own lock.
//!
//! Invariants:
//! * map, attributes and cached data belong to one base (the latest content somebody else made) and what
//!   this client changed since; when the server names another base, what is known of the changed range is
//!   dropped before anything new is taken in, but never what this client still has to send;
//! * no two fetches of one byte are under way at once (`flight`), but after a change: what was asked for
//!   before it is never cached after it;
//! * a hole or zero is read without a request;
//! * what was acknowledged stays in the overlay until it is flushed at the server.
//!
//! The parts: `read` (plan and gather), `flight` (fetch and share), `map` (fetch and seek), `write` and `void`
//! (take in), `write_back` (send and flush), `refused` (what the server never takes), `lease` (when another may write),
//! `reshape` (changes that wait for the server).

pub mod flight;
pub mod lease;
pub mod map;
pub mod notices;
pub mod read;
mod refused;
pub mod reshape;
pub mod shared;
mod unflushed;
mod unsettled;
mod void;
pub mod waiting;
pub mod write;
pub mod write_back;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::id::{BootId, Generation, NodeId};
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use self::flight::{Flight, Landing};
use self::shared::MapRuns;
pub use self::shared::Shared;
use self::void::Carried;
use self::write_back::WriteBack;
use crate::cache::CacheKey;
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::ExtentMap;
use crate::overlay::Content;
use crate::remote::{Access, Remote, SharedPath};
use crate::run_map::RunMap;

/// Fetches of one volume at once: half of the lanes.
const FETCHES_MAX: usize = 32;

#[derive(Debug)]
struct State {
    /// As this client sees it: with what it has not sent yet.
    attr: Attr,
    /// What the map and the cached data follow from, see [`Attr::base`].
    base: Generation,
    /// The run of the server that told of the base.
    base_run: Option<BootId>,
    map: ExtentMap,
    /// Its runs when the runs of all maps were counted last.
    map_runs_counted: usize,
    /// Pages of the map on their way, and what this client changed meanwhile.
    map_fetches: usize,
    changed_meanwhile: RunMap<bool>,
    flights: Vec<Arc<Flight>>,
    opens: u64,
    /// Of those, how many may write.
    writers: u64,
    /// Opens under way: while there are any, the volume stays bound.
    opening: u64,
    /// The server tells of changes since these attributes: an answer of an older generation was overtaken
    /// on its way. Not so while closed, or after a reconnect until the volume was looked at again.
    followed: bool,
    /// While not followed: a change of ours was answered since, so what the server says may be older than that.
    heard: bool,
    /// The base whose pages the kernel may hold.
    kernel_base: Option<Generation>,
    back: WriteBack,
    /// Space that holes will free which the server has not made yet: its attributes still count it.
    freed_bytes: u64,
    carried: Carried,
    /// How often the write lease was lost to another client: see `lease`.
    fences: u64,
    /// The server asked for the lease, and was not answered yet.
    recalled: bool,
    /// A descriptor that may write was closed last.
    closed_at: Option<Instant>,
}

pub struct Volume<R: Remote> {
    path: SharedPath,
    id: NodeId,
    birth_ns: u64,
    key: CacheKey,
    shared: Arc<Shared<R>>,
    state: Mutex<State>,
    /// The volume as opened at the server, while anyone has it open here or something is to be sent.
    bound: Mutex<Option<Bound<R>>>,
    /// Held while opening, so that two first opens make one handle.
    opening: tokio::sync::Mutex<()>,
    /// Fetches of this volume under way: one that hangs at the server leaves lanes to the others.
    fetches: Semaphore,
    /// Flights that were started and did not land.
    aloft: AtomicUsize,
    /// Small flights that leave together in a moment.
    leaving: Mutex<Vec<Landing<R>>>,
    /// Held while a single page of the map is fetched.
    map_fetch: tokio::sync::Mutex<()>,
    /// Writes pass together; a change that waits for the server passes alone.
    gate: tokio::sync::RwLock<()>,
    /// Held while a new run of the server is brought up to date.
    settling: tokio::sync::Mutex<()>,
    /// Something to send, or to try again, for the task that sends.
    arrived: Notify,
    /// A batch was answered or failed, or another change is not under way any more.
    progress: Notify,
}

struct Bound<R: Remote> {
    volume: Arc<R::Volume>,
    access: Access,
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
    /// Errors of background writes so far: those are not this handle's.
    pub failures: u64,
    /// How often the volume has been fenced so far.
    pub fences: u64,
}

/// Who says what the attributes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The answer to a question.
    Answer,
    /// The server on its own: somebody else changed this range.
    Event(ByteRange),
}

impl State {
    /// Takes over attributes that are newer, but for what this client has changed and not sent.
    fn adopt(&mut self, attr: Attr) {
        let mut next = attr;
        if self.attr.links == 0 {
            // We took its name away: an answer from before does not give it back.
            next.links = 0;
        }
        self.back.has_grown_to(attr.size);
        let overlay = &self.back.overlay;
        if let Some(size) = self.back.grown_to() {
            next.size = attr.size.max(size);
        }
        if overlay.has_unsent() {
            next.size = next.size.max(overlay.unsent_end());
            let unfreed = attr.allocated_bytes.saturating_sub(self.freed_bytes);
            next.allocated_bytes = unfreed.max(self.attr.allocated_bytes);
            next.modified = attr.modified.max(self.attr.modified);
            next.changed = attr.changed.max(self.attr.changed);
        } else {
            self.freed_bytes = 0;
        }
        // What is sent again moves the time that was set; the next flush sets it again.
        next.modified = self.back.modified_behind().unwrap_or(next.modified);
        if next.size != self.map.size() {
            self.map.resize(next.size);
        }
        self.attr = next;
    }

    /// Shows in the map what the overlay holds of `range`: what the server says may be older.
    fn overlay_on_map(&mut self, range: ByteRange) {
        for (part, content) in self.back.overlay.pieces(range) {
            match content {
                Some(Content::Data(_)) => self.map.mark_data(part),
                Some(Content::Zero) => self.map.mark_zero(part),
                Some(Content::Hole) => self.map.mark_hole(part),
                None => {}
            }
        }
    }

    /// Counts the runs of the map with those of all others.
    fn count_map(&mut self, all: &MapRuns) {
        let now = self.map.runs_held();
        all.recount(std::mem::replace(&mut self.map_runs_counted, now), now);
    }

    /// This client changed `range` of the map.
    fn note_map_change(&mut self, range: ByteRange) {
        if self.map_fetches > 0 {
            self.changed_meanwhile.set(range, true);
        }
    }
}

impl<R: Remote> Volume<R> {
    /// A volume that nobody has open yet.
    pub fn new(shared: Arc<Shared<R>>, path: NodePath, attr: Attr) -> Self {
        debug_assert_eq!(attr.kind, NodeKind::Volume);
        let key = CacheKey(shared.keys.fetch_add(1, Ordering::Relaxed));
        let state = State {
            attr,
            base: attr.base,
            base_run: shared.remote.boot_now(),
            map: ExtentMap::new(attr.size),
            map_runs_counted: 0,
            map_fetches: 0,
            changed_meanwhile: RunMap::new(false),
            flights: Vec::new(),
            opens: 0,
            writers: 0,
            opening: 0,
            followed: false,
            heard: false,
            kernel_base: None,
            back: WriteBack::default(),
            freed_bytes: 0,
            carried: Carried::default(),
            fences: 0,
            recalled: false,
            closed_at: None,
        };
        Self {
            path: SharedPath::new(path),
            id: attr.id,
            birth_ns: attr.birth_ns,
            key,
            shared,
            state: Mutex::new(state),
            bound: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            fetches: Semaphore::new(FETCHES_MAX),
            aloft: AtomicUsize::new(0),
            leaving: Mutex::default(),
            map_fetch: tokio::sync::Mutex::new(()),
            gate: tokio::sync::RwLock::new(()),
            settling: tokio::sync::Mutex::new(()),
            arrived: Notify::new(),
            progress: Notify::new(),
        }
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    pub fn attr(&self) -> Attr {
        self.state.lock().attr
    }

    /// Attributes kept true by events: only while the volume is open and followed, or has changes that the
    /// server does not know.
    pub fn attr_if_followed(&self) -> Option<Attr> {
        let state = self.state.lock();
        let back = &state.back;
        let ahead =
            back.overlay.has_unsent() || back.grown_to().is_some() || back.modified_behind().is_some();
        (ahead || (state.opens > 0 && state.followed)).then_some(state.attr)
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().opens > 0
    }

    /// True while a handle that may write is open: pages may be dirtied through a mapping.
    pub fn has_writers(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// True while the server tells of changes since what is known.
    pub fn is_followed(&self) -> bool {
        self.state.lock().followed
    }

    /// True if it was not looked at since a reconnect, and the server can be asked.
    pub fn is_due(&self) -> bool {
        let state = self.state.lock();
        self.is_due_in(&state)
    }

    fn is_due_in(&self, state: &State) -> bool {
        !state.followed && state.opens > 0 && self.shared.remote.is_reachable()
    }

    /// There is a new session: events may have been missed, and its numbers may be lower.
    pub fn unfollow(&self) {
        let mut state = self.state.lock();
        (state.followed, state.heard) = (false, false);
    }

    pub fn path(&self) -> NodePath {
        self.path.path()
    }

    /// The volume was found under another name.
    pub fn set_path(&self, path: NodePath) {
        self.path.set(path);
    }

    /// Its name was taken away; who has it open goes on.
    pub fn unlinked(&self) {
        let mut state = self.state.lock();
        state.attr.links = state.attr.links.saturating_sub(1);
        if state.attr.links == 0 {
            self.path.take_away();
        }
    }

    /// Runs of the map held in memory.
    pub fn map_runs(&self) -> usize {
        self.state.lock().map.runs_held()
    }

    /// Opens once more. Asks the server each time: what changed behind our back is noticed here. `Stale` if the name is
    /// gone there, or another volume's: the kernel then looks the name up again.
    pub async fn open(self: &Arc<Self>, access: Access) -> Result<OpenOutcome> {
        let _under_way = Opening::begin(self);
        let opening = self.opening.lock().await;
        let path = self.path();
        let enough = |bound: &Bound<R>| bound.access == access || bound.access == Access::ReadWrite;
        let bound = self.bound.lock().as_ref().is_some_and(enough);
        let gone = |error: Error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::Stale, error.to_string()),
            _ => error,
        };
        // What was removed at the server may still be found by its name for a moment, and is not what is meant then.
        let attr = if bound && self.attr().links == 0 && !self.path.is_named() {
            // Opened again without a name, through /proc.
            self.shared.remote.stat_open(&*self.bound()?).await?
        } else if bound {
            self.shared.remote.stat(&path).await.map_err(gone)?
        } else {
            let opened = self.shared.remote.open(&self.path, self.id, access).await;
            let (volume, attr) = self.shared.note_opened(&path, opened).map_err(gone)?;
            self.bind(volume, access);
            attr
        };
        if attr.id != self.id {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{path} was replaced at the server"),
            ));
        }
        let outcome = self.opened(attr, access);
        drop(opening);
        Ok(outcome)
    }

    /// Opens once more for reading while the server cannot be asked, if it is open here already: what is known of
    /// it is served.
    pub fn open_known(&self, access: Access) -> Option<OpenOutcome> {
        let mut state = self.state.lock();
        if access != Access::Read || state.opens == 0 || self.bound.lock().is_none() {
            return None;
        }
        state.opens += 1;
        Some(OpenOutcome {
            keep_cache: state.kernel_base == Some(state.base),
            failures: state.back.failures(),
            fences: state.fences,
        })
    }

    /// The volume was made and opened by one request.
    pub fn created(self: &Arc<Self>, mut volume: R::Volume, attr: Attr) -> OpenOutcome {
        let _under_way = Opening::begin(self);
        R::follow_path(&mut volume, &self.path);
        self.bind(volume, Access::ReadWrite);
        self.opened(attr, Access::ReadWrite)
    }

    fn bind(&self, volume: R::Volume, access: Access) {
        let volume = Arc::new(volume);
        let before = self.bound.lock().replace(Bound { volume, access });
        drop(before);
    }

    fn opened(self: &Arc<Self>, attr: Attr, access: Access) -> OpenOutcome {
        self.update(attr);
        let mut state = self.state.lock();
        state.opens += 1;
        state.writers += u64::from(access == Access::ReadWrite);
        state.followed = true;
        let keep_cache = state.kernel_base == Some(state.base);
        state.kernel_base = Some(state.base);
        let (failures, fences) = (state.back.failures(), state.fences);
        let incomplete = state.map.first_unknown(0).is_some();
        drop(state);
        if incomplete {
            self.start_loading_map();
        }
        OpenOutcome {
            keep_cache,
            failures,
            fences,
        }
    }

    /// Closes once. After the last one the map and the cached data stay, for the next open.
    pub fn close(&self, access: Access) -> bool {
        let mut state = self.state.lock();
        state.opens = state.opens.saturating_sub(1);
        if access == Access::ReadWrite {
            state.writers = state.writers.saturating_sub(1);
        }
        let last = state.opens == 0;
        drop(state);
        // A lease that was asked for waits for it.
        self.progress.notify_waiters();
        if last {
            self.unbind_if_idle();
        }
        last
    }

    /// Runs that the maps of all volumes may hold.
    pub fn map_runs_most(&self) -> usize {
        self.shared.map_runs.most()
    }

    /// Drops the map of a closed volume.
    pub fn forget_map(&self) {
        let mut state = self.state.lock();
        if state.opens == 0 && state.back.overlay.is_empty() {
            state.map = ExtentMap::new(state.attr.size);
        }
        state.count_map(&self.shared.map_runs);
    }

    /// Takes in attributes that were asked for.
    pub fn update(&self, attr: Attr) {
        self.take_in(attr, Told::Answer);
    }

    /// Somebody else changed `range`.
    pub fn changed(&self, attr: Attr, range: ByteRange) {
        self.take_in(attr, Told::Event(range));
    }

    /// Takes in attributes from the server. If somebody else changed the volume, what is known of the changed
    /// range is dropped and the kernel told.
    fn take_in(&self, attr: Attr, told: Told) {
        let run = self.shared.remote.boot_now();
        let mut state = self.state.lock();
        if state.back.is_ahead_of(run) {
            // Another run of the server, which has not got again what it may have lost: we know better.
            return;
        }
        // Its base is our own latest change: nobody else's came since.
        let ours = attr.base == state.attr.generation && state.attr.base == state.base;
        let (foreign, range, theirs) = match told {
            Told::Answer if state.followed && attr.base < state.base => return,
            Told::Answer if state.followed => {
                (attr.base != state.base && !ours, ByteRange::ALL, ByteRange::ALL)
            }
            // The first look in a session: what seems to be somebody else's may be ours, if the answer was lost. So
            // what the server has of ours stays until it is flushed.
            Told::Answer => (attr.base != state.base && !ours, ByteRange::ALL, ByteRange::EMPTY),
            Told::Event(range) if state.followed => (attr.base > state.base, range, range),
            // Others before it may have been missed.
            Told::Event(range) => (true, ByteRange::ALL, range),
        };
        // An event says how the volume was when it came to this generation, an answer how it is at it.
        let newer = match told {
            _ if !state.followed && !state.heard => true,
            Told::Answer => attr.generation >= state.attr.generation,
            Told::Event(_) => attr.generation > state.attr.generation,
        };
        if !foreign {
            if attr.base != state.base && ours {
                if state.kernel_base == Some(state.base) {
                    state.kernel_base = Some(attr.base);
                }
                state.base = attr.base;
                state.base_run = run;
            }
            if newer {
                state.adopt(attr);
            }
            return;
        }
        state.back.note_other();
        // An event may come after answers to changes that we made since.
        let size = if newer { attr.size } else { state.attr.size };
        let resized = size != state.attr.size;
        let (range, theirs) = match resized {
            true if theirs.is_empty() => (ByteRange::ALL, beyond(size)),
            true => (ByteRange::ALL, ByteRange::ALL),
            false => (range, theirs),
        };
        if range.is_empty() && state.kernel_base == Some(state.base) {
            // Only names or attributes: the pages are still good.
            state.kernel_base = Some(attr.base);
        }
        state.base = attr.base;
        if state.base_run == run {
            // What the server had of ours came before; what it has not comes after. Of another run nobody
            // knows if it is what somebody changed, or what a crash left: there ours is kept, and sent again
            // after the next crash.
            state.back.overlay.cut_applied(theirs);
        }
        state.base_run = run;
        if range == ByteRange::ALL {
            state.map = ExtentMap::new(size);
        } else {
            // What was written into a hole took whole blocks of it.
            state.map.forget(range.align_out(crate::extent_map::BLOCK_BYTES));
        }
        if newer {
            state.adopt(attr);
        }
        debug_assert_eq!(state.map.size(), state.attr.size);
        state.overlay_on_map(ByteRange::ALL);
        state.flights.retain(|flight| !flight.go_stale(range));
        self.shared.cache.remove(self.key, range);
        tracing::debug!(volume = %self.path, base = attr.base.0, %range, "changed at the server");
        // The kernel may still hold pages and attributes, also of a volume that nobody has open. It is told
        // on another thread: an open that comes first must not keep its pages, so `kernel_base` stays what
        // it was.
        drop(state);
        self.shared.notices.post(attr.id);
    }

    /// Looks at the open volume again, whatever became of its name, and takes in what changed.
    pub async fn resync(self: &Arc<Self>) -> Result<()> {
        self.settle().await?;
        let bound = self.bound()?;
        let attr = self.shared.remote.stat_open(&bound).await?;
        self.heed_look(&bound);
        self.update(attr);
        self.state.lock().followed = true;
        Ok(())
    }

    /// The largest size it can have.
    fn size_max(&self) -> u64 {
        self.bound().map_or(VOLUME_BYTES_MAX, |bound| R::size_max(&bound))
    }

    pub(crate) fn bound(&self) -> Result<Arc<R::Volume>> {
        let bound = self.bound.lock().as_ref().map(|bound| Arc::clone(&bound.volume));
        bound.ok_or_else(|| Error::new(ErrorKind::Stale, format!("{} is not open", self.path())))
    }

    /// Lets go of the server's handle once nobody has the volume open or is about to, and nothing is left to
    /// send. Checked and done under the lock, so that an open that comes meanwhile makes a new one.
    fn unbind_if_idle(&self) {
        let mut state = self.state.lock();
        let mut unbound = None;
        if state.opens == 0 && state.opening == 0 && !state.back.is_unsettled() {
            (state.followed, state.heard) = (false, false);
            unbound = self.bound.lock().take();
        }
        drop(state);
        drop(unbound);
    }
}

fn beyond(size: u64) -> ByteRange {
    ByteRange::ALL.split_at(size).1
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
        let counted = self.state.get_mut().map_runs_counted;
        self.shared.map_runs.recount(counted, 0);
    }
}

#[cfg(test)]
mod tests;
