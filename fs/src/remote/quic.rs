//! `Remote` over a [`Link`].
//!
//! A request that only reads, and a change of names (which carries an operation number), is sent again on
//! the next session if its own was lost. A change of content is not: see `change`. A volume keeps its path
//! and id, and is opened again in a new session when it is first needed there.

mod change;
mod digest;
mod lock;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::compression::probe::Probe;
use lacuna_transport::digest::UnitHash;
use lacuna_transport::id::{BootId, Generation, Handle, LeaseId, NodeId, OperationId};
use lacuna_transport::limits::{FOLDER_NODES_MAX, PUNCH_RANGES_MAX, SESSION_WINDOW_BYTES, VOLUME_BYTES_MAX};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Kind};
use lacuna_transport::wire::lock::{HeldLock, Locked};
use lacuna_transport::wire::map_page::MapPage;
use lacuna_transport::wire::message::{
    self, CreateRequest, Features, FinishRequest, HandleRequest, ListPage, MakeFolderRequest, MapRequest,
    OpenRequest, Opened, PathRequest, RemoveRequest, RenameMode, RenameRequest, Reshape, StreamReport,
};
use lacuna_transport::wire::read::ReadRequest;
use lacuna_transport::wire::write::Flush;
use parking_lot::Mutex;

use super::link::Link;
use super::session::{RequestError, Session};
use super::{Access, LockAsk, Named, Remote, SharedPath, UnitRange};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::buffer::Slice;

/// How long to wait before sending a request again whose lane was lost, but not its session.
const LANE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Clones share the link.
#[derive(Clone, Debug)]
pub struct QuicRemote {
    link: Arc<Link>,
    operations: Arc<AtomicU64>,
}

/// A volume open at the server, in one session after the other.
#[derive(Debug)]
pub struct QuicVolume {
    link: Arc<Link>,
    path: SharedPath,
    id: NodeId,
    /// Tells the node from a later one that got the same id.
    birth_ns: u64,
    lease: Mutex<Lease>,
    /// Number of the session, and the volume's handle in it.
    bound: Mutex<(u64, Handle)>,
    /// Whether what is written to it was found to shrink.
    shrinking: Probe,
    /// As it was when the volume was opened last.
    size_max: AtomicU64,
    /// Held while opening again.
    rebinding: tokio::sync::Mutex<()>,
}

/// What a volume may be used for at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    /// Reading.
    None,
    /// Changes; without a number an older server lets it.
    Held(Option<LeaseId>),
    /// Reading, since another client may write.
    Gone,
}

impl Lease {
    fn of(opened: &Opened, access: Access) -> Self {
        match access {
            Access::Read => Self::None,
            Access::ReadWrite => Self::Held(opened.lease),
        }
    }
}

impl QuicRemote {
    pub fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            operations: Arc::new(AtomicU64::new(1)),
        }
    }

    /// A number no other change of names of this process has.
    fn operation(&self) -> OperationId {
        OperationId(self.operations.fetch_add(1, Ordering::Relaxed))
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn bind(&self, path: &SharedPath, access: Access, session: u64, opened: &Opened) -> QuicVolume {
        QuicVolume {
            link: Arc::clone(&self.link),
            path: path.clone(),
            id: opened.attr.id,
            birth_ns: opened.attr.birth_ns,
            lease: Mutex::new(Lease::of(opened, access)),
            bound: Mutex::new((session, opened.handle)),
            shrinking: Probe::default(),
            size_max: AtomicU64::new(size_max(opened)),
            rebinding: tokio::sync::Mutex::new(()),
        }
    }

    /// The session there is, if it is with this run of the server.
    async fn session_of(&self, boot: BootId) -> Result<Arc<Session>> {
        let session = self.link.session().await?;
        if session.welcome.boot == boot {
            return Ok(session);
        }
        Err(Error::new(
            ErrorKind::Disconnected,
            "the server was started again meanwhile",
        ))
    }

    /// What a request came to; `None` if it was lost with its session and is to be sent again.
    async fn outcome<T>(
        &self,
        session: &Session,
        result: Result<T, RequestError>,
        what: impl Fn() -> String,
    ) -> Option<Result<T>> {
        match result {
            Ok(reply) => Some(Ok(reply)),
            Err(RequestError::Failed(code, text)) => Some(Err(Error::new(code.into(), text).within(what()))),
            Err(RequestError::Protocol(error)) => {
                session.close_broken(&error);
                Some(Err(Error::from(error).within(what())))
            }
            Err(RequestError::Lost(why)) => {
                tracing::debug!(request = %what(), %why, "lost; sending it again");
                // Usually the session is gone with it and this returns at once; a lane lost alone is
                // tried again a little later.
                let _ = tokio::time::timeout(LANE_RETRY_PAUSE, session.closed()).await;
                None
            }
        }
    }
}

