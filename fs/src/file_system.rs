//! The mounted file system without FUSE: what the adapter calls, and what tests drive without a mount.
//!
//! Read-only for now: whatever would change something is refused by the mount itself.
//!
//! Calls named `..._now` answer from what is known and never wait; the others may ask the server, each
//! within the deadline of the mount. Lock order: `namespace` before a volume's state; never the other
//! way, and neither across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lacuna_transport::attr::{Attr, NodeKind, Space};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lru::LruCache;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::Sought;
use crate::namespace::Namespace;
use crate::readahead::Readahead;
use crate::remote::{Change, Remote};
use crate::volume::map::Whence;
use crate::volume::read::{Gathered, ReadNow};
use crate::volume::{Shared, Volume};

/// Runs kept in the maps of volumes that nobody has open; about 20 bytes each.
const IDLE_MAP_RUNS_MAX: usize = 4 << 20;
/// Volumes that nobody has open and whose maps are kept.
const IDLE_MAPS_MAX: usize = 4096;

/// A number the kernel gives back with each call on an open volume or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenId(pub u64);

/// An open volume.
#[derive(Debug)]
pub struct OpenVolume<R: Remote> {
    volume: Arc<Volume<R>>,
    readahead: Mutex<Readahead>,
}

/// The names of an open folder, as they were when reading it began.
pub type Listing = Arc<Vec<(NodeName, Attr)>>;

#[derive(Debug)]
struct OpenFolder {
    id: NodeId,
    listing: tokio::sync::Mutex<Option<Listing>>,
}

#[derive(Debug)]
pub struct FileSystem<R: Remote> {
    shared: Arc<Shared<R>>,
    namespace: Mutex<Namespace<R>>,
    volumes: Mutex<HashMap<OpenId, Arc<OpenVolume<R>>>>,
    folders: Mutex<HashMap<OpenId, Arc<OpenFolder>>>,
    idle_maps: Mutex<LruCache<NodeId, Arc<Volume<R>>>>,
    next_open: AtomicU64,
}

