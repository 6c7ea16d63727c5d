//! The mounted file system without FUSE: what the adapter calls, and what tests drive without a mount.
//!
//! The parts: here finding, opening and reading; `changes` to the content of volumes; `locks`; `names`; `known`, what
//! is answered while the server cannot be asked, with the `listings`; `follow`, what goes on beside the calls.
//!
//! Calls named `..._now` answer from what is known and never wait; the others may ask the server, each
//! within the deadline of the mount. Lock order: `namespace` before a volume's state; never the other
//! way, and neither across an await.

pub mod changes;
pub mod follow;
mod known;
pub mod listings;
pub mod locks;
mod names;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lacuna_transport::attr::{Attr, NodeKind, Space};
use lacuna_transport::digest::UnitHash;
use lacuna_transport::extent::Extent;
use lacuna_transport::id::{Handle, NodeId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::changes::Reach;
use self::known::Said;
use self::listings::{Listed, Listings, Names};

use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::Sought;
use crate::namespace::Namespace;
use crate::readahead::Readahead;
use crate::remote::{Access, Change, Remote, UnitRange};
use crate::volume::map::Whence;
use crate::volume::read::{Gathered, ReadNow};
use crate::volume::shared::Settings;
use crate::volume::waiting::Operation;
use crate::volume::{OpenOutcome, Shared, Volume};

/// Runs kept in the maps of volumes that nobody has open; about 20 bytes each.
const IDLE_MAP_RUNS_MAX: usize = 4 << 20;
/// Volumes that nobody has open and whose maps are kept.
const IDLE_MAPS_MAX: usize = 4096;

/// Runs of a map that may be freed on the thread that answers the kernel: less than a millisecond.
const FREED_INLINE_RUNS_MAX: usize = 8192;

/// A number the kernel gives back with each call on an open volume or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenId(pub u64);

/// An open volume.
#[derive(Debug)]
pub struct OpenVolume<R: Remote> {
    volume: Arc<Volume<R>>,
    access: Access,
    readahead: Mutex<Readahead>,
    /// Errors of background writes that this handle has reported, or that came before it.
    failures_seen: AtomicU64,
    /// How often the volume had been fenced when it was opened.
    fences: u64,
    /// Another host has taken a lock that was held through it.
    lock_lost: AtomicBool,
    /// How far its changes have to get; set once it was opened, if not only here.
    reach: OnceLock<Reach>,
}

/// The names of an open folder, as they were when reading it began.
#[derive(Clone, Debug)]
pub struct Listing {
    pub folder: NodeId,
    pub names: Names,
    /// When they were asked for: their attributes are as old.
    pub asked: Instant,
}

#[derive(Debug)]
struct OpenFolder {
    id: NodeId,
    listing: tokio::sync::Mutex<Option<Listing>>,
}

/// Closed volumes whose maps are kept, with the runs of each, and of all.
#[derive(Debug)]
struct IdleMaps<R: Remote> {
    by_age: LruCache<NodeId, (Arc<Volume<R>>, usize)>,
    runs: usize,
}

impl<R: Remote> IdleMaps<R> {
    fn remove(&mut self, id: NodeId) {
        if let Some((_, runs)) = self.by_age.pop(&id) {
            self.runs -= runs;
        }
    }

    /// Adds one and gives back those that must go to keep the bounds.
    fn put(&mut self, volume: &Arc<Volume<R>>) -> Vec<Arc<Volume<R>>> {
        let (id, runs) = (volume.attr().id, volume.map_runs());
        self.remove(id);
        self.by_age.put(id, (Arc::clone(volume), runs));
        self.runs += runs;
        let mut dropped = Vec::new();
        let runs_max = IDLE_MAP_RUNS_MAX.min(volume.map_runs_most() / 2);
        while self.runs > runs_max || self.by_age.len() > IDLE_MAPS_MAX {
            let Some((_, (oldest, runs))) = self.by_age.pop_lru() else {
                break;
            };
            self.runs -= runs;
            dropped.push(oldest);
        }
        dropped
    }
}

/// Frees the map of a volume that nobody has open; a large one not on the thread that answers the kernel.
fn free<R: Remote>(volume: Arc<Volume<R>>) {
    if volume.map_runs() > FREED_INLINE_RUNS_MAX {
        tokio::task::spawn_blocking(move || volume.forget_map());
    } else {
        volume.forget_map();
    }
}

#[derive(Debug)]
pub struct FileSystem<R: Remote> {
    shared: Arc<Shared<R>>,
    namespace: Mutex<Namespace<R>>,
    volumes: Mutex<HashMap<OpenId, Arc<OpenVolume<R>>>>,
    folders: Mutex<HashMap<OpenId, Arc<OpenFolder>>>,
    idle_maps: Mutex<IdleMaps<R>>,
    listings: Mutex<Listings>,
    locks: locks::Locks,
    next_open: AtomicU64,
}

impl<R: Remote> FileSystem<R> {
    /// A file system whose root is the folder `root` of the server.
    pub fn new(remote: R, root: NodePath, settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared::new(remote, settings)),
            namespace: Mutex::new(Namespace::new(root)),
            volumes: Mutex::default(),
            folders: Mutex::default(),
            idle_maps: Mutex::new(IdleMaps {
                by_age: LruCache::unbounded(),
                runs: 0,
            }),
            listings: Mutex::default(),
            locks: locks::Locks::default(),
            next_open: AtomicU64::new(1),
        }
    }

    pub fn shared(&self) -> &Arc<Shared<R>> {
        &self.shared
    }

    /// Finds `name` in a folder; the kernel holds one more reference to it.
    pub async fn lookup(&self, parent: NodeId, name: &NodeName) -> Result<Attr> {
        let path = self.namespace.lock().path(parent)?;
        let path = path
            .join(name)
            .map_err(|error| Error::new(ErrorKind::NameTooLong, error.to_string()))?;
        let found = self.shared.remote.stat(&path);
        let known = || self.known_name(parent, name, &path);
        match self.told_or_known(("lookup", &path), known, found).await {
            Ok(Said::Told(attr)) => {
                self.listings.lock().told(parent, name, Some(&attr));
                self.remember(path, &attr);
                Ok(self.freshest(attr))
            }
            Ok(Said::Known(attr)) => {
                self.remember(path, &attr);
                Ok(self.namespace.lock().known(attr.id).unwrap_or(attr))
            }
            Err(error) => {
                if error.kind() == ErrorKind::NotFound && self.shared.remote.is_reachable() {
                    self.listings.lock().told(parent, name, None);
                    self.namespace.lock().told_gone(&path);
                }
                Err(error)
            }
        }
    }

    /// The kernel dropped references. Call it within the runtime: large maps are freed elsewhere.
    pub fn forget(&self, id: NodeId, lookups: u64) {
        let (path, parent, volume) = {
            let mut namespace = self.namespace.lock();
            let Some((path, volume)) = namespace.forget(id, lookups) else {
                return;
            };
            let parent = namespace.id_at(&path.parent());
            (path, parent, volume)
        };
        let Some(volume) = volume else {
            return;
        };
        if let (Some(parent), Some((_, name))) = (parent, path.split()) {
            self.listings.lock().newer(parent, &name, &volume.attr());
        }
        self.idle_maps.lock().remove(id);
        free(volume);
    }

    /// Attributes of a volume that is open, without asking: events keep them true.
    pub fn attr_now(&self, id: NodeId) -> Option<Attr> {
        self.namespace.lock().volume(id).ok()?.attr_if_followed()
    }

    pub async fn attr(&self, id: NodeId) -> Result<Attr> {
        let (path, open) = {
            let namespace = self.namespace.lock();
            (
                namespace.path(id)?,
                namespace.volume(id).ok().filter(|volume| volume.is_open()),
            )
        };
        let known = || self.namespace.lock().known(id).map(Ok);
        if let Some(volume) = open {
            // Its name may be gone; the handle is not.
            let known = || Some(Ok(volume.attr()));
            let looked = async { volume.resync().await.map(|()| volume.attr()) };
            return Ok(self
                .told_or_known(("getattr", &path), known, looked)
                .await?
                .attr());
        }
        let found = self.shared.remote.stat(&path);
        let attr = match self.told_or_known(("getattr", &path), known, found).await? {
            Said::Known(attr) => return Ok(attr),
            Said::Told(attr) if id == NodeId::ROOT => Attr { id, ..attr },
            Said::Told(attr) => attr,
        };
        if attr.id != id {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{path} was replaced at the server"),
            ));
        }
        self.namespace.lock().told(&attr);
        Ok(self.freshest(attr))
    }

    /// Opens a volume. The answer tells if the kernel's pages of it are still good.
    pub async fn open(&self, id: NodeId, access: Access) -> Result<(OpenId, bool)> {
        let volume = self.namespace.lock().volume(id)?;
        let path = volume.path();
        let known = || volume.open_known(access).map(Ok);
        let opened = self.told_or_known(("open", &path), known, volume.open(access));
        let outcome = opened.await?.value();
        self.shared.notices.delivered(id).await;
        Ok((self.keep_open(volume, access, outcome), outcome.keep_cache))
    }

    fn keep_open(&self, volume: Arc<Volume<R>>, access: Access, outcome: OpenOutcome) -> OpenId {
        self.idle_maps.lock().remove(volume.id());
        let open = self.new_open();
        let (remote, cache_bytes) = (&self.shared.remote, self.shared.cache.bytes_max());
        // One handle leaves the others room in the cache, and other requests room in the window.
        let ahead_bytes_max = (cache_bytes / 4).min(remote.window_bytes() / 8 * 7);
        let opened = OpenVolume {
            volume,
            access,
            readahead: Mutex::new(Readahead::new(ahead_bytes_max, remote.round_trip())),
            failures_seen: AtomicU64::new(outcome.failures),
            fences: outcome.fences,
            lock_lost: AtomicBool::new(false),
            reach: OnceLock::new(),
        };
        self.volumes.lock().insert(open, Arc::new(opened));
        open
    }

    /// Closes a volume; its map and cached data stay for the next open, within bounds.
    pub fn close(&self, open: OpenId) {
        let Some(closed) = self.volumes.lock().remove(&open) else {
            return;
        };
        if !closed.volume.close(closed.access) {
            return;
        }
        closed.volume.discard_if_unlinked();
        let dropped = self.idle_maps.lock().put(&closed.volume);
        for volume in dropped {
            free(volume);
        }
    }

    /// Reads what needs no waiting. Call it within the runtime: it starts prefetches.
    pub fn read_now(&self, open: OpenId, wanted: ByteRange) -> Result<ReadNow> {
        let open = self.open_volume(open)?;
        open.check_locks()?;
        Ok(open.volume.read_now(&open.readahead, wanted))
    }

    pub async fn read(&self, open: OpenId, wanted: ByteRange) -> Result<Gathered> {
        let open = self.open_volume(open)?;
        let reading = async || {
            open.check_locks()?;
            open.volume.read(&open.readahead, wanted).await
        };
        self.looking_first("read", &open.volume, reading).await
    }

    /// Reads past the client's cache.
    pub async fn read_direct(&self, open: OpenId, wanted: ByteRange) -> Result<Gathered> {
        let open = self.open_volume(open)?;
        let reading = async || {
            open.check_locks()?;
            open.volume.read_direct(wanted).await
        };
        self.looking_first("read", &open.volume, reading).await
    }

    /// Seeks in what is known of the map.
    pub fn seek_now(&self, open: OpenId, from: u64, whence: Whence) -> Result<Sought> {
        let open = self.open_volume(open)?;
        if open.volume.is_due() {
            return Ok(Sought::Unknown(from));
        }
        Ok(open.volume.seek_now(from, whence))
    }

    pub async fn seek(&self, open: OpenId, from: u64, whence: Whence) -> Result<u64> {
        let open = self.open_volume(open)?;
        if open.volume.has_writers() {
            // The kernel may hold pages that were dirtied through a mapping, and does not send them before a
            // seek. Told to drop its pages it sends them first.
            let laundered = self.shared.notices.launder(open.volume.id());
            self.within(("lseek", &open.volume.path()), laundered).await?;
        }
        let seeking = || open.volume.seek(from, whence);
        self.looking_first("lseek", &open.volume, seeking).await
    }

    /// The extents of `range`, in order and without gaps, cut at the end of the volume; at most `count_max`.
    pub async fn extents(&self, open: OpenId, range: ByteRange, count_max: usize) -> Result<Vec<Extent>> {
        let open = self.open_volume(open)?;
        open.volume.extents(range, count_max).await
    }

    /// Hashes of units as the server has them, without what was not sent yet.
    pub async fn digest(&self, open: OpenId, units: UnitRange) -> Result<Vec<UnitHash>> {
        let open = self.open_volume(open)?;
        let path = open.volume.path();
        self.within(("digest", &path), open.volume.digest(units)).await
    }

    /// Attributes of an open volume, as this client sees them.
    pub fn open_attr(&self, open: OpenId) -> Result<Attr> {
        self.open_volume(open).map(|open| open.volume.attr())
    }

    /// True if a seek has to wait for the kernel: see [`Self::seek`].
    pub fn seeks_wait(&self, open: OpenId) -> bool {
        self.open_volume(open)
            .is_ok_and(|open| open.volume.has_writers() && self.shared.notices.is_attached())
    }

    pub fn open_folder(&self, id: NodeId) -> Result<OpenId> {
        let namespace = self.namespace.lock();
        if namespace.kind(id)? != NodeKind::Folder {
            return Err(Error::new(
                ErrorKind::NotFolder,
                format!("{} is not a folder", namespace.path(id)?),
            ));
        }
        drop(namespace);
        let open = self.new_open();
        self.folders.lock().insert(
            open,
            Arc::new(OpenFolder {
                id,
                listing: tokio::sync::Mutex::new(None),
            }),
        );
        Ok(open)
    }

    pub fn close_folder(&self, open: OpenId) {
        self.folders.lock().remove(&open);
    }

    /// The names of an open folder. Asked anew at `afresh` (offset 0: opendir, rewinddir), so that one
    /// pass over it sees one moment.
    pub async fn listing(&self, open: OpenId, afresh: bool) -> Result<Listing> {
        let folder = self.folders.lock().get(&open).cloned();
        let folder = folder.ok_or_else(|| Error::new(ErrorKind::Stale, "the folder is not open"))?;
        let path = self.namespace.lock().path(folder.id)?;
        // Who walks a folder in two places at once waits for the other.
        let mut slot = self
            .within(("readdir", &path), async { Ok(folder.listing.lock().await) })
            .await?;
        if let Some(listing) = slot.as_ref().filter(|_| !afresh) {
            return Ok(listing.clone());
        }
        let Listed { names, asked } = self.list(folder.id, &path).await?;
        let listing = Listing {
            folder: folder.id,
            names,
            asked,
        };
        *slot = Some(listing.clone());
        Ok(listing)
    }

    /// The attributes to show for an entry of a listing: newer ones, of a volume that is open.
    pub fn entry_attr(&self, attr: &Attr) -> Attr {
        let volume = self.namespace.lock().volume(attr.id).ok();
        volume
            .and_then(|volume| volume.attr_if_followed())
            .unwrap_or(*attr)
    }

    /// The kernel was given an entry of a listing together with attributes; it holds one more reference.
    /// What a volume is known to be stays: a listing may be older.
    pub fn entry_given(&self, parent: NodeId, name: &NodeName, attr: &Attr) {
        let path = self
            .namespace
            .lock()
            .path(parent)
            .ok()
            .and_then(|path| path.join(name).ok());
        if let Some(path) = path {
            self.remember(path, attr);
        }
    }

    pub async fn space(&self) -> Result<Space> {
        self.within("statfs", self.shared.remote.space()).await
    }

    /// `user.lacuna.*`: facts about a node, for people and scripts.
    pub fn attributes(&self, id: NodeId) -> Result<Vec<(&'static str, String)>> {
        let (path, volume) = {
            let namespace = self.namespace.lock();
            (namespace.path(id)?, namespace.volume(id).ok())
        };
        let mut facts = vec![("user.lacuna.path", path.to_string())];
        if let Some(volume) = volume {
            let attr = volume.attr();
            facts.push(("user.lacuna.generation", attr.generation.0.to_string()));
            facts.push(("user.lacuna.allocated_bytes", attr.allocated_bytes.to_string()));
            facts.push(("user.lacuna.map_runs", volume.map_runs().to_string()));
        }
        Ok(facts)
    }

    /// The server told of a change.
    pub fn changed(&self, change: &Change) {
        let volume = self.namespace.lock().volume(change.attr.id);
        if let Ok(volume) = volume {
            volume.changed(change.attr, change.range);
        }
    }

    /// Volumes that are open now.
    pub fn open_volumes(&self) -> Vec<Arc<Volume<R>>> {
        self.namespace
            .lock()
            .volumes()
            .into_iter()
            .filter(|volume| volume.is_open())
            .collect()
    }

    /// The volume whose open handle at the server is this one.
    fn volume_bound(&self, session: u64, handle: Handle) -> Option<Arc<Volume<R>>> {
        let known = self.namespace.lock().volumes();
        let mut all = known.into_iter().chain(self.shared.all_unsettled());
        all.find(|volume| {
            let bound = volume.bound();
            bound.is_ok_and(|bound| R::is_bound_to(&bound, session, handle))
        })
    }

    async fn within<'a, T>(
        &self,
        what: impl Into<Operation<'a>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.shared.within_deadline(what, work).await
    }

    fn remember(&self, path: NodePath, attr: &Attr) {
        self.namespace.lock().remember(path, attr, &self.shared);
    }

    /// Takes in attributes that were just asked for, and gives the newest there are.
    fn freshest(&self, attr: Attr) -> Attr {
        let volume = self.namespace.lock().volume(attr.id);
        let Ok(volume) = volume else { return attr };
        volume.update(attr);
        volume.attr_if_followed().unwrap_or(attr)
    }

    fn open_volume(&self, open: OpenId) -> Result<Arc<OpenVolume<R>>> {
        let found = self.volumes.lock().get(&open).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::Stale, "the volume is not open"))
    }

    fn new_open(&self) -> OpenId {
        OpenId(self.next_open.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
