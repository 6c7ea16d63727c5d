//! Changes of open volumes over the wire: good, bad, and what other sessions see of them.

use lacuna_transport::attr::{Attr, NewAttr, NewTime, Timestamp};
use lacuna_transport::id::Handle;
use lacuna_transport::limits::{WRITE_BYTES_MAX, WRITE_RANGES_MAX};
use lacuna_transport::quic::frames;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Header, Kind};
use lacuna_transport::wire::message::{
    Copied, CopyRequest, FlushRequest, Opened, Reshape, ReshapeRequest, ResizeRequest, SetAttrRequest,
    Subject, VolumeChanged,
};
use lacuna_transport::wire::write::{Flush, WriteRequest};

use super::bed::*;
use super::*;
use crate::backend::fault::{Call, Fault, Plan};

fn reshape(handle: Handle, how: Reshape, start: u64, end: u64, grow: bool) -> ReshapeRequest {
    ReshapeRequest {
        handle,
        how,
        start,
        end,
        grow,
        others: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_done_and_answered_with_the_attributes_after_it() {
    let bed = Bed::start();
    bed.volume("v", 100, &[]);
    let on_disk = || std::fs::read(bed.folder.path().join("v")).unwrap();
    let mut client = bed.client().await;
    let Opened {
        handle, attr: opened, ..
    } = client.open_to_change("v").await;
    let mut last = opened;
    let mut check = |attr: Attr, size: u64| {
        assert_eq!((attr.id, attr.size, attr.base), (opened.id, size, opened.base));
        assert!(attr.generation > last.generation);
        last = attr;
    };
    check(
        client.write(handle, &[(3, b"abc"), (98, b"wxyz")]).await.unwrap(),
        102,
    );
    assert_eq!((&on_disk()[3..6], &on_disk()[98..]), (&b"abc"[..], &b"wxyz"[..]));
    let zero = reshape(handle, Reshape::Zero, 4, 200, true);
    check(client.get(Kind::Reshape, &zero).await.unwrap(), 200);
    assert_eq!(on_disk(), [&b"\0\0\0a"[..], &[0; 196]].concat());
    let punch = reshape(handle, Reshape::Punch, 0, 1 << 40, false);
    check(client.get(Kind::Reshape, &punch).await.unwrap(), 200);
    assert_eq!(on_disk(), [0; 200]);
    let allocate = reshape(handle, Reshape::Allocate, 0, 1 << 20, false);
    let attr: Attr = client.get(Kind::Reshape, &allocate).await.unwrap();
    assert!(attr.allocated_bytes >= 1 << 20);
    check(attr, 200);
    let resize = ResizeRequest {
        handle,
        size: 1 << 30,
    };
    check(client.get(Kind::Resize, &resize).await.unwrap(), 1 << 30);
    client.write(handle, &[(0, b"copied")]).await.unwrap();
    let copy = CopyRequest {
        source: handle,
        source_offset: 0,
        target: handle,
        target_offset: 1 << 20,
        length: 1 << 19,
    };
    let copied: Copied = client.get(Kind::Copy, &copy).await.unwrap();
    assert_eq!(copied.bytes, 1 << 19);
    let read = client.read(handle, &[(1 << 20, 7)]).await.unwrap();
    assert_eq!(read, (opened.base.0, b"copied\0".to_vec()));
    let new = NewAttr {
        mode: Some(0o4711),
        modified: Some(NewTime::At(Timestamp {
            seconds: -5,
            nanos: 1,
        })),
        ..NewAttr::default()
    };
    for subject in [Subject::Open(handle), Subject::Path(path("v"))] {
        let request = SetAttrRequest { subject, attr: new };
        let attr: Attr = client.get(Kind::SetAttr, &request).await.unwrap();
        assert_eq!((attr.mode, attr.modified.seconds), (0o4711, -5));
        check(attr, 1 << 30);
    }
    for data_only in [true, false] {
        let flush = FlushRequest { handle, data_only };
        let attr: Attr = client.get(Kind::Flush, &flush).await.unwrap();
        assert_eq!((attr.generation, attr.base), (last.generation, opened.base));
    }
    bed.stop().await;
}

fn flushed_body(handle: Handle, offset: u64, bytes: &[u8], flush: Flush) -> Vec<u8> {
    let range = ByteRange::at(offset, u64::try_from(bytes.len()).unwrap()).unwrap();
    let request = WriteRequest::new(handle, vec![range])
        .unwrap()
        .flushed(Some(flush));
    [&request.encode_head(), bytes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_a_flush_is_answered_when_both_are_done() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 100, &[]);
    let mut client = bed.client().await;
    let handle = client.open_to_change("v").await.handle;
    for (flush, letter) in [(Flush::Data, b"a"), (Flush::All, b"b")] {
        // It is met: the flush is made.
        plan.next(Call::Flush, Fault::Fail(ErrorKind::Io));
        let body = flushed_body(handle, 3, letter, flush);
        assert_eq!(
            client.ask(Kind::Write, body).await.unwrap_err(),
            ErrorCode::Io,
            "{flush:?}"
        );
        let written = std::fs::read(bed.folder.path().join("v")).unwrap();
        assert_eq!(written[3], letter[0], "before the flush");
        let body = flushed_body(handle, 4, letter, flush);
        let bodies = client.ask(Kind::Write, body).await.unwrap();
        let attr: Attr = message::decode(&bodies[0]).unwrap();
        let request = HandleRequest { handle };
        let now: Attr = client.get(Kind::StatOpen, &request).await.unwrap();
        assert_eq!(attr.generation, now.generation);
    }
    // One that is not done is not flushed.
    plan.next(Call::Write, Fault::Fail(ErrorKind::NoSpace));
    plan.next(Call::Flush, Fault::Fail(ErrorKind::Io));
    let body = flushed_body(handle, 3, b"c", Flush::Data);
    assert_eq!(
        client.ask(Kind::Write, body).await.unwrap_err(),
        ErrorCode::NoSpace
    );
    let flush = FlushRequest {
        handle,
        data_only: true,
    };
    let next = client.get::<Attr>(Kind::Flush, &flush).await;
    assert_eq!(next.unwrap_err(), ErrorCode::Io, "the flush was left out");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_was_not_agreed_on_ends_the_session() {
    let bed = Bed::start();
    bed.volume("v", 100, &[]);
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let older = Features::KNOWN.without(Features::WRITE_FLUSH);
    let mut client = Client::new(bed.connect(&identity).await, identity, older).await;
    let handle = client.open_to_change("v").await.handle;
    let body = flushed_body(handle, 3, b"x", Flush::Data);
    send(&mut client.lane.0, &client.traffic, Kind::Write, 9, body).await;
    assert_eq!(client.closed().await.0, CloseCode::Protocol);
    assert_eq!(std::fs::read(bed.folder.path().join("v")).unwrap(), [0; 100]);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_that_are_far_apart_are_one_change() {
    let bed = Bed::start();
    bed.volume("v", 1 << 20, &[(0, &[7; 1 << 20])]);
    let mut client = bed.client().await;
    let Opened { handle, attr, .. } = client.open_to_change("v").await;
    let request = ReshapeRequest {
        others: Some(vec![(64 << 10, 128 << 10), (1 << 19, 1 << 30)]),
        ..reshape(handle, Reshape::Punch, 4096, 8192, false)
    };
    let after: Attr = client.get(Kind::Reshape, &request).await.unwrap();
    assert_eq!(after.size, 1 << 20);
    assert!(after.generation > attr.generation && after.allocated_bytes < attr.allocated_bytes);
    let mut expected = vec![7; 1 << 20];
    for range in [4096..8192, 64 << 10..128 << 10, 1 << 19..1 << 20] {
        expected[range].fill(0);
    }
    assert!(std::fs::read(bed.folder.path().join("v")).unwrap() == expected);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_that_were_not_agreed_on_end_the_session() {
    let bed = Bed::start();
    bed.volume("v", 100, &[(0, b"data")]);
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let older = Features::KNOWN.without(Features::PUNCH_MANY);
    let mut client = Client::new(bed.connect(&identity).await, identity, older).await;
    let handle = client.open_to_change("v").await.handle;
    let request = ReshapeRequest {
        others: Some(vec![(50, 60)]),
        ..reshape(handle, Reshape::Punch, 0, 4, false)
    };
    let body = message::encode(&request);
    send(&mut client.lane.0, &client.traffic, Kind::Reshape, 9, body).await;
    assert_eq!(client.closed().await.0, CloseCode::Protocol);
    assert!(
        std::fs::read(bed.folder.path().join("v"))
            .unwrap()
            .starts_with(b"data")
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_writes_are_exact() {
    let bed = Bed::start();
    bed.volume("v", 0, &[]);
    let mut client = bed.client().await;
    let handle = client.open_to_change("v").await.handle;
    let max = usize::try_from(WRITE_BYTES_MAX).unwrap();
    let bytes: Vec<u8> = (0..max)
        .map(|index| u8::try_from(index * 7 % 251).unwrap())
        .collect();
    assert_eq!(
        client.write(handle, &[(5, &bytes)]).await.unwrap().size,
        5 + (1 << 20)
    );
    let part = max / WRITE_RANGES_MAX;
    let many: Vec<(u64, &[u8])> = (0_u64..)
        .zip(bytes.chunks_exact(part))
        .map(|(index, part)| ((10 << 20) + index * 9_000, part))
        .collect();
    assert_eq!(many.len(), WRITE_RANGES_MAX);
    client.write(handle, &many).await.unwrap();
    let on_disk = std::fs::read(bed.folder.path().join("v")).unwrap();
    assert!(on_disk[5..5 + max] == bytes);
    for (offset, part) in many {
        let offset = usize::try_from(offset).unwrap();
        assert!(&on_disk[offset..offset + part.len()] == part);
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_all_as_it_was() {
    let bed = Bed::start();
    bed.volume("v", 100, &[(0, b"kept")]);
    let mut client = bed.client().await;
    let reading = client.open("v").await.handle;
    let writing = client.open_to_change("v").await.handle;
    let stale = Handle(99);
    for (handle, error) in [(reading, ErrorCode::Denied), (stale, ErrorCode::Stale)] {
        let punch = reshape(handle, Reshape::Punch, 0, 4, false);
        let copy = CopyRequest {
            source: writing,
            source_offset: 0,
            target: handle,
            target_offset: 50,
            length: 4,
        };
        assert_eq!(client.write(handle, &[(0, b"gone")]).await.unwrap_err(), error);
        assert_eq!(
            client.get::<Attr>(Kind::Reshape, &punch).await.unwrap_err(),
            error
        );
        let resize = ResizeRequest { handle, size: 0 };
        assert_eq!(
            client.get::<Attr>(Kind::Resize, &resize).await.unwrap_err(),
            error
        );
        assert_eq!(client.get::<Copied>(Kind::Copy, &copy).await.unwrap_err(), error);
    }
    let overlap = CopyRequest {
        source: reading,
        source_offset: 0,
        target: writing,
        target_offset: 3,
        length: 4,
    };
    let refused = client.get::<Copied>(Kind::Copy, &overlap).await;
    assert_eq!(
        refused.unwrap_err(),
        ErrorCode::Invalid,
        "two handles of one volume"
    );
    let flush = |handle| FlushRequest {
        handle,
        data_only: false,
    };
    client
        .get::<Attr>(Kind::Flush, &flush(reading))
        .await
        .expect("fsync of a read-only descriptor");
    assert_eq!(
        client.get::<Attr>(Kind::Flush, &flush(stale)).await.unwrap_err(),
        ErrorCode::Stale
    );
    assert_eq!(std::fs::read(bed.folder.path().join("v")).unwrap()[..4], *b"kept");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_clients_and_exports_change_nothing() {
    let new_backend = |folder: &std::path::Path| -> Arc<dyn Backend> {
        Arc::new(crate::backend::sparse_file::SparseFiles::new(folder).unwrap())
    };
    for (export, access) in [(true, Access::ReadWrite), (false, Access::ReadOnly)] {
        let bed = Bed::start_with(new_backend, export, Bounds::default());
        bed.volume("v", 10, &[(0, b"kept")]);
        let identity = Identity::generate();
        bed.allow(&identity, access);
        let mut client = Client::new(bed.connect(&identity).await, identity, Features::KNOWN).await;
        assert!(client.welcome.read_only);
        let handle = client.open("v").await.handle;
        let refused = Err(ErrorCode::ReadOnly);
        for (kind, body) in super::names::change_bodies(handle) {
            assert_eq!(client.ask(kind, body).await, refused, "{kind:?}");
        }
        assert_eq!(client.stat("v").await.unwrap().size, 10);
        assert_eq!(std::fs::read_dir(bed.folder.path()).unwrap().count(), 1);
        bed.stop().await;
    }
}

/// A body that is not what its header says ends the session, and has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_not_whole_has_no_effect() {
    let bed = Bed::start();
    bed.volume("v", 100, &[(0, b"kept")]);
    let body = write_body(Handle(1), &[(0, b"gone")]);
    let longer = [&body[..], b"!"].concat();
    let shorter = &body[..body.len() - 1];
    let mut backwards = write_body(Handle(1), &[(0, b"go"), (50, b"ne")]);
    backwards[10] = 60;
    for body in [&longer[..], shorter, &backwards, &body[..9], &body[..12], &[]] {
        let mut client = bed.client().await;
        client.open_to_change("v").await;
        send(&mut client.lane.0, &client.traffic, Kind::Write, 9, body.to_vec()).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol);
        bed.let_others_write("v").await;
    }
    // A lane that is reset in the middle of a payload is no reason to end the session.
    let mut client = bed.client().await;
    client.open_to_change("v").await;
    let header = Header {
        body_bytes: u32::try_from(body.len()).unwrap(),
        kind: Kind::Write,
        code: Code::Done,
        request: lacuna_transport::id::RequestId(9),
    };
    let (mut out, _back) = client.connection.open_bi().await.unwrap();
    out.write_all(&[&header.encode()[..], shorter].concat())
        .await
        .unwrap();
    out.reset(CloseCode::Done.code()).unwrap();
    client.stat("v").await.unwrap();
    assert_eq!(std::fs::read(bed.folder.path().join("v")).unwrap()[..4], *b"kept");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_make_no_sense_end_the_session() {
    let bed = Bed::start();
    bed.volume("v", 100, &[(0, b"kept")]);
    let handle = Handle(1);
    let shape = |how, start, end, grow| message::encode(&reshape(handle, how, start, end, grow));
    let copy = |target_offset, length| {
        message::encode(&CopyRequest {
            source: handle,
            source_offset: 0,
            target: handle,
            target_offset,
            length,
        })
    };
    for (kind, body) in [
        (Kind::Reshape, shape(Reshape::Punch, 4, 4, false)),
        (Kind::Reshape, shape(Reshape::Zero, 5, 4, false)),
        (Kind::Reshape, shape(Reshape::Punch, 0, 4, true)),
        (Kind::Reshape, shape(Reshape::Zero, 0, 1 << 63, true)),
        (
            Kind::Resize,
            message::encode(&ResizeRequest {
                handle,
                size: 1 << 63,
            }),
        ),
        (Kind::Copy, copy(50, 0)),
        (Kind::Copy, copy(3, 4)),
        (Kind::Copy, copy(u64::MAX - 3, 4)),
    ] {
        let mut client = bed.client().await;
        client.open_to_change("v").await;
        send(&mut client.lane.0, &client.traffic, kind, 9, body).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol, "{kind:?}");
        bed.let_others_write("v").await;
    }
    let left = std::fs::read(bed.folder.path().join("v")).unwrap();
    assert_eq!((left.len(), &left[..4]), (100, &b"kept"[..]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_storage_have_their_codes() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 100, &[]);
    let mut client = bed.client().await;
    let handle = client.open_to_change("v").await.handle;
    for (kind, code) in [
        (ErrorKind::NoSpace, ErrorCode::NoSpace),
        (ErrorKind::TooLarge, ErrorCode::TooLarge),
        (ErrorKind::Io, ErrorCode::Io),
    ] {
        plan.next(Call::Write, Fault::Fail(kind));
        assert_eq!(client.write(handle, &[(0, b"x")]).await.unwrap_err(), code);
        plan.next(Call::Flush, Fault::Fail(kind));
        let flush = FlushRequest {
            handle,
            data_only: true,
        };
        assert_eq!(client.get::<Attr>(Kind::Flush, &flush).await.unwrap_err(), code);
    }
    for (call, how) in [
        (Call::Punch, Reshape::Punch),
        (Call::Zero, Reshape::Zero),
        (Call::Allocate, Reshape::Allocate),
    ] {
        let request = reshape(handle, how, 0, 10, false);
        plan.next(call, Fault::Fail(ErrorKind::NoSpace));
        assert_eq!(
            client.get::<Attr>(Kind::Reshape, &request).await.unwrap_err(),
            ErrorCode::NoSpace
        );
        plan.next(call, Fault::Panic);
        assert_eq!(
            client.get::<Attr>(Kind::Reshape, &request).await.unwrap_err(),
            ErrorCode::Internal
        );
        client.get::<Attr>(Kind::Reshape, &request).await.unwrap();
    }
    client.write(handle, &[(0, b"x")]).await.unwrap();
    bed.stop().await;
}

/// Events up to the one that brings this base.
async fn events_until(
    stream: &mut quinn::RecvStream,
    traffic: &frames::Traffic,
    base: u64,
) -> Vec<VolumeChanged> {
    let mut all: Vec<VolumeChanged> = Vec::new();
    while all.last().is_none_or(|event| event.attr.base.0 < base) {
        let (_, body) = receive(stream, traffic).await;
        all.push(message::decode(&body).unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_other_sessions_and_not_their_maker() {
    let bed = Bed::start();
    bed.volume("v", 1 << 20, &[(0, &[1; 4096])]);
    let (mut maker, mut other) = (bed.client().await, bed.client().await);
    let made = maker.open_to_change("v").await;
    let seen = other.open("v").await;
    assert_eq!(
        (made.attr.base, seen.attr.base),
        (made.attr.generation, made.attr.generation)
    );
    let written = maker.write(made.handle, &[(8192, b"news")]).await.unwrap();
    assert_eq!(written.base, made.attr.base);
    let mut events = other.connection.accept_uni().await.unwrap();
    let got = events_until(&mut events, &other.traffic, written.generation.0).await;
    let last = got.last().unwrap();
    assert_eq!((last.handle, last.attr.base), (seen.handle, written.generation));
    assert!(
        got.iter()
            .all(|event| event.range() == ByteRange::at(8192, 4).unwrap())
    );
    // Reads, maps and attributes say the base of who asks.
    let (base, bytes) = other.read(seen.handle, &[(8192, 4)]).await.unwrap();
    assert_eq!((base, &bytes[..]), (written.generation.0, &b"news"[..]));
    assert_eq!(
        other.map(seen.handle, ByteRange::ALL, 1).await[0].generation,
        written.generation
    );
    assert_eq!(
        maker.read(made.handle, &[(8192, 4)]).await.unwrap().0,
        made.attr.base.0
    );
    assert_eq!(
        maker.map(made.handle, ByteRange::ALL, 1).await[0].generation,
        made.attr.base
    );
    for (attr, base) in [
        (maker.stat("v").await.unwrap(), made.attr.base),
        (other.stat("v").await.unwrap(), written.generation),
    ] {
        assert_eq!((attr.generation, attr.base), (written.generation, base));
    }
    let shrunk: Attr = maker
        .get(
            Kind::Resize,
            &ResizeRequest {
                handle: made.handle,
                size: 5000,
            },
        )
        .await
        .unwrap();
    let got = events_until(&mut events, &other.traffic, shrunk.generation.0).await;
    assert_eq!(got[0].range(), ByteRange::new(5000, u64::MAX).unwrap());
    assert_eq!(got[0].attr.size, 5000);
    // The maker has heard of nothing: its first event is the change by a program of this host.
    bed.volume("v", 7, &[]);
    let mut own = maker.connection.accept_uni().await.unwrap();
    let (_, body) = receive(&mut own, &maker.traffic).await;
    let event: VolumeChanged = message::decode(&body).unwrap();
    assert!(event.range() == ByteRange::ALL && event.attr.base > shrunk.generation);
    bed.stop().await;
}

/// Lanes of one session write at once while others read: nobody sees a torn base.
#[tokio::test(flavor = "multi_thread")]
async fn many_lanes_of_one_session_change_a_volume_at_once() {
    let bed = Bed::start();
    bed.volume("v", 0, &[]);
    let mut client = bed.client().await;
    let opened = client.open_to_change("v").await;
    let mut lanes = JoinSet::new();
    for lane in 0..16_u64 {
        let connection = client.connection.clone();
        lanes.spawn(async move {
            let traffic = frames::Traffic::default();
            let (mut out, mut back) = connection.open_bi().await.unwrap();
            for round in 0..20_u64 {
                let byte = u8::try_from(lane * 10 + 1).unwrap();
                let body = write_body(opened.handle, &[((round * 16 + lane) * 1000, &[byte; 1000])]);
                send(&mut out, &traffic, Kind::Write, lane * 1000 + round + 100, body).await;
                let (header, body) = receive(&mut back, &traffic).await;
                assert_eq!(header.code, Code::Done);
                assert_eq!(message::decode::<Attr>(&body).unwrap().base, opened.attr.base);
            }
        });
    }
    for _ in 0..50 {
        let (base, _) = client.read(opened.handle, &[(0, 320_000)]).await.unwrap();
        assert_eq!(base, opened.attr.base.0);
    }
    while let Some(ended) = lanes.join_next().await {
        ended.unwrap();
    }
    let on_disk = std::fs::read(bed.folder.path().join("v")).unwrap();
    assert_eq!(on_disk.len(), 320_000);
    for (index, part) in on_disk.chunks_exact(1000).enumerate() {
        let byte = u8::try_from(index % 16 * 10 + 1).unwrap();
        assert!(part.iter().all(|got| *got == byte), "part {index}");
    }
    bed.stop().await;
}
