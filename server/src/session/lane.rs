//! A lane: one request after the other on a stream of the client's.

use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::id::{Handle, RequestId};
use lacuna_transport::limits::LANE_STALL_TIMEOUT;
use lacuna_transport::quic::frames::{self, FrameError};
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use lacuna_transport::wire::lock::LockRequest;
use lacuna_transport::wire::message::{
    self, Features, HandleRequest, OpenRequest, Opened, PathRequest, ReshapeRequest,
};
use lacuna_transport::wire::read::ReadRequest;
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use super::{End, Session};
use crate::backend::OpenVolume;
use crate::error::{Error, Result};
use crate::fair::pool::{Share, paid};
use crate::lease::WriteLease;

/// Memory for working on a small request and for its reply, beside its body.
const REQUEST_BYTES: u64 = 4 << 10;
/// What a copy through memory has in it at once.
const COPY_PIECE_BYTES: u64 = 1 << 20;

/// The way back to the client, for one request.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) session: &'a Session,
    pub(super) stream: &'a mut SendStream,
    kind: Kind,
    request: RequestId,
    /// Memory for this request and what it is answered with.
    share: Arc<Share>,
    /// What the request opened.
    opened: Option<Handle>,
}

impl<'a> Reply<'a> {
    fn to(session: &'a Session, stream: &'a mut SendStream, header: &Header, share: Share) -> Self {
        Self {
            session,
            stream,
            kind: header.kind,
            request: header.request,
            share: Arc::new(share),
            opened: None,
        }
    }

    /// Has `bytes` for what is worked for from here on, instead of what the request had.
    pub(super) async fn pay(&mut self, bytes: u64) -> Result<(), FrameError> {
        // Nothing is held while this waits but what the client has yet to acknowledge: those who wait do not wait
        // for each other.
        self.share = Arc::new(self.session.nothing());
        self.share = Arc::new(self.session.memory(bytes).await?);
        Ok(())
    }

    /// Less will do.
    pub(super) fn shrink(&mut self, bytes: u64) {
        if let Some(share) = Arc::get_mut(&mut self.share) {
            share.shrink(bytes);
        }
    }

    pub(super) async fn frame(&mut self, code: Code, body: Vec<u8>) -> Result<(), FrameError> {
        self.frame_of(code, Bytes::from(body), Vec::new()).await
    }

    /// A frame whose body is `head` and `payload`. Its memory is held until the client has acknowledged it.
    pub(super) async fn frame_of(
        &mut self,
        code: Code,
        head: Bytes,
        payload: Vec<Bytes>,
    ) -> Result<(), FrameError> {
        let traffic = &self.session.counters.traffic;
        let meaning = (self.kind, code, self.request);
        let share = &self.share;
        let hold = |bytes| paid(bytes, share);
        frames::write_frame_held(self.stream, traffic, meaning, head, payload, hold).await
    }

    /// The whole reply to a request that has one frame.
    pub(super) async fn done(&mut self, body: Result<Vec<u8>>) -> Result<(), FrameError> {
        match body {
            Ok(body) => self.frame(Code::Done, body).await,
            Err(error) => self.failed(&error).await,
        }
    }

    pub(super) async fn failed(&mut self, error: &Error) -> Result<(), FrameError> {
        tracing::debug!(session = self.session.number, kind = self.kind.word(), %error, "request failed");
        let features = self.session.features.get().copied().unwrap_or_default();
        let code = match error.kind().wire_code() {
            // An older client does not know the number, and would end the session.
            ErrorCode::Refused if !features.contains(Features::STREAMS) => ErrorCode::Io,
            // As if the volume were gone: such a client gives up what it has, and says so.
            ErrorCode::Fenced if !features.contains(Features::LEASES) => ErrorCode::Stale,
            code => code,
        };
        self.frame(Code::Failed(code), error.wire_text().into_bytes())
            .await
    }
}

/// Answers requests until the client ends the stream; what it must not send ends the session.
pub(super) async fn run(
    session: Arc<Session>,
    features: Features,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let mut opened = None;
    match serve(&session, features, (&mut send, &mut receive), &mut opened).await {
        // A lane that the client gave up is its own business, but for what it does not know of.
        Ok(()) | Err(FrameError::Lost(_)) => {
            if let Some(handle) = opened
                && is_given_up(&mut send).await
            {
                session.give_up(handle).await;
            }
        }
        Err(error @ (FrameError::Wire(_) | FrameError::Stalled)) => {
            session.end(End::from(error));
        }
    }
}