/// Runs a request until a session carries it through. The caller has the deadline. A macro, because the
/// future of a generic function over async closures is not known to be `Send`.
macro_rules! retrying {
    ($remote:expr, $what:expr, |$session:ident| $request:expr) => {
        loop {
            let session = $remote.link.session().await?;
            let $session = &*session;
            let result = $request.await;
            if let Some(done) = $remote.outcome($session, result, || $what).await {
                break done;
            }
        }
    };
}

impl QuicVolume {
    /// The handle in this session; opens the volume there if need be.
    async fn handle(&self, session: &Session) -> Result<Handle, RequestError> {
        Ok(self.handle_or_open(session).await?.0)
    }

    /// The same, with the attributes if it had to be opened.
    async fn handle_or_open(&self, session: &Session) -> Result<(Handle, Option<Attr>), RequestError> {
        let bound = || Some(*self.bound.lock()).filter(|(number, _)| *number == session.number);
        if let Some((_, handle)) = bound() {
            return Ok((handle, None));
        }
        let _rebinding = self.rebinding.lock().await;
        if let Some((_, handle)) = bound() {
            return Ok((handle, None));
        }
        if !self.path.is_named() {
            let text = format!("{} is another volume now", self.path);
            return Err(RequestError::Failed(ErrorCode::Stale, text));
        }
        let opened = self.open_again(session).await?;
        *self.bound.lock() = (session.number, opened.handle);
        self.size_max.store(size_max(&opened), Ordering::Relaxed);
        Ok((opened.handle, Some(opened.attr)))
    }

    /// Goes on with the lease there was; once that is gone, for reading.
    async fn open_again(&self, session: &Session) -> Result<Opened, RequestError> {
        let path = self.path.path();
        let (held, which) = (*self.lease.lock(), (self.id, Some(self.birth_ns)));
        if let Lease::Held(lease) = held {
            match open(session, &path, which, Access::ReadWrite, lease).await {
                Err(RequestError::Failed(ErrorCode::Fenced, _)) => {
                    // A name that is another volume's by now says nothing of the lease of this one: that fails here.
                    let opened = open(session, &path, which, Access::Read, None).await?;
                    *self.lease.lock() = Lease::Gone;
                    return Ok(opened);
                }
                opened => {
                    let opened = opened?;
                    *self.lease.lock() = Lease::Held(opened.lease);
                    return Ok(opened);
                }
            }
        }
        open(session, &path, which, Access::Read, None).await
    }

    /// The handle in this session, for a change.
    async fn handle_to_change(&self, session: &Session) -> Result<Handle, RequestError> {
        let handle = self.handle(session).await?;
        if *self.lease.lock() == Lease::Gone {
            let text = format!(
                "{} was written by another client, or its lease was broken",
                self.path
            );
            return Err(RequestError::Failed(ErrorCode::Fenced, text));
        }
        Ok(handle)
    }

    /// Takes note of what became of a change.
    fn heed<T>(&self, result: &Result<T, RequestError>) {
        if matches!(result, Err(RequestError::Failed(ErrorCode::Fenced, _))) {
            *self.lease.lock() = Lease::Gone;
        }
    }
}

