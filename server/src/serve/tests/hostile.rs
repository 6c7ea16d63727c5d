//! Clients that are allowed and mean no good, beside one that works: everything it asks is answered while what the
//! others hold is still theirs.

use std::net::Ipv4Addr;

use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::wire::error_code::ErrorCode;

use super::bed::*;
use super::*;
use crate::backend::fault::{Call, Fault, Plan};
use crate::backend::sparse_file::SparseFiles;
use crate::memory::{Division, MEMORY_BYTES_MIN};

const MEBIBYTE: usize = 1 << 20;

fn small() -> Bounds {
    Bounds {
        memory_bytes: MEMORY_BYTES_MIN,
        ..Bounds::default()
    }
}

fn start() -> Bed {
    Bed::start_with(
        |folder| Arc::new(SparseFiles::new(folder).unwrap()),
        false,
        small(),
    )
}

/// Writes and reads of the largest size, and looks.
async fn work(good: &mut Client) {
    let bytes = vec![5; MEBIBYTE];
    let handle = good.open_to_change("good").await.handle;
    for round in 0..8 {
        let offset = round << 20;
        good.write(handle, &[(offset, &bytes)]).await.unwrap();
        let read = good.read(handle, &[(offset, 1 << 20)]).await.unwrap();
        assert!(read.1 == bytes);
        good.stat("good").await.unwrap();
    }
}

