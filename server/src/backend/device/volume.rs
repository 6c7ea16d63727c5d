//! The volume of a device: one for all who have it open.
//!
//! Mode, owner and times are those of the volume, not of the device node: they begin as the node's owner and
//! 0600, and last as long as the server runs.
//!
//! The change time is the clock of the content, from which the generation follows. It begins as the time of the
//! start, so that it is later than any of an earlier run, and every change moves it, before and after. It lags
//! behind the clock by the longest tick of any: [`crate::generation`] then never has to doubt it.

use std::os::fd::{AsFd, OwnedFd};

use lacuna_transport::attr::{Attr, NewAttr, NewTime, NodeKind, Timestamp};
use lacuna_transport::bulk_write::BulkWrites;
use lacuna_transport::extent::Extent;
use lacuna_transport::id::{Generation, NodeId};
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};

use super::zeros::ZeroMap;
use crate::backend::OpenVolume;
use crate::backend::descriptor::{self, CachedReads};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::generation::SETTLED;
use crate::wanted;

/// Zeros are made in pieces that end at multiples of this: what is done is known when it takes long and the
/// client asks again. Writing one to a slow disk takes less than the next session of a client waits for it.
const ZEROS_BYTES: u64 = 64 << 20;
/// Extents looked at at once.
const RUNS: usize = 1024;
/// Mode of the volume: as secret as the device.
const MODE: u32 = 0o600;
/// Set-user-id and set-group-id: a change of owner takes them away.
const SET_ID: u32 = 0o6000;
const NS_IN_SECOND: u64 = 1_000_000_000;

/// What stays as it was when the device was opened.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) id: NodeId,
    /// For messages.
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Zeros are made of whole sectors.
    pub(super) sector_bytes: u64,
    pub(super) read_only: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DeviceVolume {
    file: OwnedFd,
    origin: Origin,
    cached: CachedReads,
    writes: BulkWrites,
    face: Mutex<Face>,
    zeros: Mutex<ZeroMap>,
    /// What was punched and not written since: of it nothing more can be freed.
    freed: Mutex<ZeroMap>,
}

#[derive(Debug)]
struct Face {
    mode: u32,
    uid: u32,
    gid: u32,
    accessed: Timestamp,
    modified: Timestamp,
    changed_ns: u64,
}

/// How zeros are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    /// The device may free what they take.
    Free,
    Keep,
}

