//! Reads and writes against a server that this test plays: one that packs, one that cannot, one that lies.

use std::net::Ipv4Addr;

use lacuna_transport::attr::{NodeKind, Timestamp};
use lacuna_transport::compression::Contexts;
use lacuna_transport::id::InstanceId;
use lacuna_transport::limits::SESSION_WINDOW_BYTES;
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::frames::{self, Traffic};
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::quic::{endpoint, tls};
use lacuna_transport::wire::codec::Codec;
use lacuna_transport::wire::codec::{Offer, When};
use lacuna_transport::wire::frame::Sender;
use lacuna_transport::wire::message::{Features, Hello, Welcome};
use lacuna_transport::wire::write::{HEAD_BYTES, WriteRequest};
use quinn::crypto::rustls::QuicServerConfig;

use super::*;
use crate::compress::Compress;
use crate::remote::session::Target;

const LEN: usize = 200_000;

fn text() -> Vec<u8> {
    let lines = (0..).map(|n| format!("{n}: what repeats itself can be said in fewer bytes\n"));
    lines.flat_map(String::into_bytes).take(LEN).collect()
}

fn attr() -> Attr {
    let time = Timestamp { seconds: 1, nanos: 0 };
    Attr {
        id: NodeId(42),
        kind: NodeKind::Volume,
        size: 1 << 30,
        allocated_bytes: 0,
        mode: 0o640,
        uid: 0,
        gid: 0,
        links: 1,
        accessed: time,
        modified: time,
        changed: time,
        birth_ns: 7,
        generation: Generation(9),
        base: Generation(9),
    }
}

/// The head and the payload of the reply to a read.
type Answer = dyn Fn(&ReadRequest) -> (Vec<u8>, Vec<u8>) + Send + Sync;

/// What the played server knows, does and was sent.
struct Peer {
    features: Features,
    answer: Box<Answer>,
    hello: Mutex<Option<Features>>,
    /// Of the volume by the name `v`, and its handle.
    birth_ns: AtomicU64,
    closed: Mutex<Vec<u64>>,
    written: Mutex<Vec<(Option<Codec>, Vec<u8>)>>,
}

