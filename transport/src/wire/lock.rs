//! Bodies of requests for locks, as fcntl(2) and flock(2) take them.

use minicbor::{Decode, Encode};

use super::WireError;
use super::message::{Message, within};
use crate::attr::Attr;
use crate::id::{Handle, LockOwner};
use crate::range::ByteRange;

/// Which locks see each other, as in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockSpace {
    /// fcntl(2): POSIX and open file description locks.
    #[n(0)]
    Ranges,
    /// flock(2): the whole volume.
    #[n(1)]
    Whole,
}

/// What a lock admits beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockKind {
    #[n(0)]
    Shared,
    #[n(1)]
    Exclusive,
}

/// `Lock` (answered with [`Locked`]) and `TestLock` (answered with [`LockFound`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LockRequest {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub space: LockSpace,
    #[n(2)]
    pub owner: LockOwner,
    /// The process, as its host numbers it: for people and F_GETLK.
    #[n(3)]
    pub pid: u32,
    /// `None` gives up what the owner has of the range.
    #[n(4)]
    pub kind: Option<LockKind>,
    #[n(5)]
    pub start: u64,
    #[n(6)]
    pub end: u64,
    /// Tell with [`super::event::LocksFreed`] when it is worth trying again.
    #[n(7)]
    pub tell: bool,
    /// It was granted before, in another session: the server may have forgotten it.
    #[n(8)]
    pub again: Option<bool>,
}

impl LockRequest {
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end).unwrap_or(ByteRange::EMPTY)
    }
}

/// Answers `Lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Locked {
    /// False if somebody else's lock stands in the way.
    #[n(0)]
    pub granted: bool,
    /// The volume as it is with the lock: what whoever held it before has changed is in it.
    #[n(1)]
    pub attr: Option<Attr>,
}

/// One lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeldLock {
    #[n(0)]
    pub kind: LockKind,
    #[n(1)]
    pub start: u64,
    #[n(2)]
    pub end: u64,
    /// 0 if it is of another host.
    #[n(3)]
    pub pid: u32,
}

/// Answers `TestLock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LockFound {
    /// The first one that stands in the way.
    #[n(0)]
    pub held: Option<HeldLock>,
}

impl Message for LockRequest {
    fn check(&self) -> Result<(), WireError> {
        within(self.start < self.end, "range of a lock")?;
        let whole = self.start == 0 && self.end == u64::MAX;
        within(self.space == LockSpace::Ranges || whole, "part of a whole lock")
    }
}

impl Message for Locked {
    fn check(&self) -> Result<(), WireError> {
        self.attr.as_ref().map_or(Ok(()), Message::check)
    }
}

impl Message for LockFound {
    fn check(&self) -> Result<(), WireError> {
        within(
            self.held.is_none_or(|held| held.start < held.end),
            "range of a lock",
        )
    }
}
