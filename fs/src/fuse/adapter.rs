//! From FUSE requests to the file system and back. Nothing is decided here.
//!
//! Each method parses the kernel's arguments, answers at once if the file system can, and otherwise
//! hands its reply to a task. It never blocks: there is one reader thread, and it would stop the mount.
//! A reply that is dropped (a panic, a task that ends) answers EIO by itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use lacuna_transport::attr::{Attr, NodeKind, Timestamp};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, PathError};
use lacuna_transport::range::ByteRange;
use rustix::fs::OFlags;
use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind};
use crate::extent_map::Sought;
use crate::file_system::{FileSystem, Listing, OpenId};
use crate::remote::Remote;
use crate::volume::map::Whence;
use crate::volume::read::ReadNow;

/// How long the kernel may use attributes and names without asking. Open volumes are told of changes
/// at once; for the others this is how old `stat` may be.
const TTL: Duration = Duration::from_secs(1);
/// Largest request of the kernel.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests the kernel may have under way in the background (readahead, asynchronous direct IO).
const BACKGROUND_MAX: u16 = 128;
/// Block size shown in `st_blksize`.
const BLOCK_BYTES: u32 = 4096;
/// Unit of `st_blocks`.
const SECTOR_BYTES: u64 = 512;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

#[derive(Debug)]
pub struct Adapter<R: Remote> {
    fs: Arc<FileSystem<R>>,
    runtime: Handle,
}

impl<R: Remote> Adapter<R> {
    pub fn new(fs: Arc<FileSystem<R>>, runtime: Handle) -> Self {
        Self { fs, runtime }
    }

    /// Runs a request that may wait.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<FileSystem<R>>) -> F) {
        self.runtime.spawn(work(Arc::clone(&self.fs)));
    }
}

/// Keeps a bug in one request from ending the reader thread, and with it the mount.
fn guarded(call: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(call, "a request panicked; it was answered with EIO");
    }
}

