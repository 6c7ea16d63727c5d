//! The one door to a server, as the file system sees it.
//!
//! Two things stand behind it: a QUIC session that is made anew when it is lost (`quic`), and a server
//! in memory for tests (`memory`). A call waits while there is no session: the caller has the deadline.

#[cfg(feature = "quic")]
pub mod address;
#[cfg(feature = "quic")]
pub mod backoff;
#[cfg(feature = "quic")]
pub mod hearing;
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
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::digest::{Hashing, UnitHash};
use lacuna_transport::id::{BootId, Generation, Handle, LockOwner, NodeId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::lock::{HeldLock, LockKind, LockSpace, Locked};
use lacuna_transport::wire::map_page::MapPage;
use lacuna_transport::wire::message::{Features, RenameMode, Reshape};
use parking_lot::Mutex;

use crate::error::Result;
use crate::overlay::buffer::Slice;

/// The path of a volume; it changes when the volume is found under another name.
#[derive(Clone, Debug)]
pub struct SharedPath(Arc<Mutex<(NodePath, bool)>>);

impl SharedPath {
    pub fn new(path: NodePath) -> Self {
        Self(Arc::new(Mutex::new((path, true))))
    }

    /// The path, also after it was taken away.
    pub fn path(&self) -> NodePath {
        self.0.lock().0.clone()
    }

    pub fn set(&self, path: NodePath) {
        *self.0.lock() = (path, true);
    }

    /// The volume has no name any more: what has this one now is another.
    pub fn take_away(&self) {
        self.0.lock().1 = false;
    }

    /// False once the name was taken away.
    pub fn is_named(&self) -> bool {
        self.0.lock().1
    }
}

impl std::fmt::Display for SharedPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.lock().0.fmt(f)
    }
}

/// What a server that does not know digests comes to.
const DIGESTS_UNSUPPORTED: &str =
    "this server makes no digests; update lacunad there, or compare what is read";

/// What a server that keeps no locks comes to.
const LOCKS_UNSUPPORTED: &str = "this server keeps no locks; update lacunad there";