impl Drop for QuicVolume {
    fn drop(&mut self) {
        let (number, handle) = *self.bound.lock();
        let link = Arc::clone(&self.link);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            // A session that is gone took its handles along.
            if let Some(session) = link.session_now()
                && session.number == number
            {
                let body = message::encode(&HandleRequest { handle });
                if let Ok(exchange) = session.request(Kind::Close, body).await
                    && let Ok((_, exchange)) = exchange.header().await
                {
                    exchange.done();
                }
            }
        });
    }
}

fn size_max(opened: &Opened) -> u64 {
    opened.size_max.unwrap_or(VOLUME_BYTES_MAX)
}

/// Opens what must have this id, and this time of birth if that is known; what has not is closed again.
async fn open(
    session: &Session,
    path: &NodePath,
    (id, birth_ns): (NodeId, Option<u64>),
    access: Access,
    lease: Option<LeaseId>,
) -> Result<Opened, RequestError> {
    let opened: Opened = session
        .ask(
            Kind::Open,
            message::encode(&OpenRequest {
                path: path.clone(),
                write: access == Access::ReadWrite,
                lease,
            }),
        )
        .await?;
    let found = &opened.attr;
    if found.id != id || birth_ns.is_some_and(|birth_ns| found.birth_ns != birth_ns) {
        let body = message::encode(&HandleRequest {
            handle: opened.handle,
        });
        session.tell(Kind::Close, body).await?;
        return Err(RequestError::Failed(
            ErrorCode::Stale,
            format!("{path} was replaced at the server"),
        ));
    }
    Ok(opened)
}

impl QuicRemote {
    /// How far a volume that is a stream is; with `finish` it is to be finished too. `Unsupported`: it is none.
    pub async fn finish(&self, path: &NodePath, finish: bool) -> Result<StreamReport> {
        let request = FinishRequest {
            path: path.clone(),
            finish,
        };
        let knows_streams = |session: &Session| session.welcome.features.contains(Features::STREAMS);
        retrying!(self, format!("finish {path}"), |session| async {
            if !knows_streams(session) {
                let text = "the server has no streams: update it".to_owned();
                return Err(RequestError::Failed(ErrorCode::Unsupported, text));
            }
            session.ask(Kind::Finish, message::encode(&request)).await
        })
    }
}

impl Remote for QuicRemote {
    type Volume = QuicVolume;

    fn follow_path(volume: &mut QuicVolume, path: &SharedPath) {
        volume.path = path.clone();
    }

    fn size_max(volume: &QuicVolume) -> u64 {
        volume.size_max.load(Ordering::Relaxed)
    }

    async fn stat(&self, path: &NodePath) -> Result<Attr> {
        let body = message::encode(&PathRequest { path: path.clone() });
        retrying!(self, format!("stat {path}"), |session| session
            .ask(Kind::Stat, body.clone()))
    }

    async fn list(&self, path: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        retrying!(self, format!("list {path}"), |session| list(session, path))
    }

    async fn open(&self, path: &SharedPath, id: NodeId, access: Access) -> Result<(QuicVolume, Attr)> {
        let (number, opened) = retrying!(self, format!("open {path}"), |session| async {
            Ok((
                session.number,
                open(session, &path.path(), (id, None), access, None).await?,
            ))
        })?;
        Ok((self.bind(path, access, number, &opened), opened.attr))
    }

    fn is_fenced(volume: &QuicVolume) -> bool {
        *volume.lease.lock() == Lease::Gone
    }

    fn is_bound_to(volume: &QuicVolume, session: u64, handle: Handle) -> bool {
        *volume.bound.lock() == (session, handle)
    }

    async fn keep_lease(&self, volume: &QuicVolume) {
        let (number, handle) = *volume.bound.lock();
        // A session that is gone is not asked any more.
        if let Some(session) = self.link.session_now()
            && session.number == number
        {
            let kept = session.tell(Kind::KeepLease, message::encode(&HandleRequest { handle }));
            if let Err(error) = kept.await {
                tracing::debug!(volume = %volume.path, ?error, "the server does not hear that the lease is needed");
            }
        }
    }

