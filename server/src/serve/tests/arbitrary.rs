//! Sessions of any frames in any order: good, bad, cut off, on any lane, from clients that are allowed and others. The
//! server answers or ends the session; nothing panics, and others are served.

use std::sync::atomic::AtomicUsize;

use lacuna_transport::digest::Hashing;
use lacuna_transport::id::{NodeId, OperationId};
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::wire::digest::DigestRequest;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{HEADER_BYTES, Sender};
use lacuna_transport::wire::message::{
    CopyRequest, FlushRequest, OpenRequest, RemoveRequest, RenameMode, RenameRequest, Reshape,
    ReshapeRequest, ResizeRequest,
};
use lacuna_transport::wire::write::WriteRequest;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::bed::*;
use super::names::create;
use super::*;

/// Sequences; more with PROPTEST_CASES.
const CASES: u32 = 300;
/// Taken of an answer at once.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// A sequence is answered, or its session over, long before this.
const LIMIT: Duration = Duration::from_secs(20);

/// A frame as it goes out, on one of the lanes.
#[derive(Clone, Debug)]
struct Frame {
    lane: usize,
    bytes: Vec<u8>,
}

impl Frame {
    fn whole(lane: usize, kind: Kind, request: u64, body: &[u8]) -> Self {
        let header = Header {
            body_bytes: u32::try_from(body.len()).unwrap(),
            kind,
            code: Code::Done,
            request: RequestId(request),
        };
        let bytes = [&header.encode()[..], body].concat();
        Self { lane, bytes }
    }
}

/// So that the first handles are open.
fn opening() -> Vec<u8> {
    message::encode(&OpenRequest {
        path: path("v"),
        write: true,
        lease: None,
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        Just(4096),
        Just(65536),
        Just(1 << 20),
        Just(VOLUME_BYTES_MAX),
        Just(u64::MAX),
        any::<u64>()
    ]
}

/// What may be made, moved and removed.
fn passing() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["new", "other", "f/new", "nowhere/new"])
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["v", "f", "f/a", "new", "other", "", "f/new"])
}

/// What makes sense, or would with other numbers.
fn request() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    (
        0..16_u8,
        name(),
        passing(),
        passing(),
        number(),
        number(),
        number(),
        any::<bool>(),
    )
        .prop_map(|(which, name, from, to, a, b, c, flag)| {
            let (handle, size) = (Handle(1 + a % 4), b % (4 << 20));
            let range = ByteRange::at_saturating(size, 1 + c % (1 << 18));
            match which {
                0 => (Kind::Stat, path_request(name)),
                1 => (Kind::List, path_request(name)),
                2 => (
                    Kind::Open,
                    message::encode(&OpenRequest {
                        path: path(name),
                        write: flag,
                        lease: None,
                    }),
                ),
                3 => (Kind::Close, message::encode(&HandleRequest { handle })),
                4 => (Kind::StatOpen, message::encode(&HandleRequest { handle })),
                5 => (
                    Kind::Read,
                    ReadRequest::new(handle, vec![range]).map_or(Vec::new(), |read| read.encode()),
                ),
                6 => (
                    Kind::Map,
                    message::encode(&MapRequest {
                        handle,
                        start: b.min(c),
                        end: b.max(c),
                        pages_max: u32::try_from(1 + a % 9).unwrap(),
                    }),
                ),
                7 => {
                    let mut body = WriteRequest::new(handle, vec![range])
                        .map_or(Vec::new(), |write| write.encode_head());
                    body.resize(body.len() + usize::try_from(range.len()).unwrap(), 7);
                    (Kind::Write, body)
                }
                8 => (
                    Kind::Reshape,
                    message::encode(&ReshapeRequest {
                        handle,
                        how: [Reshape::Punch, Reshape::Zero, Reshape::Allocate]
                            [usize::try_from(c % 3).unwrap()],
                        start: size,
                        end: size + c % (4 << 20),
                        grow: flag,
                        others: (b % 2 == 0).then(|| vec![(size + b % 4096, size + c % (8 << 20))]),
                    }),
                ),
                9 => (Kind::Resize, message::encode(&ResizeRequest { handle, size })),
                10 => (
                    Kind::Copy,
                    message::encode(&CopyRequest {
                        source: handle,
                        source_offset: b,
                        target: Handle(1 + c % 4),
                        target_offset: c,
                        length: 1 + size,
                    }),
                ),
                11 => (
                    Kind::Flush,
                    message::encode(&FlushRequest {
                        handle,
                        data_only: flag,
                    }),
                ),
                12 => (
                    Kind::Digest,
                    message::encode(&DigestRequest {
                        handle,
                        how: Hashing::Chained,
                        start: 0,
                        end: 1 + b % (4 << 20),
                        origin: 0,
                        unit_log2: 16,
                    }),
                ),
                13 => (Kind::Create, message::encode(&create(a, to, flag))),
                14 => (
                    Kind::Remove,
                    message::encode(&RemoveRequest {
                        operation: OperationId(a),
                        path: path(from),
                        folder: flag,
                        id: flag.then_some(NodeId(b)),
                    }),
                ),
                _ => (
                    Kind::Rename,
                    message::encode(&RenameRequest {
                        operation: OperationId(a),
                        from: path(from),
                        to: path(to),
                        mode: RenameMode::Replace,
                    }),
                ),
            }
        })
}

