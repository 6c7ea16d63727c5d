//! Attributes of volumes, folders and the storage below them.

use minicbor::{Decode, Encode};

use crate::id::{Generation, NodeId};

/// What a node is. Nothing else is ever shown: no links, sockets or device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeKind {
    #[n(0)]
    Volume,
    #[n(1)]
    Folder,
}

/// A moment, as `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before.
    #[n(0)]
    pub seconds: i64,
    /// 0..1_000_000_000.
    #[n(1)]
    pub nanos: u32,
}

/// Attributes of a node, as `statx(2)` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attr {
    #[n(0)]
    pub id: NodeId,
    #[n(1)]
    pub kind: NodeKind,
    /// Size in bytes; at most [`crate::limits::VOLUME_BYTES_MAX`].
    #[n(2)]
    pub size: u64,
    /// Bytes really allocated (`st_blocks * 512`).
    #[n(3)]
    pub allocated_bytes: u64,
    /// Permission bits, `0o7777` at most.
    #[n(4)]
    pub mode: u32,
    #[n(5)]
    pub uid: u32,
    #[n(6)]
    pub gid: u32,
    #[n(7)]
    pub links: u32,
    #[n(8)]
    pub accessed: Timestamp,
    #[n(9)]
    pub modified: Timestamp,
    #[n(10)]
    pub changed: Timestamp,
    /// Creation time in nanoseconds since 1970, 0 where unknown: tells a node from a later one that
    /// got the same id.
    #[n(11)]
    pub birth_ns: u64,
    /// Version of the content (of a folder: of its names). Orders what is told of one volume.
    #[n(12)]
    pub generation: Generation,
    /// Version of the latest content that somebody else than the asking session made: while it stays, all
    /// changes are the session's own, and what it knows of the volume holds.
    #[n(13)]
    pub base: Generation,
}

/// What to make of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum NewTime {
    /// The server's clock.
    #[n(0)]
    Now,
    #[n(1)]
    At(#[n(0)] Timestamp),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NewAttr {
    /// Permission bits, `0o7777` at most.
    #[n(0)]
    pub mode: Option<u32>,
    #[n(1)]
    pub uid: Option<u32>,
    #[n(2)]
    pub gid: Option<u32>,
    #[n(3)]
    pub accessed: Option<NewTime>,
    #[n(4)]
    pub modified: Option<NewTime>,
}

/// Owner and mode of what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewNode {
    /// Permission bits, `0o7777` at most, the umask taken off.
    #[n(0)]
    pub mode: u32,
    #[n(1)]
    pub uid: u32,
    /// In a folder with the set-group-id bit the folder's group is taken instead.
    #[n(2)]
    pub gid: u32,
}

/// Space below the exported folder, as `statvfs(3)`. Blocks are of `block_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Space {
    #[n(0)]
    pub block_bytes: u32,
    #[n(1)]
    pub blocks: u64,
    #[n(2)]
    pub blocks_free: u64,
    /// Free to unprivileged users.
    #[n(3)]
    pub blocks_available: u64,
    #[n(4)]
    pub nodes: u64,
    #[n(5)]
    pub nodes_free: u64,
    #[n(6)]
    pub name_bytes_max: u32,
}