impl Peer {
    fn new(
        features: Features,
        answer: impl Fn(&ReadRequest) -> (Vec<u8>, Vec<u8>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            features,
            answer: Box::new(answer),
            hello: Mutex::default(),
            birth_ns: AtomicU64::new(attr().birth_ns),
            closed: Mutex::default(),
            written: Mutex::default(),
        })
    }

    async fn serve(self: Arc<Self>, connection: quinn::Connection) {
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let peer = Arc::clone(&self);
            tokio::spawn(async move {
                let traffic = Traffic::default();
                while let Ok(Some(header)) = frames::read_header(&mut receive, &traffic, Sender::Client).await
                {
                    let Ok(body) = frames::read_body(&mut receive, &traffic, &header).await else {
                        return;
                    };
                    let reply = peer.reply(header.kind, &body);
                    let (kind, id) = (header.kind, header.request);
                    let sent = frames::write_frame(&mut send, &traffic, kind, Code::Done, id, reply).await;
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    }

    fn reply(&self, kind: Kind, body: &[u8]) -> Vec<u8> {
        match kind {
            Kind::Hello => {
                let hello: Hello = message::decode(body).unwrap();
                *self.hello.lock() = Some(hello.features);
                message::encode(&Welcome {
                    version: 0,
                    features: hello.features.common(self.features),
                    boot: BootId([1; 16]),
                    session: 1,
                    read_only: false,
                    agent: "peer".to_owned(),
                })
            }
            Kind::Open => {
                let birth_ns = self.birth_ns.load(Ordering::Relaxed);
                message::encode(&Opened {
                    handle: Handle(birth_ns),
                    attr: Attr { birth_ns, ..attr() },
                    size_max: None,
                    lease: None,
                })
            }
            Kind::Close => {
                let HandleRequest { handle } = message::decode(body).unwrap();
                self.closed.lock().push(handle.0);
                Vec::new()
            }
            Kind::Read => {
                let request = ReadRequest::decode(body).unwrap();
                let (head, payload) = (self.answer)(&request);
                [head, payload].concat()
            }
            Kind::Write => {
                let fixed = body.first_chunk::<HEAD_BYTES>().unwrap();
                let head_bytes = HEAD_BYTES + WriteRequest::ranges_bytes(fixed).unwrap();
                let (head, payload) = body.split_at(head_bytes);
                let codec = WriteRequest::decode_head(head).unwrap().codec();
                self.written.lock().push((codec, payload.to_vec()));
                message::encode(&attr())
            }
            _ => Vec::new(),
        }
    }
}

/// A volume of the played server, opened by a client that was told `compress`.
async fn open_volume(peer: &Arc<Peer>, compress: Compress) -> (QuicRemote, QuicVolume) {
    let (server, own) = (Identity::generate(), Identity::generate());
    let config = QuicServerConfig::try_from(tls::server_config(&server)).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let listening = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listening.local_addr().unwrap();
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        while let Some(incoming) = listening.accept().await {
            if let Ok(connection) = incoming.await {
                tokio::spawn(Arc::clone(&peer).serve(connection));
            }
        }
    });
    let (client, shown) = endpoint::client_config(&own, server.id());
    let target = Target {
        instance: InstanceId([7; 16]),
        name: "peer:1".to_owned(),
        address,
        pin: server.id(),
        own_key: own.id(),
        compress,
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
    let path = SharedPath::new(NodePath::new(b"v").unwrap());
    let (volume, _) = remote.open(&path, NodeId(42), Access::ReadWrite).await.unwrap();
    (remote, volume)
}

/// Answers as a good server does, with the first codec of the offer.
fn honest(request: &ReadRequest) -> (Vec<u8>, Vec<u8>) {
    let bytes = &text()[..usize::try_from(request.bytes()).unwrap()];
    let offered = |codec: &Codec| request.offer().is_some_and(|offer| offer.contains(*codec));
    let codec = Codec::ALL.into_iter().find(offered);
    let payload = match codec {
        Some(codec) => Contexts::default().pack(codec, &[bytes]).unwrap(),
        None => bytes.to_vec(),
    };
    (request.encode_reply_head(Generation(9), codec), payload)
}

/// Reads `LEN` bytes into buffers of these lengths.
async fn read(remote: &QuicRemote, volume: &QuicVolume, lengths: &[usize]) -> Result<Vec<u8>> {
    let range = ByteRange::at(0, u64::try_from(LEN).unwrap()).unwrap();
    let (_, buffers) = remote.read(volume, vec![range], lengths).await?;
    Ok(buffers.concat())
}

async fn write(remote: &QuicRemote, volume: &QuicVolume, bytes: &[u8]) {
    let half = bytes.len() / 2;
    let slices = [&bytes[..half], &bytes[half..]].map(|bytes| Slice::new(bytes, 0, None));
    let len = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
    let ranges = vec![ByteRange::at(4096, len(bytes)).unwrap()];
    remote
        .write(volume, BootId([1; 16]), ranges, slices.to_vec())
        .await
        .unwrap();
}

#[tokio::test]
async fn bytes_are_right_with_each_codec() {
    for (compress, codec) in [(Compress::Zstd, Codec::Zstd), (Compress::Lz4, Codec::Lz4)] {
        let peer = Peer::new(Features::KNOWN, honest);
        let (remote, volume) = open_volume(&peer, compress).await;
        for lengths in [&[LEN][..], &[1, 4096, LEN - 4097]] {
            let bytes = read(&remote, &volume, lengths).await.unwrap();
            assert!(bytes == text(), "{compress}, {lengths:?}");
        }
        write(&remote, &volume, &text()).await;
        let (used, payload) = peer.written.lock().pop().unwrap();
        assert_eq!(used, Some(codec));
        assert!(payload.len() < LEN / 4, "{compress}: {} bytes", payload.len());
        let mut bytes = vec![0; LEN];
        Contexts::default().unpack(codec, &payload, &mut bytes).unwrap();
        assert!(bytes == text(), "{compress}");
    }
}

/// With a server that knows no codec, or another one, and with `none`: as it always was.
#[tokio::test]
async fn bytes_are_right_with_a_peer_that_packs_nothing() {
    let without = |codec: Codec| Features::KNOWN.without(codec.feature());
    let neither = without(Codec::Zstd).common(without(Codec::Lz4));
    for (features, compress) in [
        (neither, Compress::Auto),
        (neither, Compress::Zstd),
        (without(Codec::Lz4), Compress::Lz4),
        (Features::KNOWN, Compress::None),
    ] {
        let peer = Peer::new(features, |request| {
            assert_eq!(request.offer(), None);
            honest(request)
        });
        let (remote, volume) = open_volume(&peer, compress).await;
        assert_eq!(*peer.hello.lock(), Some(compress.features()));
        assert!(
            read(&remote, &volume, &[LEN]).await.unwrap() == text(),
            "{compress}"
        );
        write(&remote, &volume, &text()).await;
        let written = peer.written.lock().pop();
        assert!(written == Some((None, text())), "{compress}");
    }
}

/// With `auto` it is the server's choice, among the codecs that both know.
#[tokio::test]
async fn auto_offers_what_both_know() {
    for features in [Features::KNOWN, Features::KNOWN.without(Features::ZSTD)] {
        let expected = Offer::new(&Codec::ALL, When::ByPath).and_then(|all| all.within(features));
        let peer = Peer::new(features, move |request| {
            assert_eq!(request.offer(), expected);
            honest(request)
        });
        let (remote, volume) = open_volume(&peer, Compress::Auto).await;
        assert!(read(&remote, &volume, &[LEN]).await.unwrap() == text());
    }
}

/// A reply that is not what it says is an error of the read, and ends the session.
#[tokio::test]
async fn a_server_that_lies_is_refused() {
    let packed = |bytes: &[u8]| Contexts::default().pack(Codec::Lz4, &[bytes]).unwrap();
    let (good, longer) = (packed(&text()), packed(&[text(), text()].concat()));
    let cases = [
        ("truncated", 2, good[..good.len() - 1].to_vec()),
        ("too little", 2, packed(&text()[..LEN - 1])),
        ("too much", 2, longer),
        ("a bomb", 2, packed(&[0; 1 << 20])),
        ("garbage", 2, text()[..1000].to_vec()),
        ("nothing", 2, Vec::new()),
        ("as long as the bytes", 2, text()),
        ("another codec", 1, good.clone()),
        ("an unknown codec", 77, good.clone()),
        ("short and not packed", 0, good),
    ];
    for (what, codec, payload) in cases {
        let peer = Peer::new(Features::KNOWN, move |_| {
            let head = [&9_u64.to_le_bytes()[..], &[codec]].concat();
            (head, payload.clone())
        });
        let (remote, volume) = open_volume(&peer, Compress::Lz4).await;
        let Some(session) = remote.link().session_now() else {
            panic!("{what}: not connected");
        };
        let error = read(&remote, &volume, &[LEN]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error}");
        assert!(session.is_closed(), "{what}");
    }
}

/// An inode is used again at once by some file systems.
#[tokio::test]
async fn another_volume_of_the_same_number_is_not_kept_open() {
    let peer = Peer::new(Features::KNOWN, honest);
    let (remote, volume) = open_volume(&peer, Compress::None).await;
    let Some(session) = remote.link().session_now() else {
        panic!("no session");
    };
    peer.birth_ns.store(8, Ordering::Relaxed);
    session.close_unsure("for a test");
    let error = remote.stat_open(&volume).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    assert_eq!(*peer.closed.lock(), [8]);
}