impl<R: Remote> FileSystem<R> {
    /// A file system whose root is the folder `root` of the server.
    pub fn new(remote: R, root: NodePath, cache_bytes_max: u64, deadline: Option<Duration>) -> Self {
        Self {
            shared: Arc::new(Shared::new(remote, cache_bytes_max, deadline)),
            namespace: Mutex::new(Namespace::new(root)),
            volumes: Mutex::default(),
            folders: Mutex::default(),
            idle_maps: Mutex::new(LruCache::unbounded()),
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
        let attr = self.within("lookup", self.shared.remote.stat(&path)).await?;
        self.remember(path, &attr);
        Ok(self.freshest(attr))
    }

    pub fn forget(&self, id: NodeId, lookups: u64) {
        let last = self.namespace.lock().forget(id, lookups);
        if last {
            self.idle_maps.lock().pop(&id);
        }
    }

    /// Attributes of a volume that is open, without asking: events keep them true.
    pub fn attr_now(&self, id: NodeId) -> Option<Attr> {
        self.namespace.lock().volume(id).ok()?.attr_if_open()
    }

    pub async fn attr(&self, id: NodeId) -> Result<Attr> {
        let (path, volume) = {
            let namespace = self.namespace.lock();
            (namespace.path(id)?, namespace.volume(id).ok())
        };
        let attr = self.within("getattr", self.shared.remote.stat(&path)).await?;
        if id == NodeId::ROOT {
            return Ok(Attr { id, ..attr });
        }
        if attr.id != id {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{path} was replaced at the server"),
            ));
        }
        if let Some(volume) = volume {
            volume.update(attr, ByteRange::ALL);
        }
        Ok(attr)
    }

    /// Opens a volume. The answer tells if the kernel's pages of it are still good.
    pub async fn open(&self, id: NodeId) -> Result<(OpenId, bool)> {
        let volume = self.namespace.lock().volume(id)?;
        let outcome = self.within("open", volume.open()).await?;
        self.idle_maps.lock().pop(&id);
        let readahead = Mutex::new(Readahead::new(self.shared.cache.bytes_max()));
        let open = self.new_open();
        self.volumes
            .lock()
            .insert(open, Arc::new(OpenVolume { volume, readahead }));
        Ok((open, outcome.keep_cache))
    }

    /// Closes a volume; its map and cached data stay for the next open, within bounds.
    pub fn close(&self, open: OpenId) {
        let Some(closed) = self.volumes.lock().remove(&open) else {
            return;
        };
        if !closed.volume.close() {
            return;
        }
        let mut idle = self.idle_maps.lock();
        idle.put(closed.volume.attr().id, Arc::clone(&closed.volume));
        let mut runs: usize = idle.iter().map(|(_, volume)| volume.map_runs()).sum();
        while runs > IDLE_MAP_RUNS_MAX || idle.len() > IDLE_MAPS_MAX {
            let Some((_, oldest)) = idle.pop_lru() else { break };
            runs -= oldest.map_runs();
            oldest.forget_map();
        }
    }

    /// Reads what needs no waiting. Call it within the runtime: it starts prefetches.
    pub fn read_now(&self, open: OpenId, wanted: ByteRange) -> Result<ReadNow> {
        let open = self.open_volume(open)?;
        Ok(open.volume.read_now(&open.readahead, wanted))
    }

    pub async fn read(&self, open: OpenId, wanted: ByteRange) -> Result<Gathered> {
        let open = self.open_volume(open)?;
        open.volume.read(&open.readahead, wanted).await
    }

    /// Reads past the client's cache.
    pub async fn read_direct(&self, open: OpenId, wanted: ByteRange) -> Result<Gathered> {
        let open = self.open_volume(open)?;
        open.volume.read_direct(wanted).await
    }

    /// Seeks in what is known of the map.
    pub fn seek_now(&self, open: OpenId, from: u64, whence: Whence) -> Result<Sought> {
        Ok(self.open_volume(open)?.volume.seek_now(from, whence))
    }

    pub async fn seek(&self, open: OpenId, from: u64, whence: Whence) -> Result<u64> {
        let open = self.open_volume(open)?;
        open.volume.seek(from, whence).await
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
    pub async fn listing(&self, open: OpenId, afresh: bool) -> Result<(NodeId, Listing)> {
        let folder = self.folders.lock().get(&open).cloned();
        let folder = folder.ok_or_else(|| Error::new(ErrorKind::Stale, "the folder is not open"))?;
        let mut listing = folder.listing.lock().await;
        let names = match &*listing {
            Some(names) if !afresh => Arc::clone(names),
            _ => {
                let path = self.namespace.lock().path(folder.id)?;
                Arc::new(self.within("readdir", self.shared.remote.list(&path)).await?)
            }
        };
        *listing = Some(Arc::clone(&names));
        Ok((folder.id, names))
    }

    /// The kernel was given an entry of a listing together with its attributes.
    pub fn entry_given(&self, parent: NodeId, name: &NodeName, attr: &Attr) -> Attr {
        let path = self
            .namespace
            .lock()
            .path(parent)
            .ok()
            .and_then(|path| path.join(name).ok());
        if let Some(path) = path {
            self.remember(path, attr);
        }
        self.freshest(*attr)
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

    /// The server told of a change. One that was overtaken by a later look at the volume says nothing new.
    pub fn changed(&self, change: &Change) {
        let volume = self.namespace.lock().volume(change.attr.id);
        if let Ok(volume) = volume
            && change.attr.generation >= volume.attr().generation
        {
            volume.update(change.attr, change.range);
        }
    }

    /// Volumes that are open now.
    pub fn open_volumes(&self) -> Vec<Arc<Volume<R>>> {
        self.namespace
            .lock()
            .volumes()
            .into_iter()
            .filter(|volume| volume.attr_if_open().is_some())
            .collect()
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.shared.within_deadline(what, work).await
    }

    fn remember(&self, path: NodePath, attr: &Attr) {
        self.namespace.lock().remember(path, attr, &self.shared);
    }

    /// The attributes just seen; of a volume they are taken in, so that its map goes with them.
    fn freshest(&self, attr: Attr) -> Attr {
        if let Ok(volume) = self.namespace.lock().volume(attr.id) {
            volume.update(attr, ByteRange::ALL);
        }
        attr
    }

    fn open_volume(&self, open: OpenId) -> Result<Arc<OpenVolume<R>>> {
        let found = self.volumes.lock().get(&open).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::Stale, "the volume is not open"))
    }

    fn new_open(&self) -> OpenId {
        OpenId(self.next_open.fetch_add(1, Ordering::Relaxed))
    }
}
