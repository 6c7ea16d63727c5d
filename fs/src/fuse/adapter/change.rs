//! Requests that change something.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{
    Errno, FileHandle, FileType, FopenFlags, Generation, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, WriteFlags,
};
use lacuna_transport::attr::{NewAttr, NewNode};
use lacuna_transport::id::NodeId;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::{RenameMode, Reshape};
use rustix::fs::{FallocateFlags, OFlags};

use super::convert::{errno, file_attr, name_of};
use super::{Adapter, TTL};
use crate::error::Result;
use crate::file_system::changes::Reach;
use crate::file_system::{FileSystem, OpenId};
use crate::remote::{Access, Remote};
use crate::volume::write::WriteNow;

/// Set-user-id and set-group-id bits, which a change by somebody without privileges takes away.
const SET_ID: u32 = 0o6000;

/// A write, but for its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) node: NodeId,
    pub(super) open: OpenId,
    pub(super) offset: u64,
    /// The set-id bits go.
    pub(super) strip: bool,
    pub(super) reach: Reach,
}

impl<R: Remote> Adapter<R> {
    /// Runs a request that may wait and has no answer but its success.
    pub(super) fn answer<F>(
        &self,
        call: &'static str,
        reply: ReplyEmpty,
        work: impl FnOnce(Arc<FileSystem<R>>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        // Called in there: handed over as a future, it would be held twice.
        self.spawn(async move |fs| match work(fs).await {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(call, &error)),
        });
    }

    pub(super) fn open_volume(&self, uid: u32, id: NodeId, flags: OpenFlags, reply: ReplyOpen) {
        let access = match flags.acc_mode() {
            fuser::OpenAccMode::O_RDONLY => Access::Read,
            fuser::OpenAccMode::O_WRONLY | fuser::OpenAccMode::O_RDWR => Access::ReadWrite,
        };
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let (truncate, reach) = (flags.contains(OFlags::TRUNC), reach_of_handle(flags));
        self.spawn(async move |fs| {
            let opened = async {
                if truncate {
                    strip_set_id(&fs, uid, id).await?;
                    fs.set_attr(id, Some(0), NewAttr::default()).await?;
                }
                fs.open(id, access).await
            };
            match opened.await {
                Ok((open, keep_cache)) => {
                    fs.set_reach(open, reach);
                    let flags = if keep_cache && !truncate {
                        FopenFlags::FOPEN_KEEP_CACHE
                    } else {
                        FopenFlags::empty()
                    };
                    reply.opened(FileHandle(open.0), flags);
                }
                Err(error) => reply.error(errno("open", &error)),
            }
        });
    }

    pub(super) fn take_write(&self, write: &Write, data: &[u8], reply: ReplyWrite) {
        // Up to the end of a device, as a device itself does.
        let data = match self.fs.fitting(write.open, write.offset, data) {
            Ok(data) => data,
            Err(error) => return reply.error(errno("write", &error)),
        };
        let Ok(len) = u32::try_from(data.len()) else {
            return reply.error(Errno::EINVAL);
        };
        if write.reach == Reach::Here && !write.strip {
            let _runtime = self.runtime.enter();
            match self.fs.write_now(write.open, write.offset, data) {
                Ok(WriteNow::Done) => return reply.written(len),
                Ok(WriteNow::Wait) => {}
                Err(error) => return reply.error(errno("write", &error)),
            }
        }
        let (write, data) = (*write, data.to_vec());
        self.spawn(async move |fs| {
            let written = async {
                if write.strip {
                    strip_set_id(&fs, u32::MAX, write.node).await?;
                }
                fs.write(write.open, write.offset, &data, write.reach).await
            };
            match written.await {
                Ok(()) => reply.written(len),
                Err(error) => reply.error(errno("write", &error)),
            }
        });
    }

    pub(super) fn reshape(
        &self,
        open: OpenId,
        how: Reshape,
        range: ByteRange,
        grow: bool,
        reply: ReplyEmpty,
    ) {
        let taken_in = {
            let _runtime = self.runtime.enter();
            self.fs.reshape_now(open, how, range)
        };
        match taken_in {
            Ok(WriteNow::Done) => reply.ok(),
            Ok(WriteNow::Wait) => self.answer("fallocate", reply, async move |fs| {
                Box::pin(fs.reshape(open, how, range, grow)).await
            }),
            Err(error) => reply.error(errno("fallocate", &error)),
        }
    }

    pub(super) fn create_volume(
        &self,
        parent: NodeId,
        name: &OsStr,
        node: NewNode,
        flags: OFlags,
        reply: ReplyCreate,
    ) {
        let name = match name_of(name) {
            Ok(name) => name,
            Err(error) => return reply.error(error),
        };
        self.spawn(async move |fs| {
            let created = async {
                let exclusive = flags.contains(OFlags::EXCL);
                let (attr, open) = fs.create(parent, &name, node, exclusive).await?;
                fs.set_reach(open, reach_of_handle(flags));
                if attr.size == 0 || !flags.contains(OFlags::TRUNC) {
                    return Ok((attr, open));
                }
                // Another host made it between the kernel's look and this.
                let attr = fs.set_attr(attr.id, Some(0), NewAttr::default()).await?;
                Ok((attr, open))
            };
            match created.await {
                Ok((attr, open)) => reply.created(
                    &TTL,
                    &file_attr(&attr),
                    Generation(attr.birth_ns),
                    FileHandle(open.0),
                    FopenFlags::empty(),
                ),
                Err(error) => reply.error(errno("create", &error)),
            }
        });
    }

