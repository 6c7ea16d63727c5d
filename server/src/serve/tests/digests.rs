//! Hashes of units: of what a read would give, without reading holes, and of one moment.

use lacuna_transport::digest::{
    DigestKind, Hashing, InOrder, InUnits, Tree, UNIT_LOG2, UNIT_LOG2_MAX, UnitHash,
};
use lacuna_transport::id::Handle;
use lacuna_transport::limits::{DIGEST_BYTES_MAX, DIGEST_UNITS_MAX, VOLUME_BYTES_MAX};
use lacuna_transport::quic::frames::Traffic;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::digest::{DigestRequest, decode_reply};
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{self, Features};

use super::bed::*;
use super::shared::DIGESTS;
use super::*;
use crate::backend::fault::{Call, Fault, Plan};

/// Plain units of 1 MiB.
/// What is asked for, unless said otherwise.
const UNIT_BYTES: u64 = 1 << UNIT_LOG2_MAX;

fn request(handle: Handle, range: ByteRange) -> DigestRequest {
    DigestRequest {
        handle,
        origin: 0,
        start: range.start(),
        end: range.end(),
        unit_log2: UNIT_LOG2_MAX,
        how: Hashing::Plain,
    }
}

async fn ask(client: &mut Client, request: DigestRequest) -> Result<(u64, Vec<UnitHash>), ErrorCode> {
    let bodies = client.ask(Kind::Digest, message::encode(&request)).await?;
    let (base, hashes) = decode_reply(&bodies[0], request.units()).unwrap();
    Ok((base.0, hashes))
}

/// What the reply is to be, of the volume's bytes.
fn expected(request: &DigestRequest, bytes: &[u8]) -> Vec<UnitHash> {
    let mut hashes = InUnits::new(request.how, request.offset(), request.unit_bytes());
    let at = |offset: u64| usize::try_from(offset).unwrap().min(bytes.len());
    let inside = &bytes[at(request.start)..at(request.end)];
    hashes.data(inside);
    hashes.zeros(request.range().len() - u64::try_from(inside.len()).unwrap());
    hashes.finish()
}

