//! A lane: one request after the other on a stream of the client's.

use std::sync::Arc;

use lacuna_transport::id::RequestId;
use lacuna_transport::quic::frames::{self, FrameError};
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use lacuna_transport::wire::message::{self, Features, HandleRequest, OpenRequest, Opened, PathRequest};
use lacuna_transport::wire::read::ReadRequest;
use quinn::{RecvStream, SendStream};

use super::{End, Session, blocking};
use crate::error::{Error, ErrorKind, Result};

/// The way back to the client, for one request.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) session: &'a Session,
    pub(super) stream: &'a mut SendStream,
    pub(super) kind: Kind,
    pub(super) request: RequestId,
}

impl Reply<'_> {
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
        self.frame(
            Code::Failed(error.kind().wire_code()),
            error.wire_text().into_bytes(),
        )
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
    let mut reply = Reply {
        session,
        stream,
        kind: header.kind,
        request: header.request,
    };
    match header.kind {
        Kind::Stat => {
            let PathRequest { path } = message::decode(body)?;
            let server = Arc::clone(&session.server);
            let work = move || Ok(server.catalog.with_generation(server.backend.stat(&path)?));
            let attr = blocking(work).await;
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
            reply.done(session.forget(handle).map(|()| Vec::new())).await
        }
        Kind::StatOpen => {
            let HandleRequest { handle } = message::decode(body)?;
            let attr = session.node(handle).and_then(|node| node.look());
            reply.done(attr.map(|attr| message::encode(&attr))).await
        }
        Kind::Read => session.read(ReadRequest::decode(body)?, &mut reply).await,
        Kind::Map => session.map(message::decode(body)?, features, &mut reply).await,
        Kind::Space => {
            let server = Arc::clone(&session.server);
            let space = blocking(move || server.backend.space()).await;
            reply.done(space.map(|space| message::encode(&space))).await
        }
        Kind::Write
        | Kind::Reshape
        | Kind::Resize
        | Kind::Copy
        | Kind::Flush
        | Kind::SetAttr
        | Kind::Create
        | Kind::MakeFolder
        | Kind::Remove
        | Kind::Rename
        | Kind::FlushFolder => {
            let error = Error::new(ErrorKind::Unsupported, "this server takes no changes yet");
            reply.failed(&error).await
        }
        Kind::Hello | Kind::VolumeChanged => Err(WireError::Unexpected {
            expected: "request",
            got: header.kind.word(),
        }
        .into()),
    }
}

impl Session {
    async fn open(self: &Arc<Self>, request: OpenRequest) -> Result<Opened> {
        let handle = self.next_handle()?;
        let (server, events) = (Arc::clone(&self.server), Arc::clone(&self.events));
        let (open, attr) = blocking(move || {
            server
                .catalog
                .open(server.backend.open(&request.path)?, handle, &events)
        })
        .await?;
        self.keep(handle, open)?;
        Ok(Opened { handle, attr })
    }
}
