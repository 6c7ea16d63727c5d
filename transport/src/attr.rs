//! Attributes of volumes, folders and the storage below them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let seconds = |whole: Duration| i64::try_from(whole.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: seconds(since),
                nanos: since.subsec_nanos(),
            },
            Err(before) => {
                // Nanoseconds count forward, also before 1970.
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Self {
                        seconds: -seconds(before),
                        nanos: 0,
                    },
                    nanos => Self {
                        seconds: -seconds(before) - 1,
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_count_forward_also_before_1970() {
        let at = |time: SystemTime| (Timestamp::from(time).seconds, Timestamp::from(time).nanos);
        let nanos = Duration::from_nanos;
        assert_eq!(at(UNIX_EPOCH + nanos(1_500_000_000)), (1, 500_000_000));
        assert_eq!(at(UNIX_EPOCH - nanos(1_500_000_000)), (-2, 500_000_000));
        assert_eq!(at(UNIX_EPOCH - nanos(2_000_000_000)), (-2, 0));
    }
}
