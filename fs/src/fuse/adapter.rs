//! From FUSE requests to the file system and back. Nothing is decided here.
//!
//! Each method parses the kernel's arguments, answers at once if the file system can, and otherwise
//! hands its reply to a task. It never blocks: there is one reader thread, and it would stop the mount.
//! A reply that is dropped (a panic, a task that ends) answers EIO by itself.
//!
//! `change` has what writes, `lock` what locks, `convert` the types.

mod change;
mod convert;
mod lock;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use lacuna_transport::attr::{NewAttr, NewNode};
use lacuna_transport::id::NodeId;
use lacuna_transport::range::ByteRange;
use rustix::fs::OFlags;
use tokio::runtime::Handle;

use self::convert::{
    DOT, Place, errno, file_attr, file_type, guarded, name_of, new_time, reply_offset, reply_xattr,
};
use self::lock::LockArguments;
use super::busy_poll::BusyPoll;
use super::negotiate::{ask_for, negotiate};
use crate::extent_map::Sought;
use crate::file_system::{FileSystem, Listing, OpenId};
use crate::remote::Remote;
use crate::volume::map::Whence;
use crate::volume::read::ReadNow;

/// How long the kernel may use attributes and names without asking. Open volumes are told of changes
/// at once; for the others this is how old `stat` may be.
const TTL: Duration = Duration::from_secs(1);
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

#[derive(Debug)]
pub struct Adapter<R: Remote> {
    fs: Arc<FileSystem<R>>,
    runtime: Handle,
    poll: Option<Arc<BusyPoll>>,
    buffer: lock::Buffer,
}

impl<R: Remote> Adapter<R> {
    /// `poll` is told which requests are answered on the spot.
    pub fn new(fs: Arc<FileSystem<R>>, runtime: Handle, poll: Option<Arc<BusyPoll>>) -> Self {
        Self {
            fs,
            runtime,
            poll,
            buffer: lock::Buffer::open(),
        }
    }

    /// A request is answered without waiting.
    fn on_the_spot(&self) {
        if let Some(poll) = &self.poll {
            poll.answered();
        }
    }

    fn waits(&self) {
        if let Some(poll) = &self.poll {
            poll.waits();
        }
    }

    fn seek_later(&self, open: OpenId, from: u64, whence: Whence, reply: ReplyLseek) {
        self.spawn(async move |fs| match fs.seek(open, from, whence).await {
            Ok(offset) => reply_offset(reply, offset),
            Err(error) => reply.error(errno("lseek", &error)),
        });
    }

    /// Runs a request that may wait.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<FileSystem<R>>) -> F) {
        self.waits();
        self.runtime.spawn(work(Arc::clone(&self.fs)));
    }
}

