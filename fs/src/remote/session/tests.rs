//! What a first connection says when the other side is not what it should be.

use std::net::{Ipv4Addr, SocketAddr};

use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::quic::{endpoint, tls};
use quinn::crypto::rustls::QuicServerConfig;

use super::*;
use crate::remote::link::{Event, Link};

/// A peer that finishes handshakes with this ALPN and does `talk` with each connection.
fn peer<F: Future<Output = ()> + Send + 'static>(
    identity: &Identity,
    alpn: &[u8],
    talk: impl Fn(quinn::Connection) -> F + Send + 'static,
) -> SocketAddr {
    let mut config = tls::server_config(identity);
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(connection) = incoming.await {
                tokio::spawn(talk(connection));
            }
        }
    });
    address
}

fn target(address: SocketAddr, pin: KeyId) -> Target {
    let own = Identity::generate();
    let (client, shown) = endpoint::client_config(&own, pin);
    Target {
        instance: lacuna_transport::id::InstanceId([7; 16]),
        name: "peer:1".to_owned(),
        address,
        pin,
        own_key: own.id(),
        compress: crate::compress::Compress::Auto,
        client,
        shown,
        is_known: true,
        busy_poll: BusyPoll::default(),
        receive_window_bytes_max: lacuna_transport::limits::SESSION_WINDOW_BYTES,
        patience: None,
    }
}

async fn connect(address: SocketAddr, pin: KeyId) -> Result<Session, Error> {
    let endpoint = endpoint::client(address).unwrap();
    Session::open(&endpoint, &target(address, pin), 1, Arc::default()).await
}

/// Answers the hello with these bytes, and keeps the connection.
async fn answer_hello(connection: quinn::Connection, bytes: Vec<u8>) {
    let Ok((mut send, _receive)) = connection.accept_bi().await else {
        return;
    };
    let _ = send.write_all(&bytes).await;
    connection.closed().await;
}

#[tokio::test]
async fn another_version_is_named() {
    let server = Identity::generate();
    let address = peer(&server, b"lacuna/2", async |_| ());
    let error = connect(address, server.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(
        error.to_string().contains("another version of the protocol"),
        "{error}"
    );
}

#[tokio::test]
async fn another_key_is_named_with_both_keys() {
    let (server, pinned) = (Identity::generate(), Identity::generate());
    let address = peer(&server, b"lacuna/1", async |_| ());
    let error = connect(address, pinned.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let text = error.to_string();
    assert!(
        text.contains(&server.id().to_string()) && text.contains(&pinned.id().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_welcome_that_is_none_breaks_the_protocol() {
    let header = |kind: u16, length: u32| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.resize(16, 0);
        bytes
    };
    let cases = [
        vec![0xff; 64],
        header(Kind::Hello.number(), u32::MAX),
        header(Kind::Hello.number(), 0),
        header(Kind::Read.number(), 0),
        [header(Kind::Hello.number(), 4), vec![0x80; 4]].concat(),
    ];
    for bytes in cases {
        let server = Identity::generate();
        let sent = bytes.clone();
        let address = peer(&server, b"lacuna/1", move |connection| {
            answer_hello(connection, sent.clone())
        });
        let error = connect(address, server.id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{bytes:02x?}: {error}");
    }
}

/// What lingers for the mount at the server would go.
#[tokio::test]
async fn an_attempt_that_is_given_up_is_no_goodbye() {
    let server = Identity::generate();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = peer(&server, b"lacuna/1", move |connection| {
        let tell = tell.clone();
        async move {
            let _hello = connection.accept_bi().await.unwrap();
            tell.send(None).unwrap();
            tell.send(Some(connection.closed().await)).unwrap();
        }
    });
    let attempt = tokio::spawn(connect(address, server.id()));
    assert!(told.recv().await.unwrap().is_none(), "it said hello");
    attempt.abort();
    let closed = told.recv().await.unwrap().unwrap();
    let (code, text) = CloseCode::of(&closed).unwrap();
    assert_eq!(code, CloseCode::Done);
    assert!(!text.is_empty(), "without a text it is a goodbye");
}

/// Answers the hello as a server does that sends events; gives back the hello's stream.
async fn welcome(connection: &quinn::Connection, session: u64) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = connection.accept_bi().await.unwrap();
    let traffic = Traffic::default();
    let header = frames::read_header(&mut receive, &traffic, Sender::Client)
        .await
        .unwrap()
        .unwrap();
    frames::read_body(&mut receive, &traffic, &header).await.unwrap();
    let body = message::encode(&Welcome {
        version: 0,
        features: message::Features::KNOWN,
        boot: lacuna_transport::id::BootId([1; 16]),
        session,
        read_only: false,
        agent: "peer".to_owned(),
    });
    let id = header.request;
    frames::write_frame(&mut send, &traffic, Kind::Hello, Code::Done, id, body)
        .await
        .unwrap();
    (send, receive)
}

/// The connection stays, and nothing would ever be heard of what others change.
#[tokio::test]
async fn a_session_without_its_events_ends_and_another_begins() {
    let server = Identity::generate();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = peer(&server, b"lacuna/1", move |connection| {
        let tell = tell.clone();
        async move {
            let _control = welcome(&connection, 1).await;
            let mut events = connection.open_uni().await.unwrap();
            events.finish().unwrap();
            tell.send(connection.closed().await).unwrap();
        }
    });
    let endpoint = endpoint::client(address).unwrap();
    let (link, mut events) = Link::open(endpoint, target(address, server.id())).await.unwrap();
    let (code, text) = CloseCode::of(&told.recv().await.unwrap()).unwrap();
    assert_eq!(code, CloseCode::Done);
    assert!(text.contains("events"), "a goodbye, or another reason: '{text}'");
    assert!(matches!(events.recv().await, Some(Event::Reconnected)));
    link.close();
}