/// Whether the client has said that it does not want the last reply. A lane that was finished, or lost with its
/// session, does not say that.
async fn is_given_up(send: &mut SendStream) -> bool {
    // An error says that it was stopped.
    drop(send.finish());
    let stopped = timeout(LANE_STALL_TIMEOUT, send.stopped()).await;
    matches!(stopped, Ok(Ok(Some(_))))
}

/// `opened` is what the last request opened: who sends another one has read the reply.
async fn serve(
    session: &Arc<Session>,
    features: Features,
    (send, receive): (&mut SendStream, &mut RecvStream),
    opened: &mut Option<Handle>,
) -> Result<(), FrameError> {
    let traffic = &session.counters.traffic;
    // A lane may idle for as long as the session lives: their number is bounded.
    while let Some(header) = frames::read_header(receive, traffic, Sender::Client).await? {
        *opened = None;
        let _under_way = session.worker.busy_poll.begin();
        // What does not fit in a control message is not read as one.
        if header.kind == Kind::Write {
            let share = session.memory(REQUEST_BYTES).await?;
            let mut reply = Reply::to(session, send, &header, share);
            let received = session.receive_write(receive, &header, features).await?;
            let attr = session.write(received).await;
            reply.done(attr.map(|attr| message::encode(&attr))).await?;
            continue;
        }
        let share = session
            .memory(u64::from(header.body_bytes) + REQUEST_BYTES)
            .await?;
        let body = frames::read_body(receive, traffic, &header).await?;
        let mut reply = Reply::to(session, send, &header, share);
        let answered = answer(session, features, &mut reply, header, &body).await;
        *opened = reply.opened;
        answered?;
    }
    Ok(())
}

async fn answer(
    session: &Arc<Session>,
    features: Features,
    reply: &mut Reply<'_>,
    header: Header,
    body: &[u8],
) -> Result<(), FrameError> {
    match header.kind {
        Kind::Stat => {
            let PathRequest { path } = message::decode(body)?;
            let (server, number) = (Arc::clone(&session.server), session.number);
            let work = move || {
                Ok(server
                    .catalog
                    .with_generation(server.backend.stat(&path)?, number))
            };
            let attr = session.blocking(work).await;
            reply.done(attr.map(|attr| message::encode(&attr))).await
        }
        Kind::List => {
            session
                .list(message::decode::<PathRequest>(body)?.path, reply)
                .await
        }
        Kind::Open => {
            let opened = session.open(message::decode(body)?).await;
            reply.opened = opened.as_ref().ok().map(|opened| opened.handle);
            reply.done(opened.map(|opened| message::encode(&opened))).await
        }
        Kind::Close => {
            let HandleRequest { handle } = message::decode(body)?;
            reply
                .done(session.forget(handle).await.map(|()| Vec::new()))
                .await
        }
        Kind::StatOpen => {
            let HandleRequest { handle } = message::decode(body)?;
            let attr = session.node(handle).and_then(|node| node.look());
            reply.done(attr.map(|attr| message::encode(&attr))).await
        }
        Kind::Read => session.read(ReadRequest::decode(body)?, features, reply).await,
        Kind::Map => session.map(message::decode(body)?, features, reply).await,
        Kind::Digest => session.digest(message::decode(body)?, reply).await,
        Kind::Space => {
            let server = Arc::clone(&session.server);
            let space = session.blocking(move || server.backend.space()).await;
            reply.done(space.map(|space| message::encode(&space))).await
        }
        Kind::Reshape | Kind::Resize | Kind::Copy | Kind::Flush | Kind::SetAttr => {
            answer_change(session, header.kind, body, reply).await
        }
        Kind::Finish => {
            let report = session.finish(message::decode(body)?).await;
            reply.done(report.map(|report| message::encode(&report))).await
        }
        Kind::Create | Kind::MakeFolder | Kind::Remove | Kind::Rename | Kind::FlushFolder => {
            answer_name(session, header.kind, body, reply).await
        }
        Kind::KeepLease => {
            let HandleRequest { handle } = message::decode(body)?;
            reply.done(session.keep_lease(handle).map(|()| Vec::new())).await
        }
        Kind::Lock | Kind::TestLock if features.contains(Features::LOCKS) => {
            let request: LockRequest = message::decode(body)?;
            let answer = if header.kind == Kind::Lock {
                let locked = session.lock(request).await;
                locked.map(|locked| message::encode(&locked))
            } else {
                let found = session.test_lock(&request);
                found.map(|found| message::encode(&found))
            };
            reply.done(answer).await
        }
        Kind::Hello
        | Kind::VolumeChanged
        | Kind::LeaseRecalled
        | Kind::LocksFreed
        | Kind::Lock
        | Kind::TestLock
        | Kind::Write => Err(unexpected(header.kind)),
    }
}