fn lives(client: &Client) -> bool {
    client.connection.close_reason().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_announces_writes_and_sends_nothing_holds_up_nobody() {
    let bed = start();
    bed.volume("v", 1 << 30, &[]);
    bed.volume("good", 0, &[]);
    let mut hostile = bed.client().await;
    let handle = hostile.open_to_change("v").await.handle;
    let body = write_body(handle, &[(0, &vec![1; MEBIBYTE])]);
    let header = Header {
        body_bytes: u32::try_from(body.len()).unwrap(),
        kind: Kind::Write,
        code: Code::Done,
        request: RequestId(9),
    };
    let mut lanes = Vec::new();
    for _ in 1..LANES_MAX {
        let mut lane = hostile.connection.open_bi().await.unwrap();
        lane.0.write_all(&header.encode()).await.unwrap();
        lane.0.write_all(&body[..body.len() - MEBIBYTE]).await.unwrap();
        lanes.push(lane);
    }
    let half = Division::of(MEMORY_BYTES_MIN).unwrap().writes_bytes / 2;
    while bed.server.shared.writes.held() < half {
        tokio::task::yield_now().await;
    }
    work(&mut bed.client().await).await;
    assert!(lives(&hostile), "the good one waited until the server gave up");
    assert!(bed.server.shared.writes.held() <= half, "half is for one client");
    hostile.connection.close(CloseCode::Done.code(), b"");
    while bed.server.shared.writes.held() > 0 {
        tokio::task::yield_now().await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_no_replies_holds_up_nobody() {
    let bed = start();
    bed.volume("v", 1 << 30, &[]);
    bed.volume("good", 0, &[]);
    let mut hostile = bed.client().await;
    let handle = hostile.open("v").await.handle;
    let range = ByteRange::up_to(1 << 20);
    let body = ReadRequest::new(handle, vec![range]).unwrap().encode();
    let mut lanes = Vec::new();
    for _ in 1..LANES_MAX {
        let mut lane = hostile.connection.open_bi().await.unwrap();
        for request in 0..8 {
            send(&mut lane.0, &hostile.traffic, Kind::Read, request, body.clone()).await;
        }
        lanes.push(lane);
    }
    let replies = Division::of(MEMORY_BYTES_MIN).unwrap().replies_bytes;
    // All that it can have is on its way or waits to be.
    while bed.server.shared.replies.held() < replies / 2 - 2 * (1 << 20) {
        tokio::task::yield_now().await;
    }
    work(&mut bed.client().await).await;
    assert!(lives(&hostile), "the good one waited until the server gave up");
    hostile.connection.close(CloseCode::Done.code(), b"");
    while bed.server.shared.replies.held() > 0 {
        tokio::task::yield_now().await;
    }
    bed.stop().await;
}

/// Of a client whose storage hangs some threads hang too, and others find theirs.
#[tokio::test(flavor = "multi_thread")]
async fn storage_that_hangs_leaves_threads_to_other_clients() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 1 << 20, &[(0, b"v")]);
    bed.volume("good", 0, &[]);
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut gates = Vec::new();
    let (mut sessions, mut lanes) = (Vec::new(), Vec::new());
    let threads = usize::try_from(shared::STORAGE_THREADS / 2).unwrap();
    for _ in 0..=threads {
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        plan.next(Call::Extents, Fault::Wait(gate));
        gates.push(go_on);
    }
    for instance in 0..2 {
        let mut session = bed.session(&identity, instance).await.unwrap();
        let handle = session.open("v").await.handle;
        sessions.push((session, handle));
    }
    for (session, handle) in &sessions {
        let map = MapRequest {
            handle: *handle,
            start: 0,
            end: VOLUME_BYTES_MAX,
            pages_max: 1,
        };
        for _ in 0..threads {
            let mut lane = session.connection.open_bi().await.unwrap();
            send(&mut lane.0, &session.traffic, Kind::Map, 9, message::encode(&map)).await;
            lanes.push(lane);
        }
    }
    while plan.left(Call::Extents) > 1 {
        tokio::task::yield_now().await;
    }
    work(&mut bed.client().await).await;
    assert_eq!(plan.left(Call::Extents), 1, "one client has half of the threads");
    gates.clear();
    for (_, back) in &mut lanes {
        assert_eq!(receive(back, &Traffic::default()).await.0.code, Code::Done);
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_opens_everything_gets_its_share_and_goes_on() {
    let bed = start();
    bed.volume("v", 1, &[(0, b"v")]);
    bed.volume("good", 0, &[]);
    let mut greedy = bed.client().await;
    let mut opened = 0;
    let last = loop {
        match greedy.ask(Kind::Open, open_request("v")).await {
            Ok(_) => opened += 1,
            Err(code) => break code,
        }
    };
    assert_eq!(last, ErrorCode::Exhausted);
    assert_eq!(opened, Division::of(MEMORY_BYTES_MIN).unwrap().volumes / 2);
    greedy.stat("v").await.unwrap();
    work(&mut bed.client().await).await;
    // Two for one: the other client may not have given back its own yet.
    for handle in [Handle(1), Handle(2)] {
        let close = HandleRequest { handle };
        greedy.tell(Kind::Close, &close).await.unwrap();
    }
    greedy.open("v").await;
    bed.stop().await;
}

/// A client with one key gets half of the sessions; another one finds room.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_connects_again_and_again_leaves_room_for_others() {
    let bed = start();
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut sessions = Vec::new();
    let refused = loop {
        match bed
            .session(&identity, u8::try_from(sessions.len()).unwrap())
            .await
        {
            Ok(session) => sessions.push(session),
            Err(code) => break code,
        }
    };
    assert_eq!(refused, CloseCode::Busy);
    let places = Division::of(MEMORY_BYTES_MIN).unwrap().sessions;
    assert_eq!(sessions.len(), places / 2);
    for mut session in sessions {
        session.stat("").await.unwrap();
    }
    bed.volume("good", 0, &[]);
    work(&mut bed.client().await).await;
    bed.stop().await;
}

/// Keys that nobody has allowed, also in numbers, leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_nothing_behind() {
    let bed = start();
    bed.volume("good", 0, &[]);
    let mut good = bed.client().await;
    let mut strangers = JoinSet::new();
    for _ in 0..40 {
        let identity = Identity::generate();
        let mut endpoint = endpoint::client(bed.address).unwrap();
        endpoint.set_default_client_config(endpoint::client_config(&identity, bed.key).0);
        let connecting = endpoint.connect(bed.address, tls::SERVER_NAME).unwrap();
        strangers.spawn(async move {
            if let Ok(connection) = connecting.await {
                connection.closed().await;
            }
            drop(endpoint);
        });
    }
    work(&mut good).await;
    while strangers.join_next().await.is_some() {}
    while bed.server.handshakes.under_way() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.server.sessions().len(), 1);
    assert_eq!(bed.server.live.lock().len(), 1);
    bed.stop().await;
}

/// A first packet from an address that never answers: whoever sends with the address of another does not make this
/// server flood it. QUIC stops at three times of what came.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_never_answers_is_sent_little() {
    let bed = start();
    let victim = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let relay = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let mut endpoint = endpoint::client(bed.address).unwrap();
    endpoint.set_default_client_config(endpoint::client_config(&Identity::generate(), bed.key).0);
    let through = relay.local_addr().unwrap();
    let _connecting = endpoint.connect(through, tls::SERVER_NAME).unwrap();
    let mut packet = vec![0; 1 << 16];
    let first = relay.recv(&mut packet).await.unwrap();
    victim.send_to(&packet[..first], bed.address).await.unwrap();
    while bed.server.handshakes.under_way() == 0 {
        tokio::task::yield_now().await;
    }
    let mut sent = 0;
    // Until the server has given up: it has sent all that it ever will.
    while bed.server.handshakes.under_way() > 0 {
        if let Ok(Ok(bytes)) = timeout(Duration::from_millis(100), victim.recv(&mut packet)).await {
            sent += bytes;
        }
    }
    assert!(sent > first, "the server answers, and again: {sent} bytes");
    // It looks before it makes a packet, so that the last one may go beyond.
    assert!(sent < 4 * first, "{sent} bytes for {first}");
    bed.stop().await;
}