/// A request, mostly as it should be; else with a byte changed, cut short, or of another kind than it says.
fn frame() -> impl Strategy<Value = Frame> {
    let damage = prop_oneof![
        60 => Just(None),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some),
    ];
    let body = prop_oneof![
        60 => request(),
        1 => (prop::sample::select(Kind::ALL), vec(any::<u8>(), 0..64)).prop_map(|(kind, body)| (kind, body)),
    ];
    (
        0..4_usize,
        body,
        any::<u64>(),
        damage,
        prop_oneof![60 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(lane, (kind, body), number, damage, cut)| {
            let Frame { mut bytes, .. } = Frame::whole(lane, kind, number, &body);
            if let Some((place, byte)) = damage {
                let place = place.index(bytes.len());
                bytes[place] ^= byte;
            }
            if cut {
                bytes.truncate(bytes.len() / 2);
            }
            Frame { lane, bytes }
        })
}

/// What came of all frames: a test that saw none of one kind has tested nothing.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicUsize,
    failed: AtomicUsize,
    ended: AtomicUsize,
}

/// Sends all of it, and looks at what comes back until the server has nothing more to say.
async fn play(connection: &Connection, frames: &[Frame], seen: &Seen) {
    let mut lanes = Vec::new();
    for number in 0..3 {
        let Ok((mut out, mut back)) = connection.open_bi().await else {
            return;
        };
        let first = Frame::whole(number, Kind::Open, 0, &opening());
        let bytes: Vec<u8> = std::iter::once(&first)
            .chain(frames)
            .filter(|frame| frame.lane == number)
            .flat_map(|frame| frame.bytes.clone())
            .collect();
        lanes.push(tokio::spawn(async move {
            // The server may have ended it meanwhile.
            let send = async {
                drop(out.write_all(&bytes).await);
                drop(out.finish());
            };
            let receive = async {
                let mut answers = Vec::new();
                while let Ok(Some(chunk)) = back.read_chunk(ANSWER_BYTES_MAX, true).await {
                    answers.extend_from_slice(&chunk.bytes);
                }
                answers
            };
            tokio::join!(receive, send).0
        }));
    }
    for lane in lanes {
        let answers = timeout(LIMIT, lane).await.expect("the server answers or ends it");
        check(&answers.unwrap(), seen);
    }
    if connection.close_reason().is_some() {
        seen.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers are whole frames, and none tells of a panic.
fn check(mut answers: &[u8], seen: &Seen) {
    while let Some((header, rest)) = answers.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(header, Sender::Server).expect("the server sends headers");
        assert_ne!(
            header.code,
            Code::Failed(ErrorCode::Internal),
            "{:?}",
            header.kind
        );
        match header.code {
            Code::Done | Code::More => seen.done.fetch_add(1, Ordering::Relaxed),
            Code::Failed(_) => seen.failed.fetch_add(1, Ordering::Relaxed),
        };
        let body_bytes = usize::try_from(header.body_bytes).unwrap();
        // A session that ends may cut its last answer short.
        answers = rest.get(body_bytes..).unwrap_or_default();
    }
}

#[test]
fn any_frames_are_answered_or_end_the_session() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bed, good, allowed) = runtime.block_on(async {
        let bed = Bed::start();
        bed.volume("v", 1 << 20, &[(4096, b"data")]);
        std::fs::create_dir(bed.folder.path().join("f")).unwrap();
        bed.volume("f/a", 10, &[(0, b"a")]);
        bed.volume("good", 3, &[(0, b"yes")]);
        let mut good = bed.client().await;
        let handle = good.open("good").await.handle;
        let good = tokio::sync::Mutex::new((good, handle));
        let allowed = Arc::new(Identity::generate());
        bed.allow(&allowed, Access::ReadWrite);
        (bed, good, allowed)
    });
    let seen = Seen::default();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        ..Config::default()
    };
    // Some who are allowed say hello, some do not; and some are not allowed.
    let sequences = (0..6_u8, vec(frame(), 1..40));
    let played = TestRunner::new(config).run(&sequences, |(who, frames)| {
        runtime.block_on(async {
            match who {
                0 => {
                    if let Some((_endpoint, connection)) = bed.try_connect(&Identity::generate()).await {
                        play(&connection, &frames, &seen).await;
                    }
                }
                1 => {
                    let (_endpoint, connection) = bed.connect(&allowed).await;
                    play(&connection, &frames, &seen).await;
                }
                _ => {
                    let session = bed.session(&allowed, who).await.expect("a session");
                    play(&session.connection, &frames, &seen).await;
                }
            }
            let (good, handle) = &mut *good.lock().await;
            let read = timeout(LIMIT, good.read(*handle, &[(0, 3)])).await;
            assert_eq!(read.expect("an answer").unwrap().1, b"yes");
        });
        Ok(())
    });
    played.unwrap();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert!(
        count(&seen.done) > 0 && count(&seen.failed) > 0 && count(&seen.ended) > 0,
        "{seen:?}"
    );
    runtime.block_on(bed.stop());
}
