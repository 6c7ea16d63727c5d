//! A server in memory, for tests of everything above the network.
//!
//! It counts requests, can be changed behind the client's back, can be made to fail, and can crash: then it
//! holds what was flushed and is another run of the server.

mod apply;
mod content;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NewTime, NodeKind, Space, Timestamp};
use lacuna_transport::digest::{InUnits, UnitHash};
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::id::{BootId, Generation, Handle, NodeId};
use lacuna_transport::limits::{SESSION_WINDOW_BYTES_MAX, VOLUME_BYTES_MAX};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::lock::{HeldLock, Locked};
use lacuna_transport::wire::map_page::MapPage;
use lacuna_transport::wire::message::{Features, RenameMode, Reshape};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::apply::{Then, pause};
pub use self::content::Content;
use super::{Access, DIGESTS_UNSUPPORTED, LOCKS_UNSUPPORTED, LockAsk, Named, Remote, SharedPath, UnitRange};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::buffer::Slice;

/// Bytes of one unit of allocation.
pub const UNIT_BYTES: u64 = 4096;

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<NodePath, u64>,
    folders: BTreeSet<NodePath>,
    contents: HashMap<u64, Content>,
    /// What a crash leaves.
    flushed: HashMap<u64, Content>,
    last_id: u64,
    boot: u8,
    fail: Option<ErrorKind>,
    fail_changes: Option<ErrorKind>,
    /// So many answers to changes are lost: they have had their effect.
    lose_answers: u64,
    page_bytes: Option<u64>,
    delays: Delays,
    fail_flush: Option<ErrorKind>,
    lacks: Features,
    /// Changes that begin below it are too late.
    refuse_below: u64,
    /// Reads that touch this byte fail.
    damaged: Option<u64>,
    /// Reads of more bytes are never answered.
    hang_above: Option<u64>,
    /// Somebody else writes to all volumes.
    held: bool,
}

/// How long things take at the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// Before a change has its effect.
    pub before: Duration,
    /// Between its effect and its answer.
    pub answer: Duration,
    /// Between reading a page of the map and handing it out.
    pub map: Duration,
    /// Before a request about names or attributes is looked at.
    pub ask: Duration,
}

impl State {
    fn make(&mut self, path: &NodePath) -> u64 {
        if let Some(id) = self.names.get(path) {
            return *id;
        }
        self.last_id = self.last_id.max(1) + 1;
        let id = self.last_id;
        self.names.insert(path.clone(), id);
        let new = Content {
            mode: 0o644,
            ..Content::default()
        };
        self.contents.insert(id, new.clone());
        self.flushed.insert(id, new);
        id
    }

    fn content(&mut self, id: u64) -> Result<&mut Content> {
        let gone = || Error::new(ErrorKind::Stale, "the volume is gone");
        self.contents.get_mut(&id).ok_or_else(gone)
    }

    fn id(&self, path: &NodePath) -> Result<u64> {
        let id = self.names.get(path).copied();
        id.ok_or_else(|| Error::new(ErrorKind::NotFound, path.to_string()))
    }

    fn boot(&self) -> BootId {
        BootId([self.boot; 16])
    }
}

/// The server. Clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct MemoryRemote {
    state: Arc<Mutex<State>>,
    requests: Arc<AtomicU64>,
    read_bytes: Arc<AtomicU64>,
    digested_bytes: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
    leases_kept: Arc<AtomicU64>,
    cut: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
pub struct MemoryVolume {
    id: u64,
    lease: u64,
    fenced: AtomicBool,
}

impl MemoryVolume {
    fn new(id: u64, lease: u64) -> Self {
        Self {
            id,
            lease,
            fenced: AtomicBool::new(false),
        }
    }
}

impl MemoryRemote {
    /// Makes or changes a volume, behind the client's back.
    pub fn change(&self, path: &NodePath, change: impl FnOnce(&mut Content)) {
        let mut state = self.state.lock();
        let id = state.make(path);
        if let Ok(content) = state.content(id) {
            change(content);
            content.base = content.generation;
            let flushed = content.clone();
            state.flushed.insert(id, flushed);
        }
    }

    /// What a volume holds now.
    pub fn content(&self, path: &NodePath) -> Option<Content> {
        let mut state = self.state.lock();
        let id = state.id(path).ok()?;
        state.content(id).ok().cloned()
    }

