//! `statx(2)` to [`Attr`]: ids and times. And the way back: setting them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};

use lacuna_transport::attr::{Attr, NewAttr, NewTime, NodeKind, Timestamp};
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

/// What we ask of `statx`.
pub(super) const FIELDS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Ids that are not an inode number of the exported file system have this bit.
const FOREIGN: u64 = 1 << 63;
/// Those that have this bit too are of volumes that are not in the folder: see [`crate::backend::export`].
const NAMED: u64 = 1 << 62;

/// `statx` of an open descriptor, `O_PATH` ones too.
pub(super) fn of(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, FIELDS)
}

/// Sets what is asked for on the node of any descriptor, `O_PATH` ones too. The owner comes first: a change
/// of owner takes the set-user-id bits off, and they stay if they were asked for.
pub(super) fn set(fd: BorrowedFd<'_>, new: &NewAttr) -> Result<(), Errno> {
    if new.uid.is_some() || new.gid.is_some() {
        // The number that chown(2) takes for "leave it" is no owner.
        if [new.uid, new.gid].contains(&Some(u32::MAX)) {
            return Err(Errno::INVAL);
        }
        let (owner, group) = (new.uid.map(Uid::from_raw), new.gid.map(Gid::from_raw));
        rustix::fs::chownat(fd, "", owner, group, AtFlags::EMPTY_PATH)?;
    }
    let name = super::volume::proc_name(fd);
    if let Some(mode) = new.mode {
        rustix::fs::chmod(&name, Mode::from_raw_mode(mode))?;
    }
    if new.accessed.is_some() || new.modified.is_some() {
        let times = Timestamps {
            last_access: timespec(new.accessed),
            last_modification: timespec(new.modified),
        };
        rustix::fs::utimensat(CWD, &name, &times, AtFlags::empty())?;
    }
    Ok(())
}

fn timespec(time: Option<NewTime>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(UTIME_OMIT),
        Some(NewTime::Now) => special(UTIME_NOW),
        Some(NewTime::At(time)) => Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanos.into(),
        },
    }
}

/// The exported folder's own device and inode: ids are relative to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    device: (u32, u32),
    inode: u64,
}

impl Origin {
    pub(super) fn of(stat: &Statx) -> Self {
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
        }
    }

    /// `None` for what is neither a volume nor a folder, or larger than any volume can be.
    pub(super) fn attr(self, stat: &Statx) -> Option<Attr> {
        let mode = u32::from(stat.stx_mode);
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => NodeKind::Volume,
            FileType::Directory => NodeKind::Folder,
            _ => return None,
        };
        if stat.stx_size > VOLUME_BYTES_MAX {
            return None;
        }
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Some(Attr {
            id: self.id((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
            kind,
            size: stat.stx_size,
            allocated_bytes: stat.stx_blocks.saturating_mul(512),
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            accessed: timestamp(stat.stx_atime),
            modified: timestamp(stat.stx_mtime),
            changed: timestamp(stat.stx_ctime),
            birth_ns: if has_birth { nanoseconds(stat.stx_btime) } else { 0 },
            generation: Generation(0),
            base: Generation(0),
        })
    }

    fn id(self, device: (u32, u32), inode: u64) -> NodeId {
        if device == self.device {
            if inode == self.inode {
                return NodeId::ROOT;
            }
            if inode > NodeId::ROOT.0 && inode & FOREIGN == 0 {
                return NodeId(inode);
            }
        }
        // With its fixed keys this hash is the same in every run of a build. A later build may differ;
        // clients then see other ids on file systems mounted below DIR, as after a remount.
        let mut hasher = DefaultHasher::new();
        (device, inode).hash(&mut hasher);
        NodeId((hasher.finish() & !NAMED) | FOREIGN)
    }
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanos: time.tv_nsec.min(999_999_999),
    }
}

/// Nanoseconds since 1970; 0 before.
fn nanoseconds(time: StatxTimestamp) -> u64 {
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_is_the_root() {
        let origin = Origin {
            device: (8, 1),
            inode: 2,
        };
        assert_eq!(origin.id((8, 1), 2), NodeId::ROOT);
        assert_eq!(origin.id((8, 1), 77), NodeId(77));
        for (device, inode) in [
            ((8, 1), 0),
            ((8, 1), 1),
            ((8, 1), FOREIGN | 5),
            ((8, 2), 2),
            ((8, 2), 77),
        ] {
            let id = origin.id(device, inode);
            assert!(id.0 & FOREIGN != 0, "{device:?} {inode} became {id:?}");
            assert!(id.0 & NAMED == 0, "{id:?} may be that of a named volume");
        }
        assert_ne!(origin.id((8, 2), 77), origin.id((8, 3), 77));
    }
}