/// A server, or what stands for one.
pub trait Remote: Send + Sync + 'static {
    /// A volume opened at the server. Outlives lost connections: it is opened again when needed.
    /// Dropping it closes it; the server is told in the background.
    type Volume: Send + Sync + 'static;

    /// From now on the volume is opened again by what `path` says then.
    fn follow_path(volume: &mut Self::Volume, path: &SharedPath);

    fn stat(&self, path: &NodePath) -> impl Future<Output = Result<Attr>> + Send;

    /// All names of a folder, in byte order.
    fn list(&self, path: &NodePath) -> impl Future<Output = Result<Vec<(NodeName, Attr)>>> + Send;

    /// Opens; fails with `Stale` if `path` is not the node `id` any more, and for changes with `Busy` while another
    /// client writes. The path is kept for opening
    /// again in a later session.
    fn open(
        &self,
        path: &SharedPath,
        id: NodeId,
        access: Access,
    ) -> impl Future<Output = Result<(Self::Volume, Attr)>> + Send;

    /// The largest size that the volume can have, in bytes.
    fn size_max(volume: &Self::Volume) -> u64;

    /// True once the server has said that the write lease of an open volume is gone: it can be read, no more.
    fn is_fenced(volume: &Self::Volume) -> bool;

    /// True if it is this handle of this session.
    fn is_bound_to(volume: &Self::Volume, session: u64, handle: Handle) -> bool;

    /// Says that the write lease that a volume was asked for is needed here.
    fn keep_lease(&self, volume: &Self::Volume) -> impl Future<Output = ()> + Send;

    /// Attributes of an open volume, whatever became of its name.
    fn stat_open(&self, volume: &Self::Volume) -> impl Future<Output = Result<Attr>> + Send;

    /// The bytes of the ranges, in order, cut into buffers of these lengths: both are the same number of bytes.
    /// What lies past the end of the volume is zero. At most one wire read, see `wire::read`.
    fn read(
        &self,
        volume: &Self::Volume,
        ranges: Vec<ByteRange>,
        lengths: &[usize],
    ) -> impl Future<Output = Result<(Generation, Vec<Box<[u8]>>)>> + Send;

    /// Streams pages of the map of `range`, cut at the end of the volume, into `sink`, until it returns
    /// false or `pages_max` pages came.
    fn map(
        &self,
        volume: &Self::Volume,
        range: ByteRange,
        pages_max: u32,
        sink: impl FnMut(MapPage) -> bool + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    /// The hashes of the units of a range, in order, and the base they belong to, as with a read. What lies past the
    /// end of the volume is zero. At most one wire digest, see `wire::digest`. A server that does not know
    /// digests is `Unsupported`: read the bytes instead.
    fn digest(
        &self,
        volume: &Self::Volume,
        units: UnitRange,
    ) -> impl Future<Output = Result<(Generation, Vec<UnitHash>)>> + Send;

    /// What the server of the session there is knows; waits for a session.
    fn features(&self) -> impl Future<Output = Result<Features>> + Send;

    fn space(&self) -> impl Future<Output = Result<Space>> + Send;

    /// Which run of the server the session there is belongs to; waits for a session.
    fn boot(&self) -> impl Future<Output = Result<BootId>> + Send;

    /// The same without waiting; `None` while there is no session.
    fn boot_now(&self) -> Option<BootId>;

    /// The least that the path to the server takes there and back, as it was when the session began; zero while there is none.
    fn round_trip(&self) -> Duration;

    /// What the server may send before this side has taken it, in bytes. Never waits.
    fn window_bytes(&self) -> u64;

    /// False while there is no session, or nothing is heard of the server. Never waits.
    fn is_reachable(&self) -> bool;

    /// Waits until the server cannot be reached.
    fn unreachable(&self) -> impl Future<Output = ()> + Send;

    /// Writes `slices` into `ranges`, in order. At most one wire write, see `wire::write`.
    ///
    /// This and the other changes of content that take a `boot` are never sent twice by the remote: one
    /// whose session is lost, or meets another run of the server, fails with `Disconnected`, and the
    /// caller decides what must come first.
    fn write(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// As [`Self::write`] and then [`Self::flush`], which covers it: one request, if the server knows that. After an
    /// error either may have been done.
    fn write_and_flush(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
        data_only: bool,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// Punches, zeroes or allocates a range.
    fn reshape(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        how: Reshape,
        range: ByteRange,
        grow: bool,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// Punches all of the ranges, which are in order: few requests, if the server knows that. After an error some may
    /// have been punched.
    fn punch(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        ranges: &[ByteRange],
    ) -> impl Future<Output = Result<Attr>> + Send;

    fn resize(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        size: u64,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// Copies `range` of `source` to `offset` of `target`, durably; tells how many bytes and what the
    /// target is then.
    fn copy(
        &self,
        boot: BootId,
        source: (&Self::Volume, ByteRange),
        target: (&Self::Volume, u64),
    ) -> impl Future<Output = Result<(u64, Attr)>> + Send;

    /// Everything answered before is on stable storage.
    fn flush(
        &self,
        volume: &Self::Volume,
        boot: BootId,
        data_only: bool,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// Takes a lock, or gives up what an owner has of a range; can be sent again. `Unsupported`: this server keeps
    /// no locks. `Busy`: it was just started, and those who held locks before go first.
    fn lock(&self, volume: &Self::Volume, ask: &LockAsk) -> impl Future<Output = Result<Locked>> + Send;

    /// The lock that stands in the way of one; fails as [`Self::lock`].
    fn test_lock(
        &self,
        volume: &Self::Volume,
        ask: &LockAsk,
    ) -> impl Future<Output = Result<Option<HeldLock>>> + Send;

    fn set_attr(
        &self,
        subject: Named<'_, Self::Volume>,
        attr: NewAttr,
    ) -> impl Future<Output = Result<Attr>> + Send;

    /// Makes a volume of size 0, opened for writing; without `exclusive` one that is there is opened.
    fn create(
        &self,
        path: &SharedPath,
        node: NewNode,
        exclusive: bool,
    ) -> impl Future<Output = Result<(Self::Volume, Attr)>> + Send;

    fn make_folder(&self, path: &NodePath, node: NewNode) -> impl Future<Output = Result<Attr>> + Send;

    /// Removes a volume or an empty folder, if it still is the node `id`.
    fn remove(
        &self,
        path: &NodePath,
        folder: bool,
        id: Option<NodeId>,
    ) -> impl Future<Output = Result<()>> + Send;

    fn rename(
        &self,
        from: &NodePath,
        to: &NodePath,
        mode: RenameMode,
    ) -> impl Future<Output = Result<()>> + Send;

    fn flush_folder(&self, path: &NodePath) -> impl Future<Output = Result<()>> + Send;
}

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// Which units a digest is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRange {
    /// Where units are counted from: 0, or the start of a range that is looked at as a file.
    pub origin: u64,
    /// Begins with a unit; the last one may be short.
    pub range: ByteRange,
    /// A unit is 2 to the power of this.
    pub unit_log2: u8,
    pub how: Hashing,
}

/// A lock to take or to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockAsk {
    pub space: LockSpace,
    pub owner: LockOwner,
    pub process: u32,
    /// `None` gives up.
    pub kind: Option<LockKind>,
    pub range: ByteRange,
    /// Say when it is worth trying again.
    pub tell: bool,
    /// It was granted in an earlier session.
    pub again: bool,
}

/// A node by its name, or a volume that is open, whatever became of its name.
#[derive(Debug)]
pub enum Named<'a, V> {
    Path(&'a NodePath),
    Open(&'a V),
}

/// What a mount hears from its server without asking.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Changed(Change),
    /// Another client wants to write to the volume that is open as this handle of this session.
    Recalled(u64, Handle),
    /// Somewhere a lock was given up that stood in the way of one of ours.
    LocksFreed,
    /// There is a new session: events may have been missed.
    Reconnected,
}

/// What a server says on its own.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Attributes after the change; its id names the volume.
    pub attr: Attr,
    /// What is known of this range is void.
    pub range: ByteRange,
}