    /// Loses what was not flushed, and starts again.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.boot += 1;
        let flushed = state.flushed.clone();
        for (id, content) in &mut state.contents {
            let generation = content.generation;
            if let Some(kept) = flushed.get(id) {
                content.clone_from(kept);
            }
            // Generations follow change times: they do not go back.
            content.generation = generation + 1;
            content.base = content.generation;
        }
    }

    /// Starts again with all that it had.
    pub fn restart(&self) {
        self.state.lock().boot += 1;
    }

    /// Every request fails with this from now on (or works again).
    pub fn fail_with(&self, fail: Option<ErrorKind>) {
        self.state.lock().fail = fail;
    }

    /// As [`Self::fail_with`], for changes of content alone.
    pub fn fail_changes_with(&self, fail: Option<ErrorKind>) {
        self.state.lock().fail_changes = fail;
    }

    /// The next changes have their effect, but the answers are lost.
    pub fn lose_answers(&self, count: u64) {
        self.state.lock().lose_answers = count;
    }

    /// Refuses changes that begin below `offset`, for good, as a stream does.
    pub fn refuse_below(&self, offset: u64) {
        self.state.lock().refuse_below = offset;
    }

    /// From now on reads that touch this byte fail.
    pub fn damage(&self, offset: u64) {
        self.state.lock().damaged = Some(offset);
    }

    /// From now on reads of more bytes are never answered (or all are again).
    pub fn hang_larger_than(&self, bytes: Option<u64>) {
        self.state.lock().hang_above = bytes;
    }

    /// Gives the write lease of a volume to somebody else, who is done with it already.
    pub fn fence(&self, path: &NodePath) {
        self.change(path, |content| content.lease += 1);
    }

    /// Somebody else writes to every volume from now on (or no more).
    pub fn hold_leases(&self, held: bool) {
        self.state.lock().held = held;
    }

    pub fn delay(&self, delays: Delays) {
        self.state.lock().delays = delays;
    }

    /// The next flush fails with this.
    pub fn fail_next_flush(&self, kind: ErrorKind) {
        self.state.lock().fail_flush = Some(kind);
    }

    /// From now on it is an older server, which does not know these.
    pub fn forget(&self, features: Features) {
        self.state.lock().lacks = features;
    }

    /// Pages of maps cover so many bytes at most.
    pub fn limit_pages_to(&self, bytes: u64) {
        self.state.lock().page_bytes = Some(bytes);
    }

    /// The connection is lost, or there again: requests wait meanwhile.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    async fn reached(&self) {
        let uncut = |cut: &bool| !*cut;
        if self.cut.subscribe().wait_for(uncut).await.is_ok() {
            let delay = self.state.lock().delays.ask;
            pause(delay).await;
        }
    }

    /// How often it was told that a lease is needed.
    pub fn leases_kept(&self) -> u64 {
        self.leases_kept.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Payload bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of ranges that digests were asked for so far.
    pub fn digested_bytes(&self) -> u64 {
        self.digested_bytes.load(Ordering::Relaxed)
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn asked(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        match state.fail {
            Some(kind) => Err(Error::new(kind, "made to fail")),
            None => Ok(state),
        }
    }

    fn check_place(&self, ranges: &[ByteRange]) -> Result<()> {
        let below = self.state.lock().refuse_below;
        if ranges.iter().any(|range| range.start() < below) {
            return Err(Error::new(ErrorKind::Refused, "too late"));
        }
        Ok(())
    }

    fn ask<T>(&self, id: u64, answer: impl FnOnce(u64, &Content) -> T) -> Result<T> {
        let mut state = self.asked()?;
        let content = state.content(id)?;
        Ok(answer(id, content))
    }
}

fn attr_of(id: u64, content: &Content) -> Attr {
    let units = u64::try_from(content.units.len()).unwrap_or(u64::MAX);
    Attr {
        id: NodeId(id),
        kind: NodeKind::Volume,
        size: content.size,
        allocated_bytes: units * UNIT_BYTES,
        mode: content.mode,
        uid: 0,
        gid: 0,
        links: u32::from(!content.unlinked),
        accessed: Timestamp::default(),
        modified: content.modified,
        changed: Timestamp::default(),
        birth_ns: 1,
        generation: Generation(content.generation),
        base: Generation(content.base),
    }
}

fn folder_attr(id: u64) -> Attr {
    Attr {
        kind: NodeKind::Folder,
        mode: 0o755,
        ..attr_of(id, &Content::default())
    }
}

/// Folders have ids of their own, from their names.
fn folder_id(path: &NodePath) -> u64 {
    let bytes = path.as_bytes().iter();
    bytes.fold(1 << 40, |id: u64, byte| {
        id.wrapping_mul(31).wrapping_add(u64::from(*byte)) | 1 << 40
    })
}

impl Remote for MemoryRemote {
    type Volume = MemoryVolume;

    fn follow_path(_: &mut MemoryVolume, _: &SharedPath) {}

    fn size_max(_: &MemoryVolume) -> u64 {
        VOLUME_BYTES_MAX
    }

    fn is_fenced(volume: &MemoryVolume) -> bool {
        volume.fenced.load(Ordering::Relaxed)
    }

    /// A volume has one handle, of its number, in all sessions.
    fn is_bound_to(volume: &MemoryVolume, _: u64, handle: Handle) -> bool {
        volume.id == handle.0
    }

    async fn keep_lease(&self, _: &MemoryVolume) {
        self.leases_kept.fetch_add(1, Ordering::Relaxed);
    }

    async fn stat(&self, path: &NodePath) -> Result<Attr> {
        self.reached().await;
        if path.is_root() {
            return Ok(folder_attr(1));
        }
        let mut state = self.asked()?;
        if state.folders.contains(path) {
            return Ok(folder_attr(folder_id(path)));
        }
        let id = state.id(path)?;
        Ok(attr_of(id, state.content(id)?))
    }

    async fn list(&self, folder: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        self.reached().await;
        let state = self.asked()?;
        let within = |path: &NodePath| {
            let rest = match folder.is_root() {
                true => path.as_bytes(),
                false => path
                    .as_bytes()
                    .strip_prefix(folder.as_bytes())?
                    .strip_prefix(b"/")?,
            };
            NodeName::new(rest).ok()
        };
        let volumes = state.names.iter().filter_map(|(path, id)| {
            let content = state.contents.get(id)?;
            Some((within(path)?, attr_of(*id, content)))
        });
        let folders = state.folders.iter();
        let folders = folders.filter_map(|path| Some((within(path)?, folder_attr(folder_id(path)))));
        let mut all: Vec<_> = volumes.chain(folders).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    async fn open(&self, path: &SharedPath, _id: NodeId, access: Access) -> Result<(MemoryVolume, Attr)> {
        self.reached().await;
        let mut state = self.asked()?;
        if state.held && access == Access::ReadWrite {
            return Err(Error::new(ErrorKind::Busy, "held by host-b"));
        }
        let id = state.id(&path.path())?;
        let content = state.content(id)?;
        let (attr, lease) = (attr_of(id, content), content.lease);
        Ok((MemoryVolume::new(id, lease), attr))
    }

    async fn stat_open(&self, volume: &MemoryVolume) -> Result<Attr> {
        self.reached().await;
        self.ask(volume.id, attr_of)
    }
    async fn read(
        &self,
        volume: &MemoryVolume,
        ranges: Vec<ByteRange>,
        lengths: &[usize],
    ) -> Result<(Generation, Vec<Box<[u8]>>)> {
        self.reached().await;
        tokio::task::yield_now().await;
        let hang_above = self.state.lock().hang_above;
        if hang_above.is_some_and(|most| ranges.iter().map(|range| range.len()).sum::<u64>() > most) {
            std::future::pending::<()>().await;
        }
        let damaged = self.state.lock().damaged;
        if damaged.is_some_and(|offset| ranges.iter().any(|range| range.contains(offset))) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Io, "a bad block"));
        }
        self.ask(volume.id, |_, content| {
            let bytes = ranges
                .iter()
                .map(|range| content.bytes(*range))
                .collect::<Vec<_>>()
                .concat();
            let mut rest = &bytes[..];
            let buffers = lengths.iter().map(|len| {
                let (front, back) = rest.split_at(*len);
                rest = back;
                Box::from(front)
            });
            let buffers = buffers.collect();
            assert!(rest.is_empty(), "buffers and ranges agree");
            self.read_bytes
                .fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
            (Generation(content.base), buffers)
        })
    }

    async fn digest(&self, volume: &MemoryVolume, units: UnitRange) -> Result<(Generation, Vec<UnitHash>)> {
        tokio::task::yield_now().await;
        if !self.features().await?.contains(Features::DIGESTS) {
            return Err(Error::new(ErrorKind::Unsupported, DIGESTS_UNSUPPORTED));
        }
        self.ask(volume.id, |_, content| {
            let offset = units.range.start() - units.origin;
            let mut hashes = InUnits::new(units.how, offset, 1 << units.unit_log2);
            for extent in content.extents(units.range) {
                match extent.kind {
                    ExtentKind::Data => hashes.data(&content.bytes(extent.range)),
                    ExtentKind::Hole | ExtentKind::Zero => hashes.zeros(extent.range.len()),
                }
            }
            self.digested_bytes
                .fetch_add(units.range.len(), Ordering::Relaxed);
            (Generation(content.base), hashes.finish())
        })
    }

    async fn features(&self) -> Result<Features> {
        let lacks = self.state.lock().lacks;
        Ok(Features(Features::KNOWN.0 & !lacks.0))
    }

    async fn map(
        &self,
        volume: &MemoryVolume,
        range: ByteRange,
        pages_max: u32,
        mut sink: impl FnMut(MapPage) -> bool + Send,
    ) -> Result<()> {
        self.reached().await;
        tokio::task::yield_now().await;
        let page_bytes = self.state.lock().page_bytes.unwrap_or(u64::MAX);
        let mut at = range.start();
        let pages: Result<Vec<MapPage>> = self.ask(volume.id, |_, content| {
            let mut pages = Vec::new();
            let end = range.end().min(content.size);
            loop {
                let part =
                    ByteRange::new(at, at.saturating_add(page_bytes).min(end).max(at)).expect("in order");
                let extents = content.extents(part);
                pages.push(MapPage::fill(Generation(content.base), content.size, at, extents));
                at = part.end();
                if at >= end || pages.len() >= usize::try_from(pages_max).unwrap_or(usize::MAX) {
                    return pages;
                }
            }
        });
        let delay = self.state.lock().delays.map;
        pause(delay).await;
        for page in pages? {
            if !sink(page) {
                break;
            }
        }
        Ok(())
    }

    async fn space(&self) -> Result<Space> {
        self.reached().await;
        Ok(Space {
            block_bytes: 4096,
            blocks: 1,
            blocks_free: 0,
            blocks_available: 0,
            nodes: 1,
            nodes_free: 0,
            name_bytes_max: 255,
        })
    }

    async fn boot(&self) -> Result<BootId> {
        self.reached().await;
        Ok(self.state.lock().boot())
    }

    fn boot_now(&self) -> Option<BootId> {
        self.is_reachable().then(|| self.state.lock().boot())
    }

    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }

    fn window_bytes(&self) -> u64 {
        SESSION_WINDOW_BYTES_MAX.into()
    }

    fn is_reachable(&self) -> bool {
        !*self.cut.borrow()
    }

    async fn unreachable(&self) {
        // Fails only when the server is gone for good.
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
    }

    async fn write(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
    ) -> Result<Attr> {
        self.write_then(volume, boot, (ranges, slices), Then::Answer)
            .await
    }

    async fn write_and_flush(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
        data_only: bool,
    ) -> Result<Attr> {
        if self.features().await?.contains(Features::WRITE_FLUSH) {
            return self.write_then(volume, boot, (ranges, slices), Then::Flush).await;
        }
        self.write(volume, boot, ranges, slices).await?;
        self.flush(volume, boot, data_only).await
    }

    async fn reshape(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        how: Reshape,
        range: ByteRange,
        grow: bool,
    ) -> Result<Attr> {
        self.check_place(&[range])?;
        self.apply(volume, boot, |content| {
            let size = if grow {
                content.size.max(range.end())
            } else {
                content.size
            };
            content.size = size;
            match how {
                Reshape::Punch => content.punch(range),
                Reshape::Zero => content.zero(range.intersect(ByteRange::up_to(size))),
                Reshape::Allocate => content.generation += 1,
            }
        })
        .await
    }

    async fn punch(&self, volume: &MemoryVolume, boot: BootId, ranges: &[ByteRange]) -> Result<Attr> {
        self.check_place(ranges)?;
        self.apply(volume, boot, |content| {
            for range in ranges {
                content.punch(*range);
            }
        })
        .await
    }

    async fn resize(&self, volume: &MemoryVolume, boot: BootId, size: u64) -> Result<Attr> {
        self.apply(volume, boot, |content| content.resize(size)).await
    }

    async fn copy(
        &self,
        boot: BootId,
        source: (&MemoryVolume, ByteRange),
        target: (&MemoryVolume, u64),
    ) -> Result<(u64, Attr)> {
        let (bytes, extents) = self.ask(source.0.id, |_, content| {
            let range = source.1.intersect(ByteRange::up_to(content.size));
            (content.bytes(range), content.extents(range))
        })?;
        let attr = self
            .apply(target.0, boot, |content| {
                for extent in extents {
                    let skip = extent.range.start() - source.1.start();
                    let range = ByteRange::at_saturating(target.1 + skip, extent.range.len());
                    let from = usize::try_from(skip).unwrap_or(0);
                    let len = usize::try_from(range.len()).unwrap_or(0);
                    content.size = content.size.max(range.end());
                    match extent.kind {
                        ExtentKind::Hole => content.punch(range),
                        _ => content.write_bytes(range.start(), &bytes[from..from + len]),
                    }
                }
            })
            .await?;
        let mut state = self.state.lock();
        let now = state.content(target.0.id)?.clone();
        state.flushed.insert(target.0.id, now);
        Ok((u64::try_from(bytes.len()).unwrap_or(0), attr))
    }

    async fn flush(&self, volume: &MemoryVolume, boot: BootId, _data_only: bool) -> Result<Attr> {
        if let Some(kind) = self.state.lock().fail_flush.take() {
            return Err(Error::new(kind, "made to fail"));
        }
        // It needs no lease.
        let lease = self.state.lock().content(volume.id)?.lease;
        let anybody = MemoryVolume::new(volume.id, lease);
        let attr = self.apply(&anybody, boot, |_| {}).await?;
        let mut state = self.state.lock();
        let now = state.content(volume.id)?.clone();
        state.flushed.insert(volume.id, now);
        Ok(attr)
    }

    async fn lock(&self, _volume: &MemoryVolume, _ask: &LockAsk) -> Result<Locked> {
        Err(Error::new(ErrorKind::Unsupported, LOCKS_UNSUPPORTED))
    }

    async fn test_lock(&self, _volume: &MemoryVolume, _ask: &LockAsk) -> Result<Option<HeldLock>> {
        Err(Error::new(ErrorKind::Unsupported, LOCKS_UNSUPPORTED))
    }

    async fn set_attr(&self, subject: Named<'_, MemoryVolume>, attr: NewAttr) -> Result<Attr> {
        self.reached().await;
        let mut state = self.asked()?;
        let id = match subject {
            Named::Path(path) if path.is_root() => return Ok(folder_attr(1)),
            Named::Path(path) if state.folders.contains(path) => return Ok(folder_attr(folder_id(path))),
            Named::Path(path) => state.id(path)?,
            Named::Open(volume) => volume.id,
        };
        let content = state.content(id)?;
        content.mode = attr.mode.unwrap_or(content.mode);
        if let Some(NewTime::At(time)) = attr.modified {
            content.modified = time;
        }
        content.generation += 1;
        Ok(attr_of(id, content))
    }

    async fn create(
        &self,
        path: &SharedPath,
        node: NewNode,
        exclusive: bool,
    ) -> Result<(MemoryVolume, Attr)> {
        self.reached().await;
        let mut state = self.asked()?;
        let path = path.path();
        let taken = state.names.contains_key(&path) || state.folders.contains(&path);
        if taken && (exclusive || state.folders.contains(&path)) {
            return Err(Error::new(ErrorKind::Exists, path.to_string()));
        }
        let id = state.make(&path);
        let content = state.content(id)?;
        if !taken {
            content.mode = node.mode;
        }
        let attr = attr_of(id, content);
        let lease = content.lease;
        Ok((MemoryVolume::new(id, lease), attr))
    }

    async fn make_folder(&self, path: &NodePath, _node: NewNode) -> Result<Attr> {
        self.reached().await;
        let mut state = self.asked()?;
        if state.names.contains_key(path) || !state.folders.insert(path.clone()) {
            return Err(Error::new(ErrorKind::Exists, path.to_string()));
        }
        Ok(folder_attr(folder_id(path)))
    }

    async fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        self.reached().await;
        let mut state = self.asked()?;
        if folder {
            let removed = state.folders.remove(path);
            return removed
                .then_some(())
                .ok_or_else(|| Error::new(ErrorKind::NotFound, path.to_string()));
        }
        let found = state.id(path)?;
        if id.is_some_and(|id| id.0 != found) {
            return Err(Error::new(ErrorKind::Stale, path.to_string()));
        }
        // Who has it open keeps it: contents stay.
        state.names.remove(path);
        state.content(found)?.unlinked = true;
        Ok(())
    }

    async fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        self.reached().await;
        let mut state = self.asked()?;
        let id = state.id(from)?;
        let there = state.names.get(to).copied();
        match (mode, there) {
            (RenameMode::Keep, Some(_)) => return Err(Error::new(ErrorKind::Exists, to.to_string())),
            (RenameMode::Exchange, None) => return Err(Error::new(ErrorKind::NotFound, to.to_string())),
            (RenameMode::Exchange, Some(other)) => {
                state.names.insert(from.clone(), other);
            }
            (RenameMode::Replace | RenameMode::Keep, _) => {
                state.names.remove(from);
            }
        }
        state.names.insert(to.clone(), id);
        Ok(())
    }

    async fn flush_folder(&self, _path: &NodePath) -> Result<()> {
        self.reached().await;
        self.asked().map(drop)
    }
}

#[cfg(test)]
mod tests;
