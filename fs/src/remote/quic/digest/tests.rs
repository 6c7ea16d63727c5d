//! Digests of a server that is old, that is lost, and that answers with something else.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use lacuna_transport::attr::{Attr, NodeKind, Timestamp};
use lacuna_transport::digest::Hashing;
use lacuna_transport::id::{BootId, Handle, InstanceId, NodeId};
use lacuna_transport::limits::SESSION_WINDOW_BYTES;
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::frames::{self, Traffic};
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::digest::encode_reply;
use lacuna_transport::wire::frame::Sender;
use lacuna_transport::wire::message::{Hello, OpenRequest, Opened, Welcome};
use parking_lot::Mutex;
use quinn::{Connection, Endpoint};

use super::*;
use crate::error::{Error, ErrorKind};
use crate::remote::link::Link;
use crate::remote::quic::QuicRemote;
use crate::remote::session::Target;
use crate::remote::{Access, Remote, SharedPath};

/// What the server does with a digest request.
#[derive(Clone, Debug)]
enum Answer {
    /// It ends the session.
    Lose,
    Reply(Code, Vec<u8>),
}

/// A server with one volume, which expects these requests in these sessions.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<DigestRequest>>,
    sessions: Mutex<u64>,
}

const VOLUME: &[u8] = b"v";

fn attr() -> Attr {
    let time = Timestamp::default();
    Attr {
        id: NodeId(9),
        kind: NodeKind::Volume,
        size: 1 << 20,
        allocated_bytes: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        links: 1,
        accessed: time,
        modified: time,
        changed: time,
        birth_ns: 1,
        generation: Generation(5),
        base: Generation(5),
    }
}

