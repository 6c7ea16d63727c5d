//! A server in this process, and a client that speaks the protocol by hand: also wrongly.

mod arbitrary;
mod bed;
mod bounds;
mod changes;
mod digests;
mod handover;
mod hostile;
mod leases;
mod names;
mod packing;

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicUsize;

use lacuna_transport::attr::Space;
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::id::{Handle, RequestId};
use lacuna_transport::limits::{LANES_MAX, READ_RANGES_MAX};
use lacuna_transport::quic::frames::Traffic;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Header, Kind};
use lacuna_transport::wire::message::{self, Features, HandleRequest, ListPage, MapRequest, VolumeChanged};
use lacuna_transport::wire::read::ReadRequest;

use self::bed::*;
use super::*;
use crate::backend::sparse_file::SparseFiles;

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_listed_opened_mapped_and_read() {
    let bed = Bed::start();
    bed.volume(
        "v",
        1 << 30,
        &[(0, b"begin"), (1 << 20, &[7; 65536]), ((1 << 30) - 3, b"end")],
    );
    let mut client = bed.client().await;
    assert_eq!(
        (client.welcome.version, client.welcome.features),
        (0, Features::KNOWN)
    );
    assert!(!client.welcome.read_only);

    let attr = client.stat("v").await.unwrap();
    assert_eq!(attr.size, 1 << 30);
    assert_eq!(
        client.stat("").await.unwrap().id,
        lacuna_transport::id::NodeId::ROOT
    );
    assert_eq!(client.stat("nothing").await.unwrap_err(), ErrorCode::NotFound);
    let list: ListPage =
        message::decode(&client.ask(Kind::List, path_request("")).await.unwrap()[0]).unwrap();
    assert_eq!(list.entries[0].attr, attr);

    let opened = client.open("v").await;
    assert_eq!(opened.attr.generation, attr.generation);
    let pages = client.map(opened.handle, ByteRange::ALL, 10).await;
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].generation, attr.generation);
    let kinds: Vec<_> = pages[0].extents().iter().map(|extent| extent.kind).collect();
    use ExtentKind::{Data, Hole};
    assert_eq!(kinds, [Data, Hole, Data, Hole, Data]);

    let (generation, bytes) = client
        .read(opened.handle, &[((1 << 30) - 3, 6), (0, 5), (1 << 20, 70_000)])
        .await
        .unwrap();
    assert_eq!(generation, attr.generation.0);
    assert_eq!(bytes[..11], *b"end\0\0\0begin");
    assert!(bytes[11..11 + 65536].iter().all(|byte| *byte == 7));
    assert!(bytes[11 + 65536..].iter().all(|byte| *byte == 0));
    assert_eq!(bytes.len(), 11 + 70_000);

    let space: Space = message::decode(&client.ask(Kind::Space, Vec::new()).await.unwrap()[0]).unwrap();
    assert!(space.blocks > 0);
    let close = message::encode(&HandleRequest {
        handle: opened.handle,
    });
    client.ask(Kind::Close, close.clone()).await.unwrap();
    assert_eq!(client.ask(Kind::Close, close).await, Err(ErrorCode::Stale));
    assert_eq!(
        client.read(opened.handle, &[(0, 1)]).await.unwrap_err(),
        ErrorCode::Stale
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_reads_are_exact() {
    let bed = Bed::start();
    let bytes: Vec<u8> = (0..2_u32 << 20)
        .map(|index| u8::try_from(index * 7 % 251).unwrap())
        .collect();
    bed.volume("v", 0, &[(0, &bytes)]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let (_, got) = client.read(handle, &[(12_345, 1 << 20)]).await.unwrap();
    assert!(got == bytes[12_345..12_345 + (1 << 20)]);
    let ranges: Vec<(u64, u64)> = (0..256_u64).map(|index| ((255 - index) * 8191, 4096)).collect();
    assert_eq!(ranges.len(), READ_RANGES_MAX);
    let (_, got) = client.read(handle, &ranges).await.unwrap();
    for ((start, _), got) in ranges.iter().zip(got.chunks_exact(4096)) {
        let start = usize::try_from(*start).unwrap();
        assert!(got == &bytes[start..start + 4096]);
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_many_extents_come_in_pages_that_fit_together() {
    let bed = Bed::start();
    let count = 15_000_u64;
    let file = std::fs::File::create(bed.folder.path().join("v")).unwrap();
    (0..count).for_each(|index| file.write_all_at(&[1; 4096], index * 8192).unwrap());
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let pages = client.map(handle, ByteRange::ALL, u32::MAX).await;
    assert!(pages.len() > 2);
    let mut at = 0;
    let mut extents = 0;
    for page in &pages {
        assert_eq!((page.range.start(), page.generation), (at, pages[0].generation));
        at = page.range.end();
        extents += page.extents().len();
    }
    assert_eq!(at, (count - 1) * 8192 + 4096);
    assert_eq!(u64::try_from(extents).unwrap(), 2 * count - 1);

    let two = client
        .map(handle, ByteRange::new(4096, u64::MAX).unwrap(), 2)
        .await;
    assert_eq!(two.len(), 2);
    assert_eq!(two[0].range.start(), 4096);
    let part = client.map(handle, ByteRange::new(100, 9000).unwrap(), 5).await;
    assert_eq!(
        (part.len(), part[0].range),
        (1, ByteRange::new(100, 9000).unwrap())
    );
    let beyond = client
        .map(handle, ByteRange::new(1 << 40, u64::MAX).unwrap(), 5)
        .await;
    assert_eq!(
        (beyond.len(), beyond[0].range.is_empty(), beyond[0].size),
        (1, true, at)
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_of_many_names_come_in_ordered_pages() {
    let bed = Bed::start();
    for index in 0..1000 {
        bed.volume(&format!("{index:05}-{}", "n".repeat(200)), index, &[]);
    }
    let mut client = bed.client().await;
    let pages = client.ask(Kind::List, path_request("")).await.unwrap();
    assert!(pages.len() > 2);
    let pages = pages
        .iter()
        .map(|body| message::decode::<ListPage>(body).unwrap());
    let sizes: Vec<u64> = pages
        .flat_map(|page| page.entries)
        .map(|entry| entry.attr.size)
        .collect();
    assert_eq!(sizes, (0..1000).collect::<Vec<_>>());
    assert_eq!(
        client.ask(Kind::List, path_request("nothing")).await.unwrap_err(),
        ErrorCode::NotFound
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_holes_is_told_of_data_only() {
    let bed = Bed::start();
    bed.volume("v", 1 << 20, &[]);
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadOnly);
    let mut client = Client::new(bed.connect(&identity).await, identity, Features(0)).await;
    assert!(client.welcome.read_only);
    let handle = client.open("v").await.handle;
    let pages = client.map(handle, ByteRange::ALL, 1).await;
    assert_eq!(
        pages[0]
            .extents()
            .iter()
            .map(|extent| extent.kind)
            .collect::<Vec<_>>(),
        [ExtentKind::Data]
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_another_program_arrive_as_events() {
    let bed = Bed::start();
    bed.volume("v", 1 << 20, &[(0, b"old")]);
    let mut client = bed.client().await;
    let opened = client.open("v").await;
    bed.volume("v", 1 << 21, &[(0, b"new")]);
    let mut events = client.connection.accept_uni().await.unwrap();
    let mut last = opened.attr.generation;
    loop {
        let (header, body) = receive(&mut events, &client.traffic).await;
        assert_eq!((header.kind, header.code), (Kind::VolumeChanged, Code::Done));
        let change: VolumeChanged = message::decode(&body).unwrap();
        assert_eq!((change.handle, change.range()), (opened.handle, ByteRange::ALL));
        assert!(change.generation() > last);
        last = change.generation();
        let (generation, bytes) = client.read(opened.handle, &[(0, 3)]).await.unwrap();
        if change.attr.size == 1 << 21 && generation == last.0 && bytes == b"new" {
            break;
        }
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_its_key_and_the_command() {
    let bed = Bed::start();
    let stranger = Identity::generate();
    let (_endpoint, connection) = bed.connect(&stranger).await;
    let error = connection.closed().await;
    let (code, text) = CloseCode::of(&error).unwrap();
    assert_eq!(code, CloseCode::NotAllowed);
    assert!(
        text.contains(&format!("lacunad allow {}", stranger.id())),
        "{text}"
    );
    assert!(bed.server.sessions().is_empty());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_loses_its_sessions_and_nobody_else_does() {
    let bed = Bed::start();
    bed.volume("v", 10, &[]);
    let (revoked, mut other) = (bed.client().await, bed.client().await);
    assert_eq!(bed.server.sessions().len(), 2);
    let key = revoked.identity.id();
    AllowList::change(bed.state.path(), |list| list.revoke(&key.to_string())).unwrap();
    assert_eq!(bed.server.reload().await.unwrap(), 1);
    assert_eq!(revoked.closed().await.0, CloseCode::NotAllowed);
    other.stat("v").await.unwrap();
    let (_endpoint, again) = bed.connect(&revoked.identity).await;
    assert_eq!(
        CloseCode::of(&again.closed().await).unwrap().0,
        CloseCode::NotAllowed
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_its_right_to_write_must_connect_again() {
    let bed = Bed::start();
    let client = bed.client().await;
    bed.allow(&client.identity, Access::ReadOnly);
    assert_eq!(bed.server.reload().await.unwrap(), 1);
    assert_eq!(client.closed().await.0, CloseCode::Busy);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_got_the_right_to_write_has_it_at_once() {
    let bed = Bed::start();
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadOnly);
    let client = Client::new(bed.connect(&identity).await, identity, Features::KNOWN).await;
    assert!(client.welcome.read_only);
    bed.allow(&client.identity, Access::ReadWrite);
    assert_eq!(bed.server.reload().await.unwrap(), 1);
    assert_eq!(client.closed().await.0, CloseCode::Busy);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_allow_list_admits_nobody() {
    let bed = Bed::start();
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let path = bed.state.path().join("allow");
    let text = format!("{}garbage\n", std::fs::read_to_string(&path).unwrap());
    std::fs::write(&path, &text).unwrap();
    let (_endpoint, connection) = bed.connect(&identity).await;
    assert_eq!(
        CloseCode::of(&connection.closed().await).unwrap().0,
        CloseCode::Busy
    );
    assert!(bed.server.reload().await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_ends_only_that_session() {
    let bed = Bed::start();
    bed.volume("v", 10, &[]);
    let mut bystander = bed.client().await;
    let header = |kind: Kind, body_bytes| {
        Header {
            body_bytes,
            kind,
            code: Code::Done,
            request: RequestId(5),
        }
        .encode()
        .to_vec()
    };
    let mut zero_pages = header(Kind::Map, 0);
    let map = message::encode(&MapRequest {
        handle: Handle(1),
        start: 5,
        end: 2,
        pages_max: 1,
    });
    zero_pages[0] = u8::try_from(map.len()).unwrap();
    zero_pages.extend(map);
    for bytes in [
        vec![0xff; 64],
        header(Kind::Stat, u32::MAX),
        header(Kind::Hello, 0),
        header(Kind::VolumeChanged, 0),
        [header(Kind::Stat, 3), vec![1, 2, 3]].concat(),
        [header(Kind::Read, 10), vec![0; 10]].concat(),
        zero_pages,
    ] {
        let mut client = bed.client().await;
        client.lane.0.write_all(&bytes).await.unwrap();
        let (code, text) = client.closed().await;
        assert_eq!(code, CloseCode::Protocol, "{text}");
        assert!(!text.is_empty());
    }
    bystander.stat("v").await.unwrap();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_a_hello() {
    let bed = Bed::start();
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let (_endpoint, connection) = bed.connect(&identity).await;
    let (mut stream, _receive) = connection.open_bi().await.unwrap();
    send(&mut stream, &Traffic::default(), Kind::Space, 1, Vec::new()).await;
    assert_eq!(
        CloseCode::of(&connection.closed().await).unwrap().0,
        CloseCode::Protocol
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lane_works_at_once() {
    let bed = Bed::start();
    bed.volume("v", 1 << 24, &[(0, &vec![9; 1 << 22])]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let mut lanes = JoinSet::new();
    for lane in 1..u64::from(LANES_MAX) {
        let connection = client.connection.clone();
        lanes.spawn(async move {
            let traffic = Traffic::default();
            let (mut out, mut back) = connection.open_bi().await.unwrap();
            for round in 0..5 {
                let start = (lane * 64 + round) * 1000;
                let request = ReadRequest::new(handle, vec![ByteRange::at(start, 100_000).unwrap()]).unwrap();
                send(
                    &mut out,
                    &traffic,
                    Kind::Read,
                    lane * 100 + round,
                    request.encode(),
                )
                .await;
                let (header, body) = receive(&mut back, &traffic).await;
                assert_eq!((header.code, header.request.0), (Code::Done, lane * 100 + round));
                let nines = usize::try_from((1_u64 << 22).saturating_sub(start).min(100_000)).unwrap();
                assert!(body[8..8 + nines].iter().all(|byte| *byte == 9));
                assert!(body[8 + nines..].iter().all(|byte| *byte == 0));
            }
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended.unwrap();
    }
    let report = &bed.server.sessions()[0];
    assert_eq!(report.open_volumes, 1);
    assert!(report.bytes_sent > u64::from(LANES_MAX - 1) * 5 * 100_000);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_had_open_is_closed_with_it() {
    let bed = Bed::start();
    bed.volume("v", 10, &[]);
    let path = bed.folder.path().join("v");
    let holders = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| *target == path)
            .count()
    };
    let mut client = bed.client().await;
    client.open("v").await;
    client.open("v").await;
    assert_eq!(holders(), 1, "one descriptor for all");
    client.connection.close(CloseCode::Done.code(), b"");
    while !bed.server.sessions().is_empty() || holders() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_tells_every_client() {
    let bed = Bed::start();
    let client = bed.client().await;
    let (closed, ()) = tokio::join!(client.closed(), bed.stop());
    assert_eq!(closed.0, CloseCode::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_reloads_and_reports() {
    use crate::control::{Answer, ControlSocket, ask};

    let bed = Bed::start();
    assert_eq!(ask(bed.state.path(), "clients").unwrap(), None, "no daemon");
    // What a crash leaves behind.
    drop(std::os::unix::net::UnixListener::bind(bed.state.path().join("control.sock")).unwrap());
    assert_eq!(ask(bed.state.path(), "clients").unwrap(), None, "a dead socket");
    let socket = ControlSocket::bind(bed.state.path()).unwrap();
    let control = tokio::spawn({
        let server = Arc::clone(&bed.server);
        async move { socket.run(&server).await }
    });
    let client = bed.client().await;
    let state = bed.state.path().to_owned();
    let asked = |word: &'static str| {
        let state = state.clone();
        tokio::task::spawn_blocking(move || ask(&state, word))
    };
    let Some(Answer::Clients { sessions }) = asked("clients").await.unwrap().unwrap() else {
        panic!("no report")
    };
    assert_eq!(sessions[0].key, client.identity.id().to_string());
    assert_eq!(
        asked("reload").await.unwrap().unwrap(),
        Some(Answer::Reloaded { closed: 0 })
    );
    assert!(asked("nonsense").await.unwrap().is_err());
    control.abort();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_storage_are_replies_and_panics_too() {
    use crate::backend::fault::{Call, Fault, Faulty, Plan};

    let plan = Arc::new(Plan::default());
    let bed = Bed::start_on(|folder| {
        Arc::new(Faulty::new(
            Arc::new(SparseFiles::new(folder).unwrap()),
            plan.clone(),
        ))
    });
    bed.volume("v", 10_000, &[(0, b"text")]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let map = || {
        message::encode(&MapRequest {
            handle,
            start: 0,
            end: 1,
            pages_max: 1,
        })
    };
    for (call, kind, body) in [
        (Call::Stat, Kind::Stat, path_request("v")),
        (Call::List, Kind::List, path_request("")),
        (Call::Open, Kind::Open, open_request("v")),
        (Call::Space, Kind::Space, Vec::new()),
        (Call::Extents, Kind::Map, map()),
    ] {
        plan.next(call, Fault::Fail(ErrorKind::Io));
        assert_eq!(
            client.ask(kind, body.clone()).await,
            Err(ErrorCode::Io),
            "{call:?}"
        );
        plan.next(call, Fault::Panic);
        assert_eq!(
            client.ask(kind, body.clone()).await,
            Err(ErrorCode::Internal),
            "{call:?}"
        );
        client.ask(kind, body).await.unwrap();
    }
    plan.next(Call::Read, Fault::Fail(ErrorKind::Io));
    assert_eq!(client.read(handle, &[(0, 4)]).await, Err(ErrorCode::Io));
    plan.next(Call::Read, Fault::Panic);
    assert_eq!(client.read(handle, &[(0, 4)]).await, Err(ErrorCode::Internal));
    assert_eq!(client.read(handle, &[(0, 4)]).await.unwrap().1, b"text");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_storage_holds_up_only_the_lane_that_waits_for_it() {
    use crate::backend::fault::{Call, Fault, Faulty, Plan};

    let plan = Arc::new(Plan::default());
    let bed = Bed::start_on(|folder| {
        Arc::new(Faulty::new(
            Arc::new(SparseFiles::new(folder).unwrap()),
            plan.clone(),
        ))
    });
    bed.volume("v", 100, &[(0, b"text")]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let (go_on, gate) = std::sync::mpsc::channel();
    plan.next(Call::Read, Fault::Wait(gate));
    let traffic = Traffic::default();
    let (mut out, mut back) = client.connection.open_bi().await.unwrap();
    let request = ReadRequest::new(handle, vec![ByteRange::up_to(4)]).unwrap();
    send(&mut out, &traffic, Kind::Read, 99, request.encode()).await;
    client.stat("v").await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(receive(&mut back, &traffic).await.1[8..], *b"text");
    bed.stop().await;
}

/// The volume changes after its bytes were read and before the reply: old bytes must not go out under
/// the new generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_between_reading_and_answering_is_seen() {
    use crate::backend::fault::{Call, Fault, Faulty, Plan};

    let plan = Arc::new(Plan::default());
    let bed = Bed::start_on(|folder| {
        Arc::new(Faulty::new(
            Arc::new(SparseFiles::new(folder).unwrap()),
            plan.clone(),
        ))
    });
    bed.volume("v", 0, &[(0, b"old")]);
    let mut client = bed.client().await;
    let opened = client.open("v").await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bed.folder.path().join("v"))
        .unwrap();
    let (go_on, gate) = std::sync::mpsc::channel();
    // The look after the bytes waits for the change.
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
    let (generation, bytes) = client.read(opened.handle, &[(0, 3)]).await.unwrap();
    changed.await.unwrap();
    assert_eq!(
        (generation > opened.attr.generation.0, &bytes[..]),
        (true, &b"new"[..])
    );
    bed.stop().await;
}

/// Replies under the last generation have the last bytes, however wildly the volume changed before:
/// what a client keeps under a generation that is still good is never stale.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_the_last_generation_are_the_last_bytes() {
    let bed = Bed::start();
    bed.volume("v", 1 << 18, &[]);
    bed.volume("sentinel", 0, &[]);
    let mut client = bed.client().await;
    let handle = client.open("v").await.handle;
    let sentinel = client.open("sentinel").await.handle;
    let at = bed.folder.path().to_owned();
    let answered = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&answered);
    let writer = tokio::task::spawn_blocking(move || {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(at.join("v"))
            .unwrap();
        let mut byte = 0;
        while seen.load(Ordering::Relaxed) < 100 {
            byte = byte % 250 + 1;
            file.write_all_at(&vec![byte; 1 << 18], 0).unwrap();
        }
        // inotify keeps the order: once this is known, so is all of the above.
        std::fs::write(at.join("sentinel"), "done").unwrap();
        byte
    });
    let mut events = client.connection.accept_uni().await.unwrap();
    let told = tokio::spawn(async move {
        let traffic = Traffic::default();
        loop {
            let change: VolumeChanged = message::decode(&receive(&mut events, &traffic).await.1).unwrap();
            if change.handle == sentinel && change.attr.size == 4 {
                return;
            }
        }
    });
    let places = [(0, 1), (1 << 17, 1), ((1 << 18) - 1, 1)];
    let mut replies = Vec::new();
    while !told.is_finished() {
        replies.push(client.read(handle, &places).await.unwrap());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    let byte = writer.await.unwrap();
    told.await.unwrap();
    let (last, bytes) = client.read(handle, &places).await.unwrap();
    assert_eq!(bytes, [byte; 3]);
    assert!(
        replies.iter().any(|(generation, _)| *generation != last),
        "nothing was read while it changed"
    );
    for (generation, early) in replies {
        assert!(generation <= last);
        if generation == last {
            assert_eq!(early, [byte; 3], "stale bytes under the last generation");
        }
    }
    bed.stop().await;
}
