//! A lane: one request after the other on a stream of the client's.

use std::sync::Arc;

use lacuna_transport::id::RequestId;
use lacuna_transport::quic::frames::{self, FrameError};
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use lacuna_transport::wire::lock::LockRequest;
use lacuna_transport::wire::message::{self, Features, HandleRequest, OpenRequest, Opened, PathRequest};
use lacuna_transport::wire::read::ReadRequest;
use quinn::{RecvStream, SendStream};

use super::{End, Session};
use crate::error::{Error, Result};

/// The way back to the client, for one request.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) session: &'a Session,
    pub(super) stream: &'a mut SendStream,
    pub(super) kind: Kind,
    pub(super) request: RequestId,
}

impl<'a> Reply<'a> {
    fn to(session: &'a Session, stream: &'a mut SendStream, header: &Header) -> Self {
        Self {
            session,
            stream,
            kind: header.kind,
            request: header.request,
        }
    }

    pub(super) async fn frame(&mut self, code: Code, body: Vec<u8>) -> Result<(), FrameError> {
        let traffic = &self.session.counters.traffic;
        frames::write_frame(self.stream, traffic, self.kind, code, self.request, body).await
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
    match serve(&session, features, &mut send, &mut receive).await {
        // A lane that the client gave up is its own business.
        Ok(()) | Err(FrameError::Lost(_)) => {}
        Err(error @ (FrameError::Wire(_) | FrameError::Stalled)) => {
            session.end(End::from(error));
        }
    }
}

async fn serve(
    session: &Arc<Session>,
    features: Features,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), FrameError> {
    let traffic = &session.counters.traffic;
    // A lane may idle for as long as the session lives: their number is bounded.
    while let Some(header) = frames::read_header(receive, traffic, Sender::Client).await? {
        // What does not fit in a control message is not read as one.
        if header.kind == Kind::Write {
            let received = session.receive_write(receive, &header, features).await?;
            let attr = session.write(received).await;
            let mut reply = Reply::to(session, send, &header);
            reply.done(attr.map(|attr| message::encode(&attr))).await?;
            continue;
        }
        let body = frames::read_body(receive, traffic, &header).await?;
        answer(session, features, send, header, &body).await?;
    }
    Ok(())
}

async fn answer(
    session: &Arc<Session>,
    features: Features,
    stream: &mut SendStream,
    header: Header,
    body: &[u8],
) -> Result<(), FrameError> {
    let mut reply = Reply::to(session, stream, &header);
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
                .list(message::decode::<PathRequest>(body)?.path, &mut reply)
                .await
        }
        Kind::Open => {
            let opened = session.open(message::decode(body)?).await;
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
        Kind::Read => {
            session
                .read(ReadRequest::decode(body)?, features, &mut reply)
                .await
        }
        Kind::Map => session.map(message::decode(body)?, features, &mut reply).await,
        Kind::Digest => reply.done(session.digest(message::decode(body)?).await).await,
        Kind::Space => {
            let server = Arc::clone(&session.server);
            let space = session.blocking(move || server.backend.space()).await;
            reply.done(space.map(|space| message::encode(&space))).await
        }
        Kind::Reshape | Kind::Resize | Kind::Copy | Kind::Flush | Kind::SetAttr => {
            answer_change(session, header.kind, body, &mut reply).await
        }
        Kind::Finish => {
            let report = session.finish(message::decode(body)?).await;
            reply.done(report.map(|report| message::encode(&report))).await
        }
        Kind::Create | Kind::MakeFolder | Kind::Remove | Kind::Rename | Kind::FlushFolder => {
            answer_name(session, header.kind, body, &mut reply).await
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
        | Kind::KeepLease
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
        Kind::Reshape => session.reshape(message::decode(body)?).await,
        Kind::Resize => session.resize(message::decode(body)?).await,
        Kind::Flush => session.flush(message::decode(body)?).await,
        Kind::SetAttr => session.set_attr(message::decode(body)?).await,
        Kind::Copy => {
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
        let handle = self.next_handle()?;
        let (server, party) = (Arc::clone(&self.server), self.party.clone());
        let (open, attr) = self
            .blocking(move || {
                let volume = server.backend.open(&request.path)?;
                server.catalog.open(volume, handle, &party, request.write)
            })
            .await?;
        let size_max = open.volume().size_max();
        self.keep(handle, open)?;
        Ok(Opened {
            handle,
            attr,
            size_max,
            lease: None,
        })
    }
}
