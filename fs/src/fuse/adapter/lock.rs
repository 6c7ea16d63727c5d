//! Locks: flock(2) and fcntl(2).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use fuser::{Errno, ReplyEmpty, ReplyLock, Request};
use lacuna_transport::id::LockOwner;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::lock::{LockKind, LockSpace};

use super::Adapter;
use super::convert::errno;
use crate::error::{Error, ErrorKind};
use crate::file_system::OpenId;
use crate::file_system::locks::{LockCall, Signals};
use crate::remote::Remote;

/// `F_RDLCK`, `F_WRLCK`, `F_UNLCK`.
const READ_LOCK: i32 = 0;
const WRITE_LOCK: i32 = 1;
const NO_LOCK: i32 = 2;
/// The kernel's last offset: a lock up to there has no end.
const OFFSET_MAX: u64 = i64::MAX.cast_unsigned();

/// `struct fuse_in_header` and `struct fuse_lk_in` of linux/fuse.h, and where things are in them.
const REQUEST_BYTES: usize = 88;
const UNIQUE_AT: usize = 8;
const HANDLE_AT: usize = 40;
const OWNER_AT: usize = 48;
const START_AT: usize = 56;
const END_AT: usize = 64;
const FLAGS_AT: usize = 80;
/// `FUSE_LK_FLOCK`
const IS_FLOCK: u32 = 1;

/// What the kernel says of a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockArguments {
    pub(super) open: u64,
    pub(super) owner: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: i32,
    pub(super) process: u32,
}

impl LockArguments {
    fn call(&self, space: LockSpace) -> Option<LockCall> {
        let end = if self.end >= OFFSET_MAX {
            u64::MAX
        } else {
            self.end + 1
        };
        let range = ByteRange::new(self.start, end).filter(|range| !range.is_empty())?;
        Some(LockCall {
            open: OpenId(self.open),
            space,
            owner: LockOwner(self.owner),
            process: self.process,
            range: if space == LockSpace::Whole {
                ByteRange::ALL
            } else {
                range
            },
        })
    }
}

/// Tells flock(2) from fcntl(2): fuser parses the flag and does not pass it on, but hands out the request where it
/// lies in the buffer that it was read into. That is looked at through the kernel, which refuses what is not there; what does
/// not have the arguments of the call where they belong is not believed, and is taken for fcntl(2), whose locks
/// exclude more.
#[derive(Debug)]
pub(super) struct Buffer(Option<File>);

impl Buffer {
    pub(super) fn open() -> Self {
        let memory = File::open("/proc/self/mem");
        if let Err(error) = &memory {
            tracing::warn!(%error, "locks of flock(2) and of fcntl(2) exclude each other on this mount");
        }
        Self(memory.ok())
    }

    fn space(&self, request: &Request, arguments: &LockArguments) -> LockSpace {
        let at = u64::try_from(std::ptr::from_ref(request).addr()).unwrap_or(0);
        let mut bytes = [0; REQUEST_BYTES];
        match &self.0 {
            Some(memory) if memory.read_exact_at(&mut bytes, at).is_ok() => {
                space_of(&bytes, request.unique().0, arguments)
            }
            _ => LockSpace::Ranges,
        }
    }
}

fn space_of(bytes: &[u8; REQUEST_BYTES], unique: u64, arguments: &LockArguments) -> LockSpace {
    let u32_at = |at| field(bytes, at).map(u32::from_ne_bytes);
    let u64_at = |at| field(bytes, at).map(u64::from_ne_bytes);
    let expected = [
        (UNIQUE_AT, unique),
        (HANDLE_AT, arguments.open),
        (OWNER_AT, arguments.owner),
        (START_AT, arguments.start),
        (END_AT, arguments.end),
    ];
    let is_it = u32_at(0) == u32::try_from(REQUEST_BYTES).ok()
        && expected.iter().all(|(at, value)| u64_at(*at) == Some(*value));
    let is_whole = arguments.start == 0 && arguments.end >= OFFSET_MAX;
    match u32_at(FLAGS_AT) {
        Some(flags) if is_it && is_whole && flags & IS_FLOCK != 0 => LockSpace::Whole,
        _ => LockSpace::Ranges,
    }
}

fn field<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<[u8; BYTES]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl<R: Remote> Adapter<R> {
    pub(super) fn set_lock(
        &self,
        request: &Request,
        arguments: &LockArguments,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let kind = match arguments.kind {
            READ_LOCK => Some(LockKind::Shared),
            WRITE_LOCK => Some(LockKind::Exclusive),
            NO_LOCK => None,
            _ => return reply.error(Errno::EINVAL),
        };
        let Some(call) = arguments.call(self.buffer.space(request, arguments)) else {
            return reply.error(Errno::EINVAL);
        };
        // The thread that asks; it stays until it is answered.
        let thread = request.pid();
        self.spawn(async move |fs| {
            let look = || signals_of(thread);
            let done = match kind {
                Some(kind) if waits => fs.lock(&call, kind, Some(&look)).await,
                Some(kind) => fs.lock(&call, kind, None).await,
                None => fs.unlock(&call).await,
            };
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(lock_errno(&error)),
            }
        });
    }

    pub(super) fn test_lock(&self, arguments: &LockArguments, reply: ReplyLock) {
        let kind = match arguments.kind {
            READ_LOCK => LockKind::Shared,
            WRITE_LOCK => LockKind::Exclusive,
            _ => return reply.error(Errno::EINVAL),
        };
        // Only fcntl(2) asks.
        let Some(call) = arguments.call(LockSpace::Ranges) else {
            return reply.error(Errno::EINVAL);
        };
        let arguments = *arguments;
        self.spawn(async move |fs| match fs.test_lock(&call, kind).await {
            Ok(None) => reply.locked(arguments.start, arguments.end, NO_LOCK, 0),
            Ok(Some(held)) => {
                let kind = match held.kind {
                    LockKind::Shared => READ_LOCK,
                    LockKind::Exclusive => WRITE_LOCK,
                };
                let end = if held.end == u64::MAX {
                    OFFSET_MAX
                } else {
                    held.end.saturating_sub(1)
                };
                reply.locked(held.start.min(OFFSET_MAX), end.min(OFFSET_MAX), kind, held.pid);
            }
            Err(error) => reply.error(lock_errno(&error)),
        });
    }
}

fn lock_errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::Exhausted => Errno::ENOLCK,
        _ => errno("lock", error),
    }
}

/// Whether a thread that waits for our answer was sent a signal. It is not told by FUSE: fuser refuses
/// FUSE_INTERRUPT. The kernel turns EINTR for a lock into a restart where the program asked for that (SA_RESTART), but only if
/// a signal is there for that thread: else the program would see a number that is no errno.
fn signals_of(thread: u32) -> Signals {
    if thread == 0 {
        // Of another PID namespace.
        return Signals::Unknown;
    }
    let status = fs::read_to_string(format!("/proc/{thread}/status"));
    status
        .ok()
        .and_then(|status| signals_in(&status))
        .unwrap_or(Signals::Unknown)
}

/// From proc_pid_status(5). Signals of the whole process go to its first thread, if they can.
fn signals_in(status: &str) -> Option<Signals> {
    let value = |name: &str| {
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let mask = |name| u64::from_str_radix(value(name)?, 16).ok();
    let mut pending = mask("SigPnd")?;
    if value("Pid")? == value("Tgid")? {
        pending |= mask("ShdPnd")?;
    }
    let is_sent = pending & !mask("SigBlk")? != 0;
    Some(if is_sent { Signals::Pending } else { Signals::None })
}

#[cfg(test)]
mod tests;