fn errno(call: &'static str, error: &Error) -> Errno {
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

fn name_of(name: &OsStr) -> Result<NodeName, Errno> {
    NodeName::new(name.as_bytes()).map_err(|error| match error {
        PathError::NameTooLong | PathError::PathTooLong | PathError::TooDeep => Errno::ENAMETOOLONG,
        PathError::Empty | PathError::Dots | PathError::Separator => Errno::EINVAL,
    })
}

fn time_of(time: Timestamp) -> SystemTime {
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

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Volume => FileType::RegularFile,
        NodeKind::Folder => FileType::Directory,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
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

impl<R: Remote> Filesystem for Adapter<R> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // One by one, each if offered: asking for all of them at once hangs the mount.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if let Err(missing) = config.add_capabilities(wanted) {
                tracing::debug!(?missing, "the kernel does not offer this");
            }
        }
        let refused = |nearest| std::io::Error::other(format!("the kernel's limit is {nearest}"));
        config.set_max_background(BACKGROUND_MAX).map_err(refused)?;
        config
            .set_max_write(REQUEST_BYTES_MAX)
            .map_err(|nearest| std::io::Error::other(format!("limit {nearest}")))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || match name_of(name) {
            Err(error) => reply.error(error),
            Ok(name) => self.spawn(async move |fs| match fs.lookup(NodeId(parent.0), &name).await {
                Ok(attr) => reply.entry(&TTL, &file_attr(&attr), Generation(attr.birth_ns)),
                Err(error) => reply.error(errno("lookup", &error)),
            }),
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        guarded("forget", || {
            let _runtime = self.runtime.enter();
            self.fs.forget(NodeId(ino.0), lookups);
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _open: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || match self.fs.attr_now(NodeId(ino.0)) {
            Some(attr) => reply.attr(&TTL, &file_attr(&attr)),
            None => self.spawn(async move |fs| match fs.attr(NodeId(ino.0)).await {
                Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
                Err(error) => reply.error(errno("getattr", &error)),
            }),
        });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded("open", || {
            if flags.acc_mode() != fuser::OpenAccMode::O_RDONLY {
                return reply.error(Errno::EROFS);
            }
            self.spawn(async move |fs| match fs.open(NodeId(ino.0)).await {
                Ok((open, keep_cache)) => {
                    let flags = if keep_cache {
                        FopenFlags::FOPEN_KEEP_CACHE
                    } else {
                        FopenFlags::empty()
                    };
                    reply.opened(FileHandle(open.0), flags);
                }
                Err(error) => reply.error(errno("open", &error)),
            });
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || {
            let (open, wanted) = (OpenId(open.0), ByteRange::at_saturating(offset, u64::from(size)));
            let direct = OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::DIRECT);
            if !direct {
                let _runtime = self.runtime.enter();
                match self.fs.read_now(open, wanted) {
                    Ok(ReadNow::Ready(gathered)) => return gathered.with_slice(|bytes| reply.data(bytes)),
                    Ok(ReadNow::Wait) => {}
                    Err(error) => return reply.error(errno("read", &error)),
                }
            }
            self.spawn(async move |fs| {
                let result = if direct {
                    fs.read_direct(open, wanted).await
                } else {
                    fs.read(open, wanted).await
                };
                match result {
                    Ok(gathered) => gathered.with_slice(|bytes| reply.data(bytes)),
                    Err(error) => reply.error(errno("read", &error)),
                }
            });
        });
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
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Nothing can be dirty on a read-only mount; ENOSYS would switch fsync off for good.
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _open: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded("release", || {
            let _runtime = self.runtime.enter();
            self.fs.close(OpenId(open.0));
            reply.ok();
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        guarded("lseek", || {
            let whence = match whence {
                SEEK_DATA => Whence::Data,
                SEEK_HOLE => Whence::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(from) = u64::try_from(offset) else {
                return reply.error(Errno::ENXIO);
            };
            let open = OpenId(open.0);
            match self.fs.seek_now(open, from, whence) {
                Ok(Sought::At(offset)) => reply_offset(reply, offset),
                Ok(Sought::None) => reply.error(Errno::ENXIO),
                Ok(Sought::Unknown(_)) => {
                    self.spawn(async move |fs| match fs.seek(open, from, whence).await {
                        Ok(offset) => reply_offset(reply, offset),
                        Err(error) => reply.error(errno("lseek", &error)),
                    })
                }
                Err(error) => reply.error(errno("lseek", &error)),
            }
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || match self.fs.open_folder(NodeId(ino.0)) {
            Ok(open) => reply.opened(FileHandle(open.0), FopenFlags::empty()),
            Err(error) => reply.error(errno("opendir", &error)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        guarded("readdir", || {
            self.spawn(
                async move |fs| match fs.listing(OpenId(open.0), offset == 0).await {
                    Ok(Listing { folder, names, .. }) => {
                        for place in Place::from(offset, names.len()) {
                            let full = match place {
                                Place::Dot(next, name) => {
                                    reply.add(INodeNo(folder.0), next, FileType::Directory, name)
                                }
                                Place::Entry(next, index) => {
                                    let (name, attr) = &names[index];
                                    let name = OsStr::from_bytes(name.as_bytes());
                                    reply.add(INodeNo(attr.id.0), next, file_type(attr.kind), name)
                                }
                            };
                            if full {
                                break;
                            }
                        }
                        reply.ok();
                    }
                    Err(error) => reply.error(errno("readdir", &error)),
                },
            );
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded("readdirplus", || {
            self.spawn(
                async move |fs| match fs.listing(OpenId(open.0), offset == 0).await {
                    Ok(Listing { folder, names, asked }) => {
                        for place in Place::from(offset, names.len()) {
                            let full = match place {
                                // The kernel takes no attributes of these two, but needs their kind.
                                Place::Dot(next, name) => {
                                    let mut attr = file_attr(&DOT);
                                    attr.ino = INodeNo(folder.0);
                                    reply.add(
                                        INodeNo(folder.0),
                                        next,
                                        name,
                                        &Duration::ZERO,
                                        &attr,
                                        Generation(0),
                                    )
                                }
                                Place::Entry(next, index) => {
                                    let (name, attr) = &names[index];
                                    let (ino, generation) = (INodeNo(attr.id.0), Generation(attr.birth_ns));
                                    let shown = file_attr(&fs.entry_attr(attr));
                                    let ttl = TTL.saturating_sub(asked.elapsed());
                                    let text = OsStr::from_bytes(name.as_bytes());
                                    let full = reply.add(ino, next, text, &ttl, &shown, generation);
                                    if !full {
                                        fs.entry_given(folder, name, attr);
                                    }
                                    full
                                }
                            };
                            if full {
                                break;
                            }
                        }
                        reply.ok();
                    }
                    Err(error) => reply.error(errno("readdirplus", &error)),
                },
            );
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        guarded("releasedir", || {
            self.fs.close_folder(OpenId(open.0));
            reply.ok();
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || {
            self.spawn(async move |fs| match fs.space().await {
                Ok(space) => reply.statfs(
                    space.blocks,
                    space.blocks_free,
                    space.blocks_available,
                    space.nodes,
                    space.nodes_free,
                    space.block_bytes,
                    space.name_bytes_max,
                    space.block_bytes,
                ),
                Err(error) => reply.error(errno("statfs", &error)),
            });
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || {
            let Some(name) = name.to_str().filter(|name| name.starts_with("user.lacuna.")) else {
                return reply.error(Errno::EOPNOTSUPP);
            };
            match self.fs.attributes(NodeId(ino.0)) {
                Ok(facts) => match facts.into_iter().find(|(key, _)| *key == name) {
                    Some((_, value)) => reply_xattr(reply, value.as_bytes(), size),
                    None => reply.error(Errno::ENODATA),
                },
                Err(error) => reply.error(errno("getxattr", &error)),
            }
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || match self.fs.attributes(NodeId(ino.0)) {
            Ok(facts) => {
                let names: Vec<u8> = facts.iter().flat_map(|(key, _)| key.bytes().chain([0])).collect();
                reply_xattr(reply, &names, size);
            }
            Err(error) => reply.error(errno("listxattr", &error)),
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions (default_permissions); this is only asked without that.
        reply.ok();
    }
}

/// Attributes of `.` and `..` in listings, of which the kernel uses the kind alone.
const DOT: Attr = Attr {
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
    generation: lacuna_transport::id::Generation(0),
    base: lacuna_transport::id::Generation(0),
};

/// A place in a listing; each carries the offset at which the next one begins.
#[derive(Clone, Copy, Debug)]
enum Place {
    Dot(u64, &'static str),
    Entry(u64, usize),
}

impl Place {
    /// What is to be told from `offset` on, of a folder with `count` names.
    fn from(offset: u64, count: usize) -> impl Iterator<Item = Self> {
        let end = u64::try_from(count).unwrap_or(u64::MAX).saturating_add(2);
        (offset..end).map(|at| match at {
            0 => Self::Dot(1, "."),
            1 => Self::Dot(2, ".."),
            _ => Self::Entry(at + 1, usize::try_from(at - 2).unwrap_or(usize::MAX)),
        })
    }
}

fn reply_offset(reply: ReplyLseek, offset: u64) {
    match i64::try_from(offset) {
        Ok(offset) => reply.offset(offset),
        Err(_) => reply.error(Errno::EOVERFLOW),
    }
}

fn reply_xattr(reply: ReplyXattr, value: &[u8], room: u32) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match room {
        0 => reply.size(len),
        room if room < len => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