impl DeviceVolume {
    pub(super) fn new(file: OwnedFd, origin: Origin) -> Self {
        let changed_ns = change_time_ns();
        let face = Face {
            mode: MODE,
            uid: origin.uid,
            gid: origin.gid,
            accessed: timestamp(changed_ns),
            modified: timestamp(changed_ns),
            changed_ns,
        };
        Self {
            file,
            cached: CachedReads::default(),
            writes: BulkWrites::default(),
            face: Mutex::new(face),
            zeros: Mutex::new(ZeroMap::new(origin.size)),
            freed: Mutex::new(ZeroMap::new(origin.size)),
            origin,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.origin.name
    }

    pub(super) fn size(&self) -> u64 {
        self.origin.size
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Bytes that are known to be zero.
    pub(super) fn zero_bytes(&self) -> u64 {
        self.zeros.lock().zero_bytes()
    }

    /// `work` finds or makes zeros within `range` and tells where. They are known from then on, but for what is
    /// written meanwhile.
    pub(super) fn search(
        &self,
        range: ByteRange,
        work: impl FnOnce() -> Result<Vec<ByteRange>, Errno>,
    ) -> Result<(), Errno> {
        search(&self.zeros, range, work)
    }

    /// The search is at its end. Whoever took its zeros for data looks again: one generation has one map.
    pub(super) fn searched(&self) {
        if self.zero_bytes() > 0 {
            self.face.lock().tick();
        }
    }

    /// A change of the content. The stamp moves before it, and after it, failed or not.
    fn change<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.ready_to_change()?;
        self.touch();
        let done = work();
        self.touch();
        done
    }

    fn touch(&self) {
        let mut face = self.face.lock();
        face.tick();
        face.modified = now();
    }

    fn failed(&self, verb: &str, errno: Errno) -> Error {
        Error::os(format!("cannot {verb} {}", self.origin.name), errno)
    }

    /// Refuses what would need a larger device.
    fn check_end(&self, end: Option<u64>) -> Result<()> {
        if end.is_some_and(|end| end <= self.origin.size) {
            return Ok(());
        }
        let (name, size) = (&self.origin.name, self.origin.size);
        let text = format!("{name} is a device of {size} bytes: there is no space beyond its end");
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    fn make_zeros(&self, range: ByteRange, making: Making) -> Result<(), Errno> {
        let range = range.intersect(ByteRange::up_to(self.origin.size));
        let (head, rest) = range.split_at(range.start().next_multiple_of(self.origin.sector_bytes));
        let (sectors, tail) = rest.split_at(rest.end() / self.origin.sector_bytes * self.origin.sector_bytes);
        // Zeros into a unit that is zero leave it zero, so these are no writes for the map.
        descriptor::write_zeros(self.file.as_fd(), head)?;
        descriptor::write_zeros(self.file.as_fd(), tail)?;
        let mut left = sectors;
        while !left.is_empty() {
            if wanted::is_unwanted() {
                return Err(Errno::CANCELED);
            }
            let (piece, rest) = left.split_at((left.start() / ZEROS_BYTES + 1).saturating_mul(ZEROS_BYTES));
            self.search(piece, || match making {
                Making::Free => search(&self.freed, piece, || self.free(piece)).map(|()| vec![piece]),
                Making::Keep => self.zero_data(piece).map(|()| vec![piece]),
            })?;
            left = rest;
        }
        Ok(())
    }

    /// Punches what was not punched before. PUNCH_HOLE is done by the device alone, and only where it reads as
    /// zeros afterwards.
    fn free(&self, sectors: ByteRange) -> Result<Vec<ByteRange>, Errno> {
        self.for_data(&self.freed, sectors, |range| {
            match self.allocate_as(FallocateFlags::PUNCH_HOLE, range) {
                Err(Errno::OPNOTSUPP) => self.zero_data(range),
                other => other,
            }
        })?;
        Ok(vec![sectors])
    }

    /// Makes zeros of what is not known to be zero. ZERO_RANGE has the kernel write them where the device cannot.
    fn zero_data(&self, sectors: ByteRange) -> Result<(), Errno> {
        self.for_data(&self.zeros, sectors, |range| {
            self.allocate_as(FallocateFlags::ZERO_RANGE, range)
        })
    }

    /// `work` on the parts of `sectors` that the map has for data, as whole sectors.
    fn for_data(
        &self,
        map: &Mutex<ZeroMap>,
        sectors: ByteRange,
        work: impl Fn(ByteRange) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut left = sectors;
        while !left.is_empty() {
            let (data, end) = map.lock().data(left, RUNS);
            for range in data {
                work(range.align_out(self.origin.sector_bytes))?;
            }
            left = left.split_at(end).1;
        }
        Ok(())
    }

    fn allocate_as(&self, flags: FallocateFlags, range: ByteRange) -> Result<(), Errno> {
        let flags = flags | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, range.start(), range.len()))
    }
}

impl OpenVolume for DeviceVolume {
    fn attr(&self) -> Result<Attr> {
        let zero_bytes = self.zero_bytes();
        let face = self.face.lock();
        Ok(Attr {
            id: self.origin.id,
            kind: NodeKind::Volume,
            size: self.origin.size,
            allocated_bytes: self.origin.size - zero_bytes,
            mode: face.mode,
            uid: face.uid,
            gid: face.gid,
            links: 1,
            accessed: face.accessed,
            modified: face.modified,
            changed: timestamp(face.changed_ns),
            birth_ns: 0,
            generation: Generation(0),
            base: Generation(0),
        })
    }