    pub(super) fn make_volume(&self, parent: NodeId, name: &OsStr, node: NewNode, reply: ReplyEntry) {
        let name = match name_of(name) {
            Ok(name) => name,
            Err(error) => return reply.error(error),
        };
        self.spawn(async move |fs| match fs.create(parent, &name, node, true).await {
            Ok((attr, open)) => {
                fs.close(open);
                reply.entry(&TTL, &file_attr(&attr), Generation(attr.birth_ns));
            }
            Err(error) => reply.error(errno("mknod", &error)),
        });
    }

    pub(super) fn make_folder(&self, parent: NodeId, name: &OsStr, node: NewNode, reply: ReplyEntry) {
        let name = match name_of(name) {
            Ok(name) => name,
            Err(error) => return reply.error(error),
        };
        self.spawn(async move |fs| match fs.make_folder(parent, &name, node).await {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), Generation(attr.birth_ns)),
            Err(error) => reply.error(errno("mkdir", &error)),
        });
    }

    pub(super) fn remove(&self, parent: NodeId, name: &OsStr, folder: bool, reply: ReplyEmpty) {
        match name_of(name) {
            Ok(name) => self.answer("remove", reply, async move |fs| {
                fs.remove(parent, &name, folder).await
            }),
            Err(error) => reply.error(error),
        }
    }

    pub(super) fn rename_node(
        &self,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::Keep
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        match (name_of(from.1), name_of(to.1)) {
            (Ok(name), Ok(new)) => self.answer("rename", reply, async move |fs| {
                fs.rename((from.0, &name), (to.0, &new), mode).await
            }),
            (Err(error), _) | (_, Err(error)) => reply.error(error),
        }
    }

    /// `size` may come with the handle through which it is set.
    pub(super) fn set_attr(
        &self,
        uid: u32,
        id: NodeId,
        size: Option<(u64, Option<OpenId>)>,
        attr: NewAttr,
        reply: ReplyAttr,
    ) {
        self.spawn(async move |fs| {
            let set = async {
                if size.is_some() {
                    strip_set_id(&fs, uid, id).await?;
                }
                if let Some((size, Some(open))) = size {
                    fs.resize_open(open, size).await?;
                    return fs.set_attr(id, None, attr).await;
                }
                fs.set_attr(id, size.map(|(size, _)| size), attr).await
            };
            match set.await {
                Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
                Err(error) => reply.error(errno("setattr", &error)),
            }
        });
    }
}

/// Takes the set-id bits away before a change by somebody who is not root: the kernel leaves it to us
/// (FUSE_HANDLE_KILLPRIV_V2).
async fn strip_set_id<R: Remote>(fs: &FileSystem<R>, uid: u32, id: NodeId) -> Result<()> {
    if uid == 0 {
        return Ok(());
    }
    let attr = match fs.attr_now(id) {
        Some(attr) => attr,
        None => fs.attr(id).await?,
    };
    // Without group execution the set-group-id bit means mandatory locking and stays.
    let bits = if attr.mode & 0o010 == 0 { 0o4000 } else { SET_ID };
    if attr.mode & bits == 0 {
        return Ok(());
    }
    let attr = NewAttr {
        mode: Some(attr.mode & !bits),
        ..NewAttr::default()
    };
    fs.set_attr(id, None, attr).await.map(drop)
}

/// How far a write has to get before it is acknowledged. Pages that the kernel writes back by itself are on
/// nobody's account.
pub(super) fn reach_of(flags: OpenFlags, write: WriteFlags) -> Reach {
    if write.contains(WriteFlags::FUSE_WRITE_CACHE) {
        Reach::Here
    } else {
        reach_of_handle(OFlags::from_bits_retain(flags.0.cast_unsigned()))
    }
}

/// The same for all that is done through a handle that was opened with these flags.
fn reach_of_handle(flags: OFlags) -> Reach {
    if flags.intersects(OFlags::SYNC | OFlags::DSYNC) {
        Reach::Storage
    } else if flags.contains(OFlags::DIRECT) {
        Reach::Server
    } else {
        Reach::Here
    }
}

/// What a mode of fallocate(2) asks for, and whether the volume grows; `None` for others.
pub(super) fn reshape_of(mode: i32) -> Option<(Reshape, bool)> {
    let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let keep = mode.contains(FallocateFlags::KEEP_SIZE);
    let rest = mode.difference(FallocateFlags::KEEP_SIZE);
    if rest.is_empty() {
        Some((Reshape::Allocate, !keep))
    } else if rest == FallocateFlags::PUNCH_HOLE && keep {
        Some((Reshape::Punch, false))
    } else if rest == FallocateFlags::ZERO_RANGE {
        Some((Reshape::Zero, !keep))
    } else {
        None
    }
}

/// The type in a mode of mknod(2); 0 means a regular file.
pub(super) fn type_of(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        _ if mode & 0o170_000 == 0 => FileType::RegularFile,
        rustix::fs::FileType::RegularFile => FileType::RegularFile,
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::CharDevice,
    }
}