    async fn stat_open(&self, volume: &QuicVolume) -> Result<Attr> {
        retrying!(self, format!("stat {}", volume.path), |session| stat_open(
            session, volume
        ))
    }

    async fn read(
        &self,
        volume: &QuicVolume,
        ranges: Vec<ByteRange>,
        lengths: &[usize],
    ) -> Result<(Generation, Vec<Box<[u8]>>)> {
        retrying!(self, format!("read {}", volume.path), |session| fetch(
            session, volume, &ranges, lengths
        ))
    }

    async fn map(
        &self,
        volume: &QuicVolume,
        range: ByteRange,
        pages_max: u32,
        mut sink: impl FnMut(MapPage) -> bool + Send,
    ) -> Result<()> {
        // After a lost session the stream goes on where the last page ended.
        let mut rest = range;
        retrying!(self, format!("map {}", volume.path), |session| {
            stream_map(session, volume, &mut rest, pages_max, &mut sink)
        })
    }

    async fn digest(&self, volume: &QuicVolume, units: UnitRange) -> Result<(Generation, Vec<UnitHash>)> {
        retrying!(self, format!("digest {}", volume.path), |session| {
            digest::digest(session, volume, units)
        })
    }

    async fn features(&self) -> Result<Features> {
        Ok(self.link.session().await?.welcome.features)
    }

    async fn space(&self) -> Result<Space> {
        retrying!(self, "statfs".to_owned(), |session| session
            .ask(Kind::Space, Vec::new()))
    }

    async fn boot(&self) -> Result<BootId> {
        Ok(self.link.session().await?.welcome.boot)
    }

    fn boot_now(&self) -> Option<BootId> {
        self.link.session_now().map(|session| session.welcome.boot)
    }

    fn round_trip(&self) -> Duration {
        let session = self.link.session_now();
        session.map_or(Duration::ZERO, |session| session.round_trip)
    }

    fn window_bytes(&self) -> u64 {
        let session = self.link.session_now();
        let window = session.map_or(SESSION_WINDOW_BYTES, |session| session.window_bytes);
        window.into()
    }

    fn is_reachable(&self) -> bool {
        self.link.is_reachable()
    }

    async fn unreachable(&self) {
        self.link.unreachable().await;
    }