    fn size_max(&self) -> Option<u64> {
        Some(self.origin.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        descriptor::read(self.file.as_fd(), buffer, offset).map_err(|errno| self.failed("read", errno))
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let size = || Ok(self.origin.size);
        let cached = self.cached.read(self.file.as_fd(), buffer, offset, size);
        cached.map_err(|errno| self.failed("read", errno))
    }

    fn will_read(&self, ranges: &[ByteRange]) {
        descriptor::will_read(self.file.as_fd(), ranges);
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        Ok(self.zeros.lock().extents(range, runs_max))
    }

    fn ready_to_change(&self) -> Result<()> {
        if self.origin.read_only {
            let text = format!("{} is a device that is read-only here", self.origin.name);
            return Err(Error::new(ErrorKind::ReadOnly, text));
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = u64::try_from(bytes.len()).ok();
        let range = range.and_then(|len| ByteRange::at(offset, len));
        self.change(|| {
            let Some(range) = range.filter(|range| !range.is_empty()) else {
                return if bytes.is_empty() {
                    Ok(())
                } else {
                    self.check_end(None)
                };
            };
            self.check_end(Some(range.end()))?;
            let tickets = [&self.zeros, &self.freed].map(|map| (map, map.lock().begin_write(range)));
            let written = self.writes.write(self.file.as_fd(), bytes, offset);
            for (map, ticket) in tickets {
                map.lock().end(ticket);
            }
            written.map_err(|errno| self.failed("write", errno))
        })
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        self.change(|| {
            let made = self.make_zeros(range, Making::Free);
            made.map_err(|errno| self.failed("punch", errno))
        })
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        self.change(|| {
            if grow {
                self.check_end(Some(range.end()))?;
            }
            let made = self.make_zeros(range, Making::Keep);
            made.map_err(|errno| self.failed("zero", errno))
        })
    }

    /// A device has its space; whether what is below it does, nobody can tell.
    fn allocate(&self, range: ByteRange, _: bool) -> Result<()> {
        self.ready_to_change()?;
        self.check_end(Some(range.end()))
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.ready_to_change()?;
        if size == self.origin.size {
            return Ok(());
        }
        let (name, now) = (&self.origin.name, self.origin.size);
        let text = format!("{name} is a device of {now} bytes and keeps that size; write into it as it is");
        Err(Error::new(ErrorKind::Invalid, text))
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.ready_to_change()?;
        self.check_end(Some(size))
    }

    fn flush(&self, data_only: bool) -> Result<()> {
        descriptor::flush(self.file.as_fd(), data_only).map_err(|errno| self.failed("flush", errno))
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        // The number that chown(2) takes for "leave it" is no owner.
        if [new.uid, new.gid].contains(&Some(u32::MAX)) {
            return Err(self.failed("set attributes of", Errno::INVAL));
        }
        self.face.lock().set(new);
        Ok(())
    }
}

/// `work` finds or makes what the map is of, within `range`.
fn search(
    map: &Mutex<ZeroMap>,
    range: ByteRange,
    work: impl FnOnce() -> Result<Vec<ByteRange>, Errno>,
) -> Result<(), Errno> {
    let ticket = map.lock().begin_search(range);
    let found = work();
    let mut map = map.lock();
    match found {
        Ok(found) => map.end_search(ticket, &found),
        Err(errno) => {
            map.end(ticket);
            return Err(errno);
        }
    }
    Ok(())
}

impl Face {
    /// Moves the change time, always.
    fn tick(&mut self) {
        self.changed_ns = self.changed_ns.saturating_add(1).max(change_time_ns());
    }

    fn set(&mut self, new: &NewAttr) {
        let at = |new, before| match new {
            None => before,
            Some(NewTime::Now) => now(),
            Some(NewTime::At(time)) => time,
        };
        if new.uid.is_some() || new.gid.is_some() {
            self.mode &= !SET_ID;
        }
        self.mode = new.mode.unwrap_or(self.mode);
        self.uid = new.uid.unwrap_or(self.uid);
        self.gid = new.gid.unwrap_or(self.gid);
        self.accessed = at(new.accessed, self.accessed);
        self.modified = at(new.modified, self.modified);
        self.tick();
    }
}

fn change_time_ns() -> u64 {
    clock::now_ns().saturating_sub(SETTLED)
}

fn now() -> Timestamp {
    timestamp(clock::now_ns())
}

fn timestamp(ns: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ns / NS_IN_SECOND).unwrap_or(i64::MAX),
        nanos: u32::try_from(ns % NS_IN_SECOND).unwrap_or(0),
    }
}
