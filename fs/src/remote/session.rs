//! One authenticated session: a connection, its hello, its lanes, its events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lacuna_transport::compression::probe::Probe;
use lacuna_transport::id::{InstanceId, RequestId};
use lacuna_transport::limits::{HELLO_TIMEOUT, IDLE_TIMEOUT, session_window_bytes};
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::quic::frames::{self, FrameError, Traffic};
use lacuna_transport::quic::identity::KeyId;
use lacuna_transport::quic::packing::Packing;
use lacuna_transport::quic::tls::{SERVER_NAME, ShownKey};
use lacuna_transport::wire::codec::{Codec, Offer};
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::event;
use lacuna_transport::wire::frame::{Code, Kind, Sender};
use lacuna_transport::wire::message::{self, Hello, Message, Welcome};
use lacuna_transport::wire::{VERSION, WireError};
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::backoff::ATTEMPT_MAX;
use super::lane::{Exchange, Lanes};
use crate::compress::Compress;
use crate::error::{Error, ErrorKind};

/// Counters over all sessions of a mount.
#[derive(Debug, Default)]
pub struct LinkCounters {
    pub traffic: Traffic,
    pub requests_sent: AtomicU64,
    pub reconnects: AtomicU64,
}

/// Whom to talk to, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the user wrote it: HOST or HOST:PORT.
    pub name: String,
    pub address: SocketAddr,
    pub pin: KeyId,
    pub own_key: KeyId,
    /// Names this process across its sessions.
    pub instance: InstanceId,
    /// How long requests of this mount wait for an answer; `None`: for ever.
    pub patience: Option<Duration>,
    /// How payloads are packed, if the server can.
    pub compress: Compress,
    pub client: quinn::ClientConfig,
    /// The receive window follows the round trip up to this.
    pub receive_window_bytes_max: u32,
    pub shown: ShownKey,
    /// The host's network knows name and address: the name may be looked up again, and a closed port says so.
    pub is_known: bool,
    /// Of all sessions.
    pub busy_poll: BusyPoll,
}

/// Why a request has no result.
#[derive(Debug)]
pub enum RequestError {
    /// The session is gone: the request may be sent again on the next one.
    Lost(String),
    /// The server says no.
    Failed(ErrorCode, String),
    /// The server broke the protocol.
    Protocol(WireError),
}

impl RequestError {
    pub fn lost(why: impl ToString) -> Self {
        Self::Lost(why.to_string())
    }
}

impl From<FrameError> for RequestError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Wire(error) => Self::Protocol(error),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<WireError> for RequestError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error)
    }
}

#[derive(Debug)]
pub struct Session {
    /// Counts the sessions of this process; handles belong to one.
    pub number: u64,
    pub welcome: Welcome,
    /// The least of the path when the session began.
    pub round_trip: Duration,
    /// What the server may send ahead.
    pub window_bytes: u32,
    connection: quinn::Connection,
    lanes: Lanes,
    /// How payloads may be packed in this session, both ways.
    offer: Option<Offer>,
    packing: Packing,
    counters: Arc<LinkCounters>,
    /// Kept open for as long as the session: its end is the end of the session.
    _control: (SendStream, RecvStream),
}

