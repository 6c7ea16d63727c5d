//! Between the kernel's types and ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyLseek, ReplyXattr, TimeOrNow};
use lacuna_transport::attr::{Attr, NewTime, NodeKind, Timestamp};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::path::{NodeName, PathError};

use crate::error::{Error, ErrorKind};

/// Block size shown in `st_blksize`.
const BLOCK_BYTES: u32 = 4096;
/// Unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// Keeps a bug in one request from ending the reader thread, and with it the mount.
pub(super) fn guarded(call: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(call, "a request panicked; it was answered with EIO");
    }
}

pub(super) fn errno(call: &'static str, error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NoExtent | ErrorKind::NoAttribute => {
            tracing::trace!(call, %error, "failed");
        }
        ErrorKind::Disconnected | ErrorKind::TimedOut | ErrorKind::Protocol | ErrorKind::Internal => {
            tracing::warn!(call, %error, "failed");
        }
        _ => tracing::debug!(call, %error, "failed"),
    }
    Errno::from_i32(error.errno().raw_os_error())
}

pub(super) fn name_of(name: &OsStr) -> Result<NodeName, Errno> {
    NodeName::new(name.as_bytes()).map_err(|error| match error {
        PathError::NameTooLong | PathError::PathTooLong | PathError::TooDeep => Errno::ENAMETOOLONG,
        PathError::Empty | PathError::Dots | PathError::Separator => Errno::EINVAL,
    })
}

pub(super) fn time_of(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|base| base.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

pub(super) fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Volume => FileType::RegularFile,
        NodeKind::Folder => FileType::Directory,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.id.0),
        size: attr.size,
        blocks: attr.allocated_bytes.div_ceil(SECTOR_BYTES),
        atime: time_of(attr.accessed),
        mtime: time_of(attr.modified),
        ctime: time_of(attr.changed),
        crtime: UNIX_EPOCH + Duration::from_nanos(attr.birth_ns),
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(super) fn new_time(time: TimeOrNow) -> NewTime {
    match time {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(time) => NewTime::At(time.into()),
    }
}

/// Attributes of `.` and `..` in listings, of which the kernel uses the kind alone.
pub(super) const DOT: Attr = Attr {
    id: NodeId::ROOT,
    kind: NodeKind::Folder,
    size: 0,
    allocated_bytes: 0,
    mode: 0o755,
    uid: 0,
    gid: 0,
    links: 1,
    accessed: Timestamp { seconds: 0, nanos: 0 },
    modified: Timestamp { seconds: 0, nanos: 0 },
    changed: Timestamp { seconds: 0, nanos: 0 },
    birth_ns: 0,
    generation: Generation(0),
    base: Generation(0),
};

/// A place in a listing; each carries the offset at which the next one begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Dot(u64, &'static str),
    Entry(u64, usize),
}

impl Place {
    /// What is to be told from `offset` on, of a folder with `count` names.
    pub(super) fn from(offset: u64, count: usize) -> impl Iterator<Item = Self> {
        let end = u64::try_from(count).unwrap_or(u64::MAX).saturating_add(2);
        (offset..end).map(|at| match at {
            0 => Self::Dot(1, "."),
            1 => Self::Dot(2, ".."),
            _ => Self::Entry(at + 1, usize::try_from(at - 2).unwrap_or(usize::MAX)),
        })
    }
}

pub(super) fn reply_offset(reply: ReplyLseek, offset: u64) {
    match i64::try_from(offset) {
        Ok(offset) => reply.offset(offset),
        Err(_) => reply.error(Errno::EOVERFLOW),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, value: &[u8], room: u32) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match room {
        0 => reply.size(len),
        room if room < len => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
