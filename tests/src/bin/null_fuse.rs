//! A file system that does nothing, mounted as lacuna mounts: what is slower than this is the daemon's doing.
//!
//! Usage: `null_fuse MOUNTPOINT NAME VOLUME [handoff]`
//!
//! It shows one file, NAME, with the size and the extents that VOLUME has when it starts. Reads are zeros out of a
//! buffer that is there, seeks are looked up in a table, writes and punches are accepted and forgotten. The settings of
//! the session are those of lacuna's mount: one reader, busy polling, the same capabilities and sizes. Runs until unmounted.
//!
//! With `handoff` reads are answered by a task of a runtime with one thread, as those are that lacuna has to ask a server for:
//! still nothing is done, but one more thread takes part.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use lacuna::fuse::busy_poll::BusyPoll;
use lacuna::fuse::mount::{self, MountRequest};
use lacuna::fuse::negotiate::{REQUEST_BYTES_MAX, negotiate};
use lacuna_tests::seek_map::SeekMap;
use tokio::runtime::{Builder, Handle};

/// As in the adapter of lacuna.
const TTL: Duration = Duration::from_secs(1);
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

const FILE: INodeNo = INodeNo(2);
const BLOCK_BYTES: u32 = 4096;

fn main() -> Result<()> {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    let (mountpoint, name, volume, handoff) = match &words[..] {
        [mountpoint, name, volume] => (mountpoint, name, volume, None),
        [mountpoint, name, volume, word] if word == "handoff" => (mountpoint, name, volume, Some(handoff()?)),
        _ => bail!("usage: null_fuse MOUNTPOINT NAME VOLUME [handoff]"),
    };
    let map = SeekMap::of_path(Path::new(volume))?;
    let mountpoint = PathBuf::from(mountpoint);
    let request = MountRequest {
        source: "null".to_owned(),
        mountpoint: mount::check_mountpoint(&mountpoint)?,
        allow_other: true,
        noexec: false,
        read_only: false,
    };
    let device = mount::mount(&request)?;
    let poll = BusyPoll::new(device.try_clone()?)?;
    let null = Null::new(name, &map, poll, handoff);
    let session = fuser::Session::from_fd(null, device, fuser::SessionACL::All, fuser::Config::default())?;
    mount::raise_readahead(&mountpoint).context("cannot set the readahead of the mount")?;
    println!("ready");
    session.run().context("serving FUSE failed")
}

/// See the module.
struct Null {
    name: OsString,
    size: u64,
    /// Extents of data: start and end.
    data: Vec<(u64, u64)>,
    allocated_bytes: u64,
    zeros: Arc<[u8]>,
    poll: Arc<BusyPoll>,
    /// Where reads are answered, if not on the spot.
    handoff: Option<Handle>,
}

/// A runtime with one thread, for as long as the process lives.
fn handoff() -> Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("handoff".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

impl Null {
    fn new(name: &OsStr, map: &SeekMap, poll: Arc<BusyPoll>, handoff: Option<Handle>) -> Self {
        Self {
            name: name.to_owned(),
            size: map.size,
            data: map.data().map(|run| (run.start, run.end)).collect(),
            allocated_bytes: map.data_bytes(),
            zeros: vec![0; usize::try_from(REQUEST_BYTES_MAX).unwrap_or(0)].into(),
            poll,
            handoff,
        }
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { self.size } else { 0 },
            blocks: if is_file {
                self.allocated_bytes.div_ceil(512)
            } else {
                0
            },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file {
                FileType::RegularFile
            } else {
                FileType::Directory
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    /// Where lseek goes, as SEEK_DATA and SEEK_HOLE are defined; `None` is ENXIO.
    fn sought(&self, from: u64, whence: i32) -> Option<u64> {
        if from >= self.size {
            return None;
        }
        let next = self.data.get(self.data.partition_point(|(_, end)| *end <= from));
        match (whence, next) {
            (SEEK_DATA, Some((start, _))) => Some(from.max(*start)),
            (SEEK_HOLE, Some((start, end))) if *start <= from => Some(*end),
            (SEEK_HOLE, _) => Some(from),
            _ => None,
        }
    }
}

impl Filesystem for Null {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == self.name {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _open: Option<FileHandle>, reply: ReplyAttr) {
        self.poll.answered();
        reply.attr(&TTL, &self.attr(ino));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _open: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let wanted = u64::from(size).min(self.size.saturating_sub(offset));
        let wanted = usize::try_from(wanted).map_or(self.zeros.len(), |wanted| wanted.min(self.zeros.len()));
        if let Some(handoff) = &self.handoff {
            self.poll.waits();
            let zeros = Arc::clone(&self.zeros);
            handoff.spawn(async move { reply.data(&zeros[..wanted]) });
            return;
        }
        self.poll.answered();
        reply.data(&self.zeros[..wanted]);
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.poll.answered();
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.poll.answered();
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.poll.answered();
        reply.ok();
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let sought = u64::try_from(offset)
            .ok()
            .and_then(|from| self.sought(from, whence));
        self.poll.answered();
        match sought.and_then(|at| i64::try_from(at).ok()) {
            Some(at) => reply.offset(at),
            None => reply.error(Errno::ENXIO),
        }
    }
}
