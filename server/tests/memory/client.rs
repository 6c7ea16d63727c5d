//! A client that speaks the protocol by hand, and badly when told to.

use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::{Handle, RequestId};
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::frames::{self, FrameError, Traffic};
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::quic::tls::SERVER_NAME;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::frame::{Code, Kind, Sender};
use lacuna_transport::wire::message::{self, Features, Hello, OpenRequest, Opened, PathRequest};
use lacuna_transport::wire::write::WriteRequest;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::time::timeout;

use crate::daemon::Daemon;

/// Nothing that a good client asks takes longer than this, whatever others do.
pub(crate) const LIMIT: Duration = Duration::from_secs(25);

/// A session.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
    _control: (SendStream, RecvStream),
    pub(crate) traffic: Arc<Traffic>,
}

/// One lane of it.
pub(crate) struct Lane {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    traffic: Arc<Traffic>,
    last: u64,
}

impl Client {
    /// `None` if the server does not want it.
    pub(crate) async fn connect(daemon: &Daemon, identity: &Identity) -> Option<Self> {
        let mut endpoint = endpoint::client(daemon.address).expect("an endpoint");
        endpoint.set_default_client_config(endpoint::client_config(identity, daemon.key).0);
        let connection = endpoint
            .connect(daemon.address, SERVER_NAME)
            .expect("connecting")
            .await
            .ok()?;
        let mut control = connection.open_bi().await.ok()?;
        let traffic = Arc::new(Traffic::default());
        let hello = Hello {
            version: 0,
            features: Features::KNOWN,
            agent: "test".to_owned(),
            instance: None,
            patience_ms: None,
        };
        let body = message::encode(&hello);
        frames::write_frame(
            &mut control.0,
            &traffic,
            Kind::Hello,
            Code::Done,
            RequestId(0),
            body,
        )
        .await
        .ok()?;
        let header = frames::read_header(&mut control.1, &traffic, Sender::Server)
            .await
            .ok()??;
        frames::read_body(&mut control.1, &traffic, &header).await.ok()?;
        Some(Self {
            connection,
            _endpoint: endpoint,
            _control: control,
            traffic,
        })
    }

    pub(crate) async fn lane(&self) -> Option<Lane> {
        let (send, receive) = self.connection.open_bi().await.ok()?;
        Some(Lane {
            send,
            receive,
            traffic: Arc::clone(&self.traffic),
            last: 0,
        })
    }
}

impl Lane {
    /// Sends a request and does not look at its answer.
    pub(crate) async fn send(&mut self, kind: Kind, body: Vec<u8>) -> Result<(), FrameError> {
        self.last += 1;
        let request = RequestId(self.last);
        frames::write_frame(&mut self.send, &self.traffic, kind, Code::Done, request, body).await
    }

    /// The last frame of the reply to a request; `Err` with a code if it says no, `None` if the session is gone.
    pub(crate) async fn ask(&mut self, kind: Kind, body: Vec<u8>) -> Option<Result<Vec<u8>, Code>> {
        self.send(kind, body).await.ok()?;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Option<Result<Vec<u8>, Code>> {
        loop {
            let header = frames::read_header(&mut self.receive, &self.traffic, Sender::Server)
                .await
                .ok()??;
            let body = frames::read_body(&mut self.receive, &self.traffic, &header)
                .await
                .ok()?;
            match header.code {
                Code::More => {}
                Code::Done => return Some(Ok(body)),
                code @ Code::Failed(_) => return Some(Err(code)),
            }
        }
    }

    /// Opens a volume of the server's folder.
    pub(crate) async fn open(&mut self, name: &str, write: bool) -> Option<Result<Handle, Code>> {
        let path = NodePath::new(name.as_bytes()).expect("a path");
        let body = message::encode(&OpenRequest {
            path,
            write,
            lease: None,
        });
        let opened = self.ask(Kind::Open, body).await?;
        Some(opened.map(|body| message::decode::<Opened>(&body).expect("an answer").handle))
    }
}

/// The answer of a good client's request: there is one in time.
pub(crate) async fn answered<T>(what: &str, asked: impl Future<Output = Option<T>>) -> T {
    let answer = timeout(LIMIT, asked).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer"));
    answer.unwrap_or_else(|| panic!("{what}: the session of a good client was closed"))
}

pub(crate) fn path_request(name: &str) -> Vec<u8> {
    let path = NodePath::new(name.as_bytes()).expect("a path");
    message::encode(&PathRequest { path })
}

/// The body of a write of `bytes` at `offset`.
pub(crate) fn write_body(handle: Handle, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let len = u64::try_from(bytes.len()).expect("fits");
    let range = ByteRange::at(offset, len).expect("a range");
    let mut body = WriteRequest::new(handle, vec![range])
        .expect("a write")
        .encode_head();
    body.extend_from_slice(bytes);
    body
}