    async fn write(
        &self,
        volume: &QuicVolume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
    ) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        let result = change::write(&session, volume, ranges, slices, None).await;
        volume.heed(&result);
        change::outcome(&session, result, || format!("write {}", volume.path))
    }

    async fn write_and_flush(
        &self,
        volume: &QuicVolume,
        boot: BootId,
        ranges: Vec<ByteRange>,
        slices: Vec<Slice>,
        data_only: bool,
    ) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        if !session.welcome.features.contains(Features::WRITE_FLUSH) {
            Box::pin(self.write(volume, boot, ranges, slices)).await?;
            return Box::pin(self.flush(volume, boot, data_only)).await;
        }
        let flush = if data_only { Flush::Data } else { Flush::All };
        let result = change::write(&session, volume, ranges, slices, Some(flush)).await;
        volume.heed(&result);
        change::outcome(&session, result, || format!("write and flush {}", volume.path))
    }

    async fn reshape(
        &self,
        volume: &QuicVolume,
        boot: BootId,
        how: Reshape,
        range: ByteRange,
        grow: bool,
    ) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        let result = change::reshape(&session, volume, how, (range, &[]), grow).await;
        volume.heed(&result);
        change::outcome(&session, result, || format!("reshape {range} of {}", volume.path))
    }

    async fn punch(&self, volume: &QuicVolume, boot: BootId, ranges: &[ByteRange]) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        let at_once = if session.welcome.features.contains(Features::PUNCH_MANY) {
            PUNCH_RANGES_MAX
        } else {
            1
        };
        let mut punched = Err(Error::new(ErrorKind::Invalid, "nothing to punch"));
        for ranges in ranges.chunks(at_once) {
            let [first, others @ ..] = ranges else { break };
            let result = change::reshape(&session, volume, Reshape::Punch, (*first, others), false).await;
            volume.heed(&result);
            let what = || format!("punch {first} and {} more of {}", others.len(), volume.path);
            punched = Ok(change::outcome(&session, result, what)?);
        }
        punched
    }

    async fn resize(&self, volume: &QuicVolume, boot: BootId, size: u64) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        let result = change::resize(&session, volume, size).await;
        volume.heed(&result);
        change::outcome(&session, result, || format!("resize {} to {size}", volume.path))
    }

    async fn copy(
        &self,
        boot: BootId,
        source: (&QuicVolume, ByteRange),
        target: (&QuicVolume, u64),
    ) -> Result<(u64, Attr)> {
        let session = self.session_of(boot).await?;
        let result = change::copy(&session, source, target).await;
        target.0.heed(&result);
        change::outcome(&session, result, || {
            format!("copy {} to {}", source.0.path, target.0.path)
        })
    }

    async fn flush(&self, volume: &QuicVolume, boot: BootId, data_only: bool) -> Result<Attr> {
        let session = self.session_of(boot).await?;
        let result = change::flush(&session, volume, data_only).await;
        change::outcome(&session, result, || format!("flush {}", volume.path))
    }

    async fn lock(&self, volume: &QuicVolume, ask: &LockAsk) -> Result<Locked> {
        retrying!(self, format!("lock {}", volume.path), |session| lock::lock(
            session, volume, ask
        ))
    }

    async fn test_lock(&self, volume: &QuicVolume, ask: &LockAsk) -> Result<Option<HeldLock>> {
        retrying!(self, format!("test a lock of {}", volume.path), |session| {
            lock::test(session, volume, ask)
        })
    }

    async fn set_attr(&self, subject: Named<'_, QuicVolume>, attr: NewAttr) -> Result<Attr> {
        retrying!(self, "set attributes".to_owned(), |session| change::set_attr(
            session, &subject, attr
        ))
    }

    async fn create(&self, path: &SharedPath, node: NewNode, exclusive: bool) -> Result<(QuicVolume, Attr)> {
        let request = CreateRequest {
            operation: self.operation(),
            path: path.path(),
            node,
            exclusive,
        };
        let (number, opened) = retrying!(self, format!("create {path}"), |session| async {
            let opened: Opened = session.ask(Kind::Create, message::encode(&request)).await?;
            Ok((session.number, opened))
        })?;
        Ok((self.bind(path, Access::ReadWrite, number, &opened), opened.attr))
    }

    async fn make_folder(&self, path: &NodePath, node: NewNode) -> Result<Attr> {
        let request = MakeFolderRequest {
            operation: self.operation(),
            path: path.clone(),
            node,
        };
        retrying!(self, format!("make the folder {path}"), |session| session
            .ask(Kind::MakeFolder, message::encode(&request)))
    }

    async fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        let request = RemoveRequest {
            operation: self.operation(),
            path: path.clone(),
            folder,
            id,
        };
        retrying!(self, format!("remove {path}"), |session| session
            .tell(Kind::Remove, message::encode(&request)))
    }

    async fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        let request = RenameRequest {
            operation: self.operation(),
            from: from.clone(),
            to: to.clone(),
            mode,
        };
        retrying!(self, format!("rename {from} to {to}"), |session| session
            .tell(Kind::Rename, message::encode(&request)))
    }

    async fn flush_folder(&self, path: &NodePath) -> Result<()> {
        retrying!(self, format!("flush the folder {path}"), |session| session.tell(
            Kind::FlushFolder,
            message::encode(&PathRequest { path: path.clone() })
        ))
    }
}