impl Session {
    /// Connects and says hello. The error is for a person: it says what to do.
    pub async fn open(
        endpoint: &quinn::Endpoint,
        target: &Target,
        number: u64,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, Error> {
        match timeout(
            HELLO_TIMEOUT,
            Self::open_in_time(endpoint, target, number, counters),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(no_answer(target, HELLO_TIMEOUT)),
        }
    }

    async fn open_in_time(
        endpoint: &quinn::Endpoint,
        target: &Target,
        number: u64,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, Error> {
        let connecting = endpoint
            .connect_with(target.client.clone(), target.address, SERVER_NAME)
            .map_err(|error| {
                Error::new(
                    ErrorKind::Io,
                    format!("cannot connect to {}: {error}", target.name),
                )
            })?;
        let connection = match timeout(ATTEMPT_MAX, connecting).await {
            Ok(connected) => connected.map_err(|error| explain(&error, target))?,
            Err(_) => return Err(no_answer(target, ATTEMPT_MAX)),
        };
        let mut given_up = GivenUp(Some(connection.clone()));
        let hello = async {
            let (mut send, mut receive) = connection.open_bi().await.map_err(RequestError::lost)?;
            let hello = Hello {
                version: VERSION,
                features: target.compress.features(),
                agent: agent(),
                instance: Some(target.instance),
                patience_ms: target
                    .patience
                    .map(|patience| u32::try_from(patience.as_millis()).unwrap_or(u32::MAX)),
            };
            let body = message::encode(&hello);
            let traffic = &counters.traffic;
            frames::write_frame(&mut send, traffic, Kind::Hello, Code::Done, RequestId(0), body).await?;
            let header = frames::read_header(&mut receive, traffic, Sender::Server).await?;
            let header = header.ok_or_else(|| RequestError::lost("the server ended the session"))?;
            if header.kind != Kind::Hello || header.code != Code::Done {
                let got = header.kind.word();
                return Err(RequestError::Protocol(WireError::Unexpected {
                    expected: "hello",
                    got,
                }));
            }
            let body = frames::read_body(&mut receive, traffic, &header).await?;
            let welcome: Welcome = message::decode(&body)?;
            if welcome.version > VERSION {
                return Err(RequestError::Protocol(WireError::OutOfBounds("version")));
            }
            Ok((welcome, (send, receive)))
        };
        let (welcome, control) = match hello.await {
            Ok(done) => done,
            // The close of a server that refuses us overtakes the stream's own error.
            Err(RequestError::Lost(_)) => return Err(explain(&connection.closed().await, target)),
            Err(RequestError::Protocol(error)) => {
                connection.close(CloseCode::Protocol.code(), error.to_string().as_bytes());
                return Err(Error::from(error).within(&target.name));
            }
            Err(RequestError::Failed(code, text)) => {
                return Err(Error::new(code.into(), format!("{}: {text}", target.name)));
            }
        };
        given_up.0 = None;
        tracing::debug!(server = %target.name, agent = %welcome.agent, session = welcome.session, "connected");
        let round_trip = connection.min_rtt();
        let window = session_window_bytes(round_trip).min(target.receive_window_bytes_max);
        connection.set_receive_window(VarInt::from_u32(window));
        let lanes = Lanes::new(connection.clone(), target.busy_poll.clone());
        let offer = target.compress.offer();
        let offer = offer.and_then(|offer| offer.within(welcome.features));
        Ok(Self {
            number,
            welcome,
            round_trip,
            window_bytes: window,
            connection,
            lanes,
            offer,
            packing: Packing::default(),
            counters,
            _control: control,
        })
    }

    /// True once the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Resolves when the connection is lost, with the reason.
    pub async fn closed(&self) -> ConnectionError {
        self.connection.closed().await
    }

    /// Datagrams that came from the server so far.
    pub fn datagrams_received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Asks something that anybody may ask, to hear anything at all. Nothing that is counted.
    pub async fn knock(&self) {
        let traffic = Traffic::default();
        let answered = async {
            let exchange = self.lanes.request(&traffic, Kind::Space, Vec::new()).await?;
            let (header, exchange) = exchange.header().await?;
            let (_, exchange) = exchange.body(&header).await?;
            exchange.done();
            Ok::<_, RequestError>(())
        };
        if let Err(error) = answered.await {
            tracing::trace!(?error, "knocked in vain");
        }
    }

    /// Says goodbye.
    pub fn close(&self) {
        let path = self.connection.stats().path;
        tracing::debug!(server = %self.connection.remote_address(), lost = path.lost_packets, sent = path.sent_packets,
            congestion = path.congestion_events, mtu = path.current_mtu, window = path.cwnd, "closing the session");
        self.connection.close(CloseCode::Done.code(), b"");
    }

    pub fn rtt_us(&self) -> u64 {
        u64::try_from(self.connection.rtt().as_micros()).unwrap_or(u64::MAX)
    }

    /// What a read of this session offers.
    pub fn offer(&self) -> Option<Offer> {
        self.offer
    }

    /// The payload of a write as it is to be sent, and the codec if it was packed.
    pub async fn pack(&self, probe: &Probe, payload: Vec<Bytes>) -> (Vec<Bytes>, Option<Codec>) {
        self.packing
            .pack(self.offer, probe, &self.connection, payload)
            .await
    }

    /// Fills `bytes` with what the payload of a reply holds.
    pub async fn unpack(
        &self,
        codec: Codec,
        packed: Vec<u8>,
        bytes: Box<[u8]>,
    ) -> Result<Box<[u8]>, WireError> {
        self.packing.unpack(codec, packed, bytes).await
    }

    /// Sends a request; the reply is read from the exchange.
    pub async fn request(&self, kind: Kind, body: Vec<u8>) -> Result<Exchange<'_>, RequestError> {
        let exchange = self.lanes.request(&self.counters.traffic, kind, body).await?;
        self.counters.requests_sent.fetch_add(1, Ordering::Relaxed);
        Ok(exchange)
    }

    /// A request whose reply is one message.
    pub async fn ask<T>(&self, kind: Kind, body: Vec<u8>) -> Result<T, RequestError>
    where
        T: for<'b> minicbor::Decode<'b, ()> + Message,
    {
        self.ask_with(kind, body, Vec::new()).await
    }

    /// A request with a payload whose reply is one message.
    pub async fn ask_with<T>(&self, kind: Kind, head: Vec<u8>, payload: Vec<Bytes>) -> Result<T, RequestError>
    where
        T: for<'b> minicbor::Decode<'b, ()> + Message,
    {
        let traffic = &self.counters.traffic;
        let exchange = self
            .lanes
            .request_with(traffic, kind, Bytes::from(head), payload)
            .await?;
        self.counters.requests_sent.fetch_add(1, Ordering::Relaxed);
        let (header, exchange) = exchange.header().await?;
        let (body, exchange) = exchange.body(&header).await?;
        let reply = message::decode(&body)?;
        exchange.done();
        Ok(reply)
    }

    /// A request whose reply is empty.
    pub async fn tell(&self, kind: Kind, body: Vec<u8>) -> Result<(), RequestError> {
        let (_, exchange) = self.request(kind, body).await?.header().await?;
        exchange.done();
        Ok(())
    }

    /// Says goodbye when not everything could be saved: with a text, so that the server does not take what it has
    /// for all.
    pub fn close_unsaved(&self) {
        self.connection
            .close(CloseCode::Done.code(), b"not everything could be saved");
    }

    /// Nobody knows what became of a change: end the session. The server lets the next one in when what
    /// this one had under way has ended, so that it cannot take effect after what is sent then.
    pub fn close_unsure(&self, why: &str) {
        tracing::warn!(why, "a change was not answered; closing the session");
        self.connection.close(CloseCode::Done.code(), why.as_bytes());
    }

    /// What others change is not told in this session any more: end it. No goodbye, the mount comes back.
    pub fn close_deaf(&self, why: &str) {
        self.connection.close(CloseCode::Done.code(), why.as_bytes());
    }

    /// The server broke the protocol: end the session.
    pub fn close_broken(&self, error: &WireError) {
        tracing::warn!(%error, "the server broke the protocol; closing the session");
        self.connection
            .close(CloseCode::Protocol.code(), error.to_string().as_bytes());
    }

    /// The next event of the server. `stream` is empty at first and kept between calls.
    pub async fn event(&self, stream: &mut Option<RecvStream>) -> Result<event::Event, RequestError> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(self.connection.accept_uni().await.map_err(RequestError::lost)?),
        };
        let traffic = &self.counters.traffic;
        let header = frames::read_header(stream, traffic, Sender::Server).await?;
        let header = header.ok_or_else(|| RequestError::lost("the server ended the event stream"))?;
        let body = frames::read_body(stream, traffic, &header).await?;
        Ok(event::Event::decode(header.kind, &body)?)
    }
}