/// Requests that change open volumes.
async fn answer_change(
    session: &Arc<Session>,
    kind: Kind,
    body: &[u8],
    reply: &mut Reply<'_>,
) -> Result<(), FrameError> {
    let attr = match kind {
        Kind::Reshape => {
            let request: ReshapeRequest = message::decode(body)?;
            let features = session.features.get().copied().unwrap_or_default();
            if request.others.is_some() && !features.contains(Features::PUNCH_MANY) {
                return Err(WireError::OutOfBounds("ranges that this session does not have").into());
            }
            session.reshape(request).await
        }
        Kind::Resize => session.resize(message::decode(body)?).await,
        Kind::Flush => session.flush(message::decode(body)?).await,
        Kind::SetAttr => session.set_attr(message::decode(body)?).await,
        Kind::Copy => {
            // Where the storage cannot copy by itself, the bytes go through memory.
            reply.pay(REQUEST_BYTES + COPY_PIECE_BYTES).await?;
            let copied = session.copy(message::decode(body)?).await;
            return reply.done(copied.map(|copied| message::encode(&copied))).await;
        }
        other => return Err(unexpected(other)),
    };
    reply.done(attr.map(|attr| message::encode(&attr))).await
}

/// Requests that change names.
async fn answer_name(
    session: &Arc<Session>,
    kind: Kind,
    body: &[u8],
    reply: &mut Reply<'_>,
) -> Result<(), FrameError> {
    let done = match kind {
        Kind::Create => {
            let opened = session.create(message::decode(body)?).await;
            reply.opened = opened.as_ref().ok().map(|opened| opened.handle);
            opened.map(|opened| message::encode(&opened))
        }
        Kind::MakeFolder => {
            let attr = session.make_folder(message::decode(body)?).await;
            attr.map(|attr| message::encode(&attr))
        }
        Kind::Remove => session.remove(message::decode(body)?).await.map(|()| Vec::new()),
        Kind::Rename => session.rename(message::decode(body)?).await.map(|()| Vec::new()),
        Kind::FlushFolder => {
            let PathRequest { path } = message::decode(body)?;
            session.flush_folder(path).await.map(|()| Vec::new())
        }
        other => return Err(unexpected(other)),
    };
    reply.done(done).await
}

fn unexpected(kind: Kind) -> FrameError {
    FrameError::Wire(WireError::Unexpected {
        expected: "request",
        got: kind.word(),
    })
}

impl Session {
    async fn open(self: &Arc<Self>, request: OpenRequest) -> Result<Opened> {
        if request.write {
            self.may_change()?;
        }
        let (handle, place) = self.next_handle()?;
        let (server, path) = (Arc::clone(&self.server), request.path.clone());
        let volume = self.blocking(move || server.backend.open(&path)).await?;
        let lease = if request.write {
            Some(self.lease(&volume, &request.path, handle, request.lease).await?)
        } else {
            None
        };
        self.opened(volume, (handle, place), lease).await
    }

    /// Makes an open volume known as `handle`: with a lease, for changes.
    pub(super) async fn opened(
        self: &Arc<Self>,
        volume: Arc<dyn OpenVolume>,
        (handle, place): (Handle, Share),
        lease: Option<WriteLease>,
    ) -> Result<Opened> {
        let (server, party) = (Arc::clone(&self.server), self.party.clone());
        let (open, attr) = self
            .blocking(move || {
                let (open, attr) = server.catalog.open(volume, handle, &party, lease.is_some())?;
                Ok((open.under(lease), attr))
            })
            .await?;
        let size_max = open.volume().size_max();
        let lease = open.lease().map(WriteLease::id);
        self.keep(handle, open, place)?;
        Ok(Opened {
            handle,
            attr,
            size_max,
            lease,
        })
    }
}