async fn stat_open(session: &Session, volume: &QuicVolume) -> Result<Attr, RequestError> {
    let (handle, opened) = volume.handle_or_open(session).await?;
    if let Some(attr) = opened {
        return Ok(attr);
    }
    session
        .ask(Kind::StatOpen, message::encode(&HandleRequest { handle }))
        .await
}

async fn list(session: &Session, path: &NodePath) -> Result<Vec<(NodeName, Attr)>, RequestError> {
    let mut names: Vec<(NodeName, Attr)> = Vec::new();
    let mut exchange = session
        .request(Kind::List, message::encode(&PathRequest { path: path.clone() }))
        .await?;
    loop {
        let (header, next) = exchange.header().await?;
        let (body, next) = next.body(&header).await?;
        exchange = next;
        let page: ListPage = message::decode(&body)?;
        let in_order = match (names.last(), page.entries.first()) {
            (Some((last, _)), Some(first)) => *last < first.name,
            _ => true,
        };
        if !in_order || names.len() + page.entries.len() > FOLDER_NODES_MAX {
            return Err(WireError::OutOfBounds("listing").into());
        }
        names.extend(page.entries.into_iter().map(|entry| (entry.name, entry.attr)));
        if header.code == Code::Done {
            exchange.done();
            return Ok(names);
        }
    }
}

async fn fetch(
    session: &Session,
    volume: &QuicVolume,
    ranges: &[ByteRange],
    lengths: &[usize],
) -> Result<(Generation, Vec<Box<[u8]>>), RequestError> {
    let handle = volume.handle(session).await?;
    let request = ReadRequest::new(handle, ranges.to_vec())?.offering(session.offer());
    let (header, mut exchange) = session
        .request(Kind::Read, request.encode())
        .await?
        .header()
        .await?;
    let head_bytes = request.reply_head_bytes();
    let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
    if header.code != Code::Done || body_bytes < head_bytes {
        return Err(WireError::OutOfBounds("length of a read reply").into());
    }
    let head = exchange.take(head_bytes).await?;
    let payload_bytes = body_bytes - head_bytes;
    let payload_u32 = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    let (base, codec) = request.decode_reply_head(&head, payload_u32)?;
    let mut buffers = Vec::with_capacity(lengths.len());
    match codec {
        None => {
            for len in lengths {
                buffers.push(exchange.take(*len).await?.into_boxed_slice());
            }
            exchange.done();
        }
        Some(codec) => {
            let packed = exchange.take(payload_bytes).await?;
            exchange.done();
            let unpacked = vec![0; lengths.iter().sum()].into_boxed_slice();
            let unpacked = session.unpack(codec, packed, unpacked).await?;
            if lengths.len() == 1 {
                buffers.push(unpacked);
            } else {
                let mut rest = &*unpacked;
                for len in lengths {
                    let (bytes, back) = rest.split_at(*len);
                    buffers.push(Box::from(bytes));
                    rest = back;
                }
            }
        }
    }
    Ok((base, buffers))
}

async fn stream_map(
    session: &Session,
    volume: &QuicVolume,
    rest: &mut ByteRange,
    pages_max: u32,
    sink: &mut (impl FnMut(MapPage) -> bool + Send),
) -> Result<(), RequestError> {
    let handle = volume.handle(session).await?;
    let request = MapRequest {
        handle,
        start: rest.start(),
        end: rest.end(),
        pages_max,
    };
    let mut exchange = session.request(Kind::Map, message::encode(&request)).await?;
    loop {
        let (header, next) = exchange.header().await?;
        let (body, next) = next.body(&header).await?;
        exchange = next;
        let page = MapPage::decode(&body)?;
        let advances = !page.range.is_empty() || header.code == Code::Done;
        if page.range.start() != rest.start() || page.range.end() > rest.end() || !advances {
            return Err(WireError::OutOfBounds("order of map pages").into());
        }
        *rest = rest.split_at(page.range.end()).1;
        let more = sink(page);
        if header.code == Code::Done {
            exchange.done();
            return Ok(());
        }
        if !more {
            // What still comes on this lane is dropped with it.
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