/// A connection that is not a session yet. QUIC would close it, when it is dropped, with what the server takes for a
/// goodbye of the mount.
struct GivenUp(Option<quinn::Connection>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close(CloseCode::Done.code(), b"this attempt to connect was given up");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Name and version, as told to the other side.
pub fn agent() -> String {
    format!("lacuna/{}", env!("CARGO_PKG_VERSION"))
}

fn no_answer(target: &Target, waited: Duration) -> Error {
    let text = format!(
        "no answer from {} ({}, UDP) within {} s: check that lacunad runs there, its --listen address, and the firewall",
        target.name,
        target.address,
        waited.as_secs()
    );
    Error::new(ErrorKind::Disconnected, text)
}

/// TLS alert no_application_protocol as a QUIC crypto error.
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

/// What a failed connection means to the person who asked for it.
fn explain(error: &ConnectionError, target: &Target) -> Error {
    let name = &target.name;
    let wrong_key = target.shown.key().filter(|shown| *shown != target.pin);
    if let Some(shown) = wrong_key {
        let text = format!(
            "{name} has the key {shown}, but {} is trusted: if the server was set up anew, compare the key with `lacunad key` there and run `lacuna trust --replace {name} {shown}`; if not, someone may be in between",
            target.pin
        );
        return Error::new(ErrorKind::WrongKey, text);
    }
    match (error, CloseCode::of(error)) {
        (_, Some((CloseCode::NotAllowed, _))) => {
            let text = format!(
                "{name} does not admit this client: on the server run `lacunad allow {} --name NAME`",
                target.own_key
            );
            Error::new(ErrorKind::NotAllowed, text)
        }
        (_, Some((code, text))) => {
            let kind = if code == CloseCode::Protocol {
                ErrorKind::Protocol
            } else {
                ErrorKind::Disconnected
            };
            Error::new(kind, format!("{name} closed the session: {text}"))
        }
        (ConnectionError::TimedOut, None) => no_answer(target, IDLE_TIMEOUT),
        (ConnectionError::ConnectionClosed(close), None)
            if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL =>
        {
            let text = format!("{name} speaks another version of the protocol: update the older side");
            Error::new(ErrorKind::Protocol, text)
        }
        (ConnectionError::VersionMismatch, None) => Error::new(
            ErrorKind::Protocol,
            format!("{name} speaks another version of QUIC: is it a lacunad?"),
        ),
        (ConnectionError::TransportError(error), None)
            if u64::from(error.code) == NO_APPLICATION_PROTOCOL =>
        {
            let text = format!("{name} speaks another version of the protocol: update the older side");
            Error::new(ErrorKind::Protocol, text)
        }
        (other, None) => Error::new(
            ErrorKind::Disconnected,
            format!("no session with {name}: {other}"),
        ),
    }
}

#[cfg(test)]
mod tests;