/// Serves one session after the other. Ends with the connection.
async fn serve(connection: Connection, script: Arc<Script>, features: Features) -> Option<()> {
    let traffic = Traffic::default();
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    let hello = frames::read_header(&mut receive, &traffic, Sender::Client)
        .await
        .ok()??;
    let body = frames::read_body(&mut receive, &traffic, &hello).await.ok()?;
    message::decode::<Hello>(&body).unwrap();
    let session = {
        let mut sessions = script.sessions.lock();
        *sessions += 1;
        *sessions
    };
    let welcome = Welcome {
        version: 0,
        features,
        boot: BootId([1; 16]),
        session,
        read_only: false,
        agent: "script".to_owned(),
    };
    let (kind, id, body) = (Kind::Hello, hello.request, message::encode(&welcome));
    frames::write_frame(&mut send, &traffic, kind, Code::Done, id, body)
        .await
        .ok()?;
    loop {
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let (connection, script) = (connection.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            let traffic = Traffic::default();
            while let Ok(Some(header)) = frames::read_header(&mut receive, &traffic, Sender::Client).await {
                let body = frames::read_body(&mut receive, &traffic, &header).await.unwrap();
                let (code, body) = match header.kind {
                    Kind::Open => {
                        message::decode::<OpenRequest>(&body).unwrap();
                        let opened = Opened {
                            handle: Handle(100 + session),
                            attr: attr(),
                            size_max: None,
                            lease: None,
                        };
                        (Code::Done, message::encode(&opened))
                    }
                    Kind::Close => (Code::Done, Vec::new()),
                    _ => {
                        assert_eq!(header.kind, Kind::Digest);
                        script.asked.lock().push(message::decode(&body).unwrap());
                        match script.answers.lock().pop_front() {
                            None => (Code::Failed(ErrorCode::Internal), Vec::new()),
                            Some(Answer::Lose) => return connection.close(0_u8.into(), b""),
                            Some(Answer::Reply(code, body)) => (code, body),
                        }
                    }
                };
                let (kind, id) = (header.kind, header.request);
                let sent = frames::write_frame(&mut send, &traffic, kind, code, id, body);
                if sent.await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What a digest comes to at a server of these features and answers.
async fn ask(
    features: Features,
    answers: impl IntoIterator<Item = Answer>,
    units: UnitRange,
) -> (Result<(Generation, Vec<UnitHash>), Error>, Arc<Script>) {
    let script = Arc::new(Script {
        answers: Mutex::new(answers.into_iter().collect()),
        ..Script::default()
    });
    let (server, own) = (Identity::generate(), Identity::generate());
    let listening = endpoint::open_server(&server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listening.local_addr().unwrap();
    tokio::spawn(accept(listening, Arc::clone(&script), features));
    let (client, shown) = endpoint::client_config(&own, server.id());
    let target = Target {
        instance: InstanceId([7; 16]),
        name: "script:1".to_owned(),
        address,
        pin: server.id(),
        compress: crate::compress::Compress::None,
        own_key: own.id(),
        client,
        shown,
        is_known: true,
        busy_poll: BusyPoll::default(),
        receive_window_bytes_max: SESSION_WINDOW_BYTES,
        patience: None,
    };
    let (link, _events) = Link::open(endpoint::client(address).unwrap(), target)
        .await
        .unwrap();
    let remote = QuicRemote::new(link);
    assert_eq!(remote.features().await.unwrap(), features);
    let path = SharedPath::new(NodePath::new(VOLUME).unwrap());
    let (volume, _) = remote.open(&path, NodeId(9), Access::Read).await.unwrap();
    let outcome = remote.digest(&volume, units).await;
    drop(volume);
    remote.link().close_and_wait().await;
    (outcome, script)
}

async fn accept(listening: Endpoint, script: Arc<Script>, features: Features) {
    while let Some(incoming) = listening.accept().await {
        if let Ok(connection) = incoming.await {
            tokio::spawn(serve(connection, Arc::clone(&script), features));
        }
    }
}

fn units() -> UnitRange {
    UnitRange {
        origin: 512,
        range: ByteRange::new(4608, 12_000).unwrap(),
        unit_log2: 12,
        how: Hashing::Chained,
    }
}

#[tokio::test]
async fn a_lost_request_is_sent_again_with_the_handle_of_the_next_session() {
    let reply = Answer::Reply(Code::Done, encode_reply(Generation(5), &[[1; 32], [2; 32]]));
    let (outcome, script) = ask(Features::KNOWN, [Answer::Lose, reply], units()).await;
    assert_eq!(outcome.unwrap(), (Generation(5), vec![[1; 32], [2; 32]]));
    let asked = |handle| DigestRequest {
        handle: Handle(handle),
        origin: 512,
        start: 4608,
        end: 12_000,
        unit_log2: 12,
        how: Hashing::Chained,
    };
    assert_eq!(*script.asked.lock(), [asked(101), asked(102)]);
}

#[tokio::test]
async fn an_older_server_is_not_asked() {
    let older = Features(Features::KNOWN.0 & !Features::DIGESTS.0);
    let (outcome, script) = ask(older, [], units()).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("update lacunad"), "{error}");
    assert!(script.asked.lock().is_empty());
}

#[tokio::test]
async fn a_reply_that_is_not_one_hash_for_each_unit_breaks_the_protocol() {
    let hashes = [[1; 32], [2; 32], [3; 32]];
    let good = encode_reply(Generation(5), &hashes[..2]);
    for (code, body) in [
        (Code::Done, encode_reply(Generation(5), &hashes)),
        (Code::Done, encode_reply(Generation(5), &hashes[..1])),
        (Code::Done, good[..good.len() - 1].to_vec()),
        (Code::Done, Vec::new()),
        (Code::More, good),
    ] {
        let (outcome, _) = ask(Features::KNOWN, [Answer::Reply(code, body)], units()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Protocol);
    }
}

#[tokio::test]
async fn a_request_beyond_the_bounds_is_not_sent() {
    let odd = UnitRange {
        range: ByteRange::new(513, 600).unwrap(),
        ..units()
    };
    let (outcome, script) = ask(Features::KNOWN, [], odd).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(script.asked.lock().is_empty());
}