impl<R: Remote> Filesystem for Adapter<R> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config)?;
        for wanted in [InitFlags::FUSE_POSIX_LOCKS, InitFlags::FUSE_FLOCK_LOCKS] {
            ask_for(config, wanted);
        }
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
            Some(attr) => {
                self.on_the_spot();
                reply.attr(&TTL, &file_attr(&attr));
            }
            None => self.spawn(async move |fs| match fs.attr(NodeId(ino.0)).await {
                Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
                Err(error) => reply.error(errno("getattr", &error)),
            }),
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded("open", || {
            self.open_volume(request.uid(), NodeId(ino.0), flags, reply)
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
                    Ok(ReadNow::Ready(gathered)) => {
                        self.on_the_spot();
                        return gathered.with_slice(|bytes| reply.data(bytes));
                    }
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
        open: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        guarded("flush", || {
            let owner = lacuna_transport::id::LockOwner(owner.0);
            self.answer("flush", reply, async move |fs| {
                let drained = fs.drain(OpenId(open.0)).await;
                fs.unlock_closed(OpenId(open.0), owner).await;
                drained
            });
        });
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, open: FileHandle, datasync: bool, reply: ReplyEmpty) {
        guarded("fsync", || {
            self.answer("fsync", reply, async move |fs| {
                fs.flush(OpenId(open.0), datasync).await
            });
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _open: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        guarded("fsyncdir", || {
            self.answer("fsyncdir", reply, async move |fs| {
                fs.flush_folder(NodeId(ino.0)).await
            });
        });
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
            self.fs.release(OpenId(open.0));
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
            if self.fs.seeks_wait(open) {
                return self.seek_later(open, from, whence, reply);
            }
            match self.fs.seek_now(open, from, whence) {
                Ok(Sought::At(offset)) => {
                    self.on_the_spot();
                    reply_offset(reply, offset);
                }
                Ok(Sought::None) => reply.error(Errno::ENXIO),
                Ok(Sought::Unknown(_)) => self.seek_later(open, from, whence, reply),
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
        reply.error(Errno::EOPNOTSUPP);
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        open: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || {
            let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            let write = change::Write {
                node: NodeId(ino.0),
                open: OpenId(open.0),
                offset,
                strip,
                reach: change::reach_of(flags, write_flags),
            };
            self.take_write(&write, data, reply);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded("create", || {
            let flags = OFlags::from_bits_retain(flags.cast_unsigned());
            let node = new_node(request, mode & !umask);
            self.create_volume(NodeId(parent.0), name, node, flags, reply);
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        guarded("mknod", || {
            // Volumes and folders are all there is.
            if FileType::RegularFile != change::type_of(mode) {
                return reply.error(Errno::EPERM);
            }
            self.make_volume(NodeId(parent.0), name, new_node(request, mode & !umask), reply);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        guarded("mkdir", || {
            self.make_folder(NodeId(parent.0), name, new_node(request, mode & !umask), reply);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || self.remove(NodeId(parent.0), name, false, reply));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || self.remove(NodeId(parent.0), name, true, reply));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded("rename", || {
            let (from, to) = (NodeId(parent.0), NodeId(newparent.0));
            self.rename_node((from, name), (to, newname), flags, reply);
        });
    }

    fn symlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _to: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        open: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded("setattr", || {
            let attr = NewAttr {
                mode: mode.map(|mode| mode & 0o7777),
                uid,
                gid,
                accessed: atime.map(new_time),
                modified: mtime.map(new_time),
            };
            let size = size.map(|size| (size, open.map(|open| OpenId(open.0))));
            self.set_attr(request.uid(), NodeId(ino.0), size, attr, reply);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guarded("fallocate", || match change::reshape_of(mode) {
            Some((how, grow)) => {
                let range = ByteRange::at_saturating(offset, length);
                self.reshape(OpenId(open.0), how, range, grow, reply);
            }
            None => reply.error(Errno::EOPNOTSUPP),
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _source_ino: INodeNo,
        source: FileHandle,
        source_offset: u64,
        _target_ino: INodeNo,
        target: FileHandle,
        target_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded("copy_file_range", || {
            let range = ByteRange::at_saturating(source_offset, len);
            let (source, target) = (OpenId(source.0), OpenId(target.0));
            self.spawn(
                async move |fs| match fs.copy((source, range), (target, target_offset)).await {
                    Ok(bytes) => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
                    Err(error) => reply.error(errno("copy_file_range", &error)),
                },
            );
        });
    }

    fn getlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        reply: ReplyLock,
    ) {
        guarded("getlk", || {
            let arguments = LockArguments {
                open: open.0,
                owner: owner.0,
                start,
                end,
                kind,
                process,
            };
            self.test_lock(&arguments, reply);
        });
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        open: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        guarded("setlk", || {
            let arguments = LockArguments {
                open: open.0,
                owner: owner.0,
                start,
                end,
                kind,
                process,
            };
            self.set_lock(request, &arguments, waits, reply);
        });
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions (default_permissions); this is only asked without that.
        reply.ok();
    }
}

fn new_node(request: &Request, mode: u32) -> NewNode {
    NewNode {
        mode: mode & 0o7777,
        uid: request.uid(),
        gid: request.gid(),
    }
}