/// 5 MiB and a bit: data, holes, data full of zeros, and bits of each within one unit.
fn mixed(bed: &Bed) -> Vec<u8> {
    let noise: Vec<u8> = (0..700_000_u32).map(|at| at.to_le_bytes()[1] | 1).collect();
    let zeros = vec![0; 1 << 20];
    let size = 5 * UNIT_BYTES + 12_345;
    bed.volume(
        "v",
        size,
        &[
            (0, &noise),
            (2 * UNIT_BYTES, &zeros),
            (3 * UNIT_BYTES + 4096, &noise[..10]),
            (size - 9, b"the end.!"),
        ],
    );
    std::fs::read(bed.folder.path().join("v")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_those_of_the_bytes_a_read_gives() {
    let bed = Bed::start();
    let bytes = mixed(&bed);
    let size = u64::try_from(bytes.len()).unwrap();
    let mut client = bed.client().await;
    assert!(client.welcome.features.contains(Features::DIGESTS));
    let opened = client.open("v").await;
    let all = request(opened.handle, ByteRange::up_to(size));
    for how in [Hashing::Plain, Hashing::Chained] {
        for asked in [
            DigestRequest { how, ..all },
            DigestRequest {
                how,
                unit_log2: 12,
                ..all
            },
            DigestRequest {
                how,
                unit_log2: 16,
                end: size - 100,
                ..all
            },
            // Into the middle of a unit, as if a file began there.
            DigestRequest {
                how,
                origin: 999,
                start: 999 + UNIT_BYTES,
                end: 999 + 3 * UNIT_BYTES,
                ..all
            },
            // Over the end, and beyond it.
            DigestRequest {
                how,
                end: 7 * UNIT_BYTES,
                ..all
            },
            DigestRequest {
                how,
                start: 8 * UNIT_BYTES,
                end: 9 * UNIT_BYTES,
                ..all
            },
        ] {
            let (base, hashes) = ask(&mut client, asked).await.unwrap();
            assert_eq!(base, opened.attr.base.0);
            assert_eq!(hashes, expected(&asked, &bytes), "{asked:?}");
        }
    }
    let gone = request(Handle(77), ByteRange::up_to(1));
    assert_eq!(ask(&mut client, gone).await, Err(ErrorCode::Stale));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_of_a_server_make_the_digest_of_the_volume() {
    let bed = Bed::start();
    let bytes = mixed(&bed);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    for kind in DigestKind::ALL {
        for (start, end) in [(0, bytes.len()), (4097, 3_000_000), (7, 1 << 20), (0, 1 << 20)] {
            let mut whole = InOrder::new(kind);
            whole.data(&bytes[start..end]);
            let (start, end) = (u64::try_from(start).unwrap(), u64::try_from(end).unwrap());
            let mut tree = Tree::new(kind, end - start);
            let asked = DigestRequest {
                origin: start,
                how: tree.units().hashing(),
                unit_log2: UNIT_LOG2,
                ..request(handle, ByteRange::new(start, end).unwrap())
            };
            let (_, hashes) = ask(&mut client, asked).await.unwrap();
            (0..).zip(hashes).for_each(|(index, hash)| tree.set(index, hash));
            assert_eq!(tree.finish(), whole.finish(), "{start}..{end}");
        }
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_requests_are_answered_and_holes_are_not_read() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 1 << 40, &[]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    plan.next(Call::Read, Fault::Fail(ErrorKind::Io));
    let start = 1 << 39;
    for (bytes, unit_log2) in [(DIGEST_UNITS_MAX << 12, 12), (DIGEST_BYTES_MAX, 20)] {
        let asked = DigestRequest {
            unit_log2,
            ..request(handle, ByteRange::at(start, bytes).unwrap())
        };
        let (_, hashes) = ask(&mut client, asked).await.unwrap();
        assert_eq!(hashes, expected(&asked, &[]));
    }
    assert_eq!(plan.left(Call::Read), 1, "a hole was read");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_while_it_hashes_is_seen() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 0, &[(0, b"old")]);
    let mut client = bed.client().await;
    let opened = client.open("v").await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bed.folder.path().join("v"))
        .unwrap();
    let (go_on, gate) = std::sync::mpsc::channel();
    // The look before the bytes passes; the one after them waits for the change.
    plan.next(Call::Attr, Fault::Pass);
    plan.next(Call::Attr, Fault::Wait(gate));
    let changed = tokio::task::spawn_blocking({
        let plan = Arc::clone(&plan);
        move || {
            while plan.left(Call::Attr) > 0 {
                std::thread::yield_now();
            }
            file.write_all_at(b"new", 0).unwrap();
            go_on.send(()).unwrap();
        }
    });
    let asked = request(opened.handle, ByteRange::up_to(3));
    let (base, hashes) = ask(&mut client, asked).await.unwrap();
    changed.await.unwrap();
    assert!(base > opened.attr.base.0);
    assert_eq!(hashes, expected(&asked, b"new"));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_replies_and_the_next_digest_is_made() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 100, &[(0, b"text")]);
    let mut client = bed.client().await;
    let asked = request(client.open("v").await.handle, ByteRange::up_to(100));
    let mut failed = asked;
    failed.how = Hashing::Chained;
    // More often than digests are made at once: each gives its share of the budget back.
    for _ in 0..DIGESTS {
        for call in [Call::Read, Call::Extents, Call::Attr] {
            plan.next(call, Fault::Fail(ErrorKind::Io));
            assert_eq!(ask(&mut client, failed).await, Err(ErrorCode::Io), "{call:?}");
        }
        plan.next(Call::Read, Fault::Panic);
        assert_eq!(ask(&mut client, failed).await, Err(ErrorCode::Internal));
    }
    let mut bytes = b"text".to_vec();
    bytes.resize(100, 0);
    assert_eq!(ask(&mut client, asked).await.unwrap().1, expected(&asked, &bytes));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_digests_are_made_at_once_and_reads_go_on() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 100, &[(0, b"text")]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let body = message::encode(&request(handle, ByteRange::up_to(100)));
    let mut gates = Vec::new();
    let mut lanes = Vec::new();
    let traffic = Traffic::default();
    for _ in 0..=DIGESTS / 2 {
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        plan.next(Call::Read, Fault::Wait(gate));
        gates.push(go_on);
        let (mut out, back) = client.connection.open_bi().await.unwrap();
        send(&mut out, &traffic, Kind::Digest, 50, body.clone()).await;
        lanes.push((out, back));
    }
    while plan.left(Call::Read) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        bed.server.shared.digests.held(),
        DIGESTS / 2,
        "one client has half"
    );
    client.stat("v").await.unwrap();
    assert_eq!(plan.left(Call::Read), 1, "one too many is under way");
    gates.clear();
    for (_, back) in &mut lanes {
        assert_eq!(receive(back, &traffic).await.0.code, Code::Done);
    }
    assert_eq!(plan.left(Call::Read), 0);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_end_the_session() {
    let bed = Bed::start();
    bed.volume("v", 100, &[(0, b"kept")]);
    let good = request(Handle(1), ByteRange::up_to(100));
    let ends_at = |end| DigestRequest { end, ..good };
    let mut bodies: Vec<_> = [
        ends_at(0),
        ends_at(DIGEST_BYTES_MAX + 1),
        ends_at(u64::MAX),
        DigestRequest {
            unit_log2: 12,
            ..ends_at((DIGEST_UNITS_MAX << 12) + 1)
        },
        DigestRequest { start: 5, ..good },
        DigestRequest { origin: 5, ..good },
        DigestRequest {
            unit_log2: 11,
            ..good
        },
        DigestRequest {
            unit_log2: 21,
            ..good
        },
        DigestRequest {
            unit_log2: 64,
            ..good
        },
        request(
            Handle(1),
            ByteRange::new(VOLUME_BYTES_MAX + 1, VOLUME_BYTES_MAX + 2).unwrap(),
        ),
    ]
    .iter()
    .map(message::encode)
    .collect();
    let mut unknown = message::encode(&good);
    *unknown.last_mut().unwrap() = 2;
    bodies.extend([unknown, Vec::new()]);
    for body in bodies {
        let mut client = bed.client().await;
        client.open("v").await;
        send(&mut client.lane.0, &client.traffic, Kind::Digest, 9, body.clone()).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol, "{body:x?}");
    }
    let mut client = bed.client().await;
    client.open("v").await;
    ask(&mut client, good).await.unwrap();
    bed.stop().await;
}
