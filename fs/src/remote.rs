//! The one door to a server, as the file system sees it.
//!
//! Two things stand behind it: a QUIC session that is made anew when it is lost (`quic`), and a server
//! in memory for tests (`memory`). A call waits while there is no session: the caller has the deadline.

#[cfg(feature = "quic")]
pub mod lane;
#[cfg(feature = "quic")]
pub mod link;
pub mod memory;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(feature = "quic")]
pub mod session;

use std::future::Future;
use std::sync::Arc;

use lacuna_transport::attr::{Attr, Space};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::map_page::MapPage;
use parking_lot::Mutex;

use crate::error::Result;

/// The path of a volume; it changes when the volume is found under another name.
#[derive(Clone, Debug)]
pub struct SharedPath(Arc<Mutex<NodePath>>);

impl SharedPath {
    pub fn new(path: NodePath) -> Self {
        Self(Arc::new(Mutex::new(path)))
    }

    pub fn path(&self) -> NodePath {
        self.0.lock().clone()
    }

    pub fn set(&self, path: NodePath) {
        *self.0.lock() = path;
    }
}

impl std::fmt::Display for SharedPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.lock().fmt(f)
    }
}

/// A server, or what stands for one.
pub trait Remote: Send + Sync + 'static {
    /// A volume opened at the server. Outlives lost connections: it is opened again when needed.
    /// Dropping it closes it; the server is told in the background.
    type Volume: Send + Sync + 'static;

    fn stat(&self, path: &NodePath) -> impl Future<Output = Result<Attr>> + Send;

    /// All names of a folder, in byte order.
    fn list(&self, path: &NodePath) -> impl Future<Output = Result<Vec<(NodeName, Attr)>>> + Send;

    /// Opens; fails with `Stale` if `path` is not the node `id` any more. The path is kept for opening
    /// again in a later session.
    fn open(
        &self,
        path: &SharedPath,
        id: NodeId,
    ) -> impl Future<Output = Result<(Self::Volume, Attr)>> + Send;

    /// Attributes of an open volume, whatever became of its name.
    fn stat_open(&self, volume: &Self::Volume) -> impl Future<Output = Result<Attr>> + Send;

    /// Fills `buffers` with the bytes from the ranges, in order: both are the same number of bytes.
    /// What lies past the end of the volume is zero. At most one wire read, see `wire::read`.
    fn read(
        &self,
        volume: &Self::Volume,
        ranges: Vec<ByteRange>,
        buffers: &mut [Box<[u8]>],
    ) -> impl Future<Output = Result<Generation>> + Send;

    /// Streams pages of the map of `range`, cut at the end of the volume, into `sink`, until it returns
    /// false or `pages_max` pages came.
    fn map(
        &self,
        volume: &Self::Volume,
        range: ByteRange,
        pages_max: u32,
        sink: impl FnMut(MapPage) -> bool + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    fn space(&self) -> impl Future<Output = Result<Space>> + Send;
}

/// What a server says on its own.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Attributes after the change; its id names the volume.
    pub attr: Attr,
    /// What is known of this range is void.
    pub range: ByteRange,
}
