//! Two clients and one volume: who may write, who is asked, who is refused.

use lacuna_transport::id::LeaseId;
use lacuna_transport::wire::event::LeaseRecalled;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{HandleRequest, OpenRequest, Opened};

use super::bed::*;
use super::*;
use crate::backend::fault::{Call, Fault, Plan};

const LINGER: Duration = Duration::from_millis(300);

fn start() -> Bed {
    let bounds = Bounds {
        lease_linger: LINGER,
        ..Bounds::default()
    };
    Bed::start_with(
        |folder| Arc::new(SparseFiles::new(folder).unwrap()),
        false,
        bounds,
    )
}

impl Client {
    async fn open_under(&mut self, lease: Option<LeaseId>) -> Result<Opened, ErrorCode> {
        let request = OpenRequest {
            path: path("v"),
            write: true,
            lease,
        };
        self.get(Kind::Open, &request).await
    }

    async fn close(&mut self, handle: Handle) {
        self.tell(Kind::Close, &HandleRequest { handle }).await.unwrap();
    }

    /// The next event, which is a recall.
    async fn recalled(&self, events: &mut quinn::RecvStream) -> LeaseRecalled {
        let (header, body) = receive(events, &self.traffic).await;
        assert_eq!(header.kind, Kind::LeaseRecalled);
        message::decode(&body).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_done_gives_back_what_it_is_asked_for() {
    let bed = start();
    bed.volume("v", 10, &[]);
    let (mut one, mut two) = (bed.client().await, bed.client().await);
    let first = one.open_to_change("v").await;
    let again = one.open_to_change("v").await;
    assert_eq!(first.lease, again.lease, "one holder, one lease");
    one.close(again.handle).await;
    two.open("v").await;
    let waiting = tokio::spawn(async move { (two.open_under(None).await, two) });
    let mut events = one.connection.accept_uni().await.unwrap();
    let recalled = one.recalled(&mut events).await;
    assert_eq!(recalled.handle, first.handle);
    assert!(recalled.who.contains("127.0.0.1"), "{}", recalled.who);
    assert_eq!(bed.server.leases.reports().len(), 1);
    one.close(first.handle).await;
    let (second, mut two) = waiting.await.unwrap();
    let second = second.unwrap();
    assert!(second.lease > first.lease);
    two.write(second.handle, &[(0, b"two")]).await.unwrap();
    bed.stop().await;
}

/// Its holder is there and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_for_long_is_told_who_writes_before_it_gives_up() {
    let bed = start();
    bed.volume("v", 10, &[]);
    let mut one = bed.client().await;
    one.open_to_change("v").await;
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let patience_ms = 3000;
    let connection = bed.connect(&identity).await;
    let two = Client::begin_impatient(connection, identity, Features::KNOWN, None, Some(patience_ms)).await;
    let patience = Duration::from_millis(patience_ms.into());
    let opened = tokio::time::timeout(patience, two.unwrap().open_under(None)).await;
    let refused = opened.expect("it would have given up").unwrap_err();
    assert_eq!(refused, ErrorCode::Busy);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_needs_it_keeps_it_and_an_older_one_is_not_asked() {
    let bed = start();
    bed.volume("v", 10, &[]);
    let mut one = bed.client().await;
    let first = one.open_to_change("v").await;
    let mut two = bed.client().await;
    let waiting = tokio::spawn(async move { (two.open_under(None).await, two) });
    let mut events = one.connection.accept_uni().await.unwrap();
    let handle = one.recalled(&mut events).await.handle;
    one.tell(Kind::KeepLease, &HandleRequest { handle })
        .await
        .unwrap();
    let (refused, mut two) = waiting.await.unwrap();
    assert_eq!(refused.unwrap_err(), ErrorCode::Busy);
    one.close(first.handle).await;

    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let older = Features::KNOWN.without(Features::LEASES);
    let mut older = Client::new(bed.connect(&identity).await, identity, older).await;
    let first = older.open_to_change("v").await;
    let begun = Instant::now();
    assert_eq!(two.open_under(None).await.unwrap_err(), ErrorCode::Busy);
    assert!(begun.elapsed() < lease::RECALL_TIMEOUT, "nobody can be asked");
    // It is told something that it knows.
    bed.server.break_lease(&path("v")).await.unwrap();
    let late = older.write(first.handle, &[(0, b"late")]).await;
    assert_eq!(late.unwrap_err(), ErrorCode::Stale);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_client_comes_back_in_time_or_is_fenced() {
    let bed = start();
    bed.volume("v", 10, &[]);
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut one = bed.session(&identity, 1).await.unwrap();
    let first = one.open_to_change("v").await;
    // Closed for a reason: it comes back.
    one.connection.close(CloseCode::Done.code(), b"unsure");
    let mut one = bed.session(&identity, 1).await.unwrap();
    let back = one.open_under(first.lease).await.unwrap();
    assert_eq!(back.lease, first.lease);
    one.write(back.handle, &[(0, b"one")]).await.unwrap();
    one.connection.close(CloseCode::Done.code(), b"unsure");
    let mut two = bed.client().await;
    let second = loop {
        match two.open_under(None).await {
            Ok(opened) => break opened,
            Err(code) => assert_eq!(code, ErrorCode::Busy),
        }
    };
    two.write(second.handle, &[(0, b"two")]).await.unwrap();
    let mut one = bed.session(&identity, 1).await.unwrap();
    let fenced = one.open_under(first.lease).await;
    assert_eq!(fenced.unwrap_err(), ErrorCode::Fenced);
    two.close(second.handle).await;
    let fenced = one.open_under(first.lease).await;
    assert_eq!(
        fenced.unwrap_err(),
        ErrorCode::Fenced,
        "what it wants to save is older"
    );
    let anew = one.open_under(None).await.unwrap();
    assert_eq!(one.read(anew.handle, &[(0, 3)]).await.unwrap().1, b"two");
    // One that says goodbye is done.
    one.connection.close(CloseCode::Done.code(), b"");
    two.open_under(None).await.unwrap();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_way_ends_before_another_may_write() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 10, &[]);
    let (mut one, mut two) = (bed.client().await, bed.client().await);
    let first = one.open_to_change("v").await;
    let (go_on, gate) = std::sync::mpsc::channel();
    plan.next(Call::Write, Fault::Wait(gate));
    let body = write_body(first.handle, &[(0, b"late")]);
    send(&mut one.lane.0, &one.traffic, Kind::Write, 9, body).await;
    while plan.left(Call::Write) > 0 {
        tokio::task::yield_now().await;
    }
    let broken = bed.server.break_lease(&path("v")).await.unwrap();
    assert_eq!(broken.volume, "v");
    let mut waiting = tokio::spawn(async move { (two.open_under(None).await, two) });
    let early = timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "let in too early");
    go_on.send(()).unwrap();
    let (second, mut two) = waiting.await.unwrap();
    let second = second.unwrap();
    assert_eq!(two.read(second.handle, &[(0, 4)]).await.unwrap().1, b"late");
    two.write(second.handle, &[(0, b"new!")]).await.unwrap();
    receive(&mut one.lane.1, &one.traffic).await;
    let later = one.write(first.handle, &[(0, b"older")]).await;
    assert_eq!(later.unwrap_err(), ErrorCode::Fenced);
    let flush = message::encode(&lacuna_transport::wire::message::FlushRequest {
        handle: first.handle,
        data_only: false,
    });
    one.ask(Kind::Flush, flush).await.unwrap();
    assert_eq!(two.read(second.handle, &[(0, 4)]).await.unwrap().1, b"new!");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_taken_away_under_a_writer() {
    use lacuna_transport::id::OperationId;
    use lacuna_transport::wire::message::RemoveRequest;
    let bed = start();
    bed.volume("v", 10, &[]);
    let (mut one, mut two) = (bed.client().await, bed.client().await);
    let remove = |operation| RemoveRequest {
        operation: OperationId(operation),
        path: path("v"),
        folder: false,
        id: None,
    };
    let first = one.open_to_change("v").await;
    let refused = {
        let request = remove(1);
        let waiting = two.tell(Kind::Remove, &request);
        let keeping = async {
            let mut events = one.connection.accept_uni().await.unwrap();
            let handle = one.recalled(&mut events).await.handle;
            one.tell(Kind::KeepLease, &HandleRequest { handle })
                .await
                .unwrap();
        };
        tokio::join!(waiting, keeping).0
    };
    assert_eq!(refused.unwrap_err(), ErrorCode::Busy);
    one.close(first.handle).await;
    two.tell(Kind::Remove, &remove(2)).await.unwrap();
    bed.stop().await;
}

impl Bed {
    /// Until nothing of any session is left.
    async fn emptied(&self) {
        while !self.server.sessions().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

fn to_change(name: &str) -> Vec<u8> {
    message::encode(&OpenRequest {
        path: path(name),
        write: true,
        lease: None,
    })
}

/// As a client does: it says that it does not want the reply before it says that it asks nothing more.
fn give_up((send, mut receive): (quinn::SendStream, quinn::RecvStream)) {
    receive.stop(0_u32.into()).unwrap();
    drop((receive, send));
}

/// Its client has no handle to close, and could not answer a recall either.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_its_client_gave_up_holds_nothing() {
    let bed = start();
    bed.volume("v", 10, &[]);
    bed.volume("w", 10, &[]);
    let (mut one, mut two) = (bed.client().await, bed.client().await);
    let first = one.open_to_change("v").await;
    // Given up before it is answered ...
    let mut lane = two.connection.open_bi().await.unwrap();
    send(&mut lane.0, &two.traffic, Kind::Open, 98, to_change("v")).await;
    let mut events = one.connection.accept_uni().await.unwrap();
    one.recalled(&mut events).await;
    give_up(lane);
    // ... and when the answer was on its way.
    let mut lane = two.connection.open_bi().await.unwrap();
    send(&mut lane.0, &two.traffic, Kind::Open, 99, to_change("w")).await;
    while bed.server.leases.reports().len() < 2 {
        tokio::task::yield_now().await;
    }
    give_up(lane);
    // What was sent before this has arrived.
    two.stat("v").await.unwrap();
    one.close(first.handle).await;
    let mut three = bed.client().await;
    for name in ["v", "w"] {
        let request = to_change(name);
        three.ask(Kind::Open, request).await.expect("nobody writes to it");
    }
    while bed.server.shared.volumes.held() > 2 {
        tokio::task::yield_now().await;
    }
    bed.stop().await;
}

/// A lane that is finished, or lost with its session, was not given up.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_whose_lane_was_finished_stays_open() {
    let bed = start();
    bed.volume("v", 10, &[]);
    let mut one = bed.client().await;
    let mut lane = one.connection.open_bi().await.unwrap();
    send(&mut lane.0, &one.traffic, Kind::Open, 99, to_change("v")).await;
    lane.0.finish().unwrap();
    let (_, body) = receive(&mut lane.1, &one.traffic).await;
    let opened: Opened = message::decode(&body).unwrap();
    assert_eq!(lane.1.read_chunk(1, true).await, Ok(None), "the lane ends");
    drop(lane);
    one.write(opened.handle, &[(0, b"one")]).await.unwrap();
    bed.stop().await;
}

/// QUIC itself closes a connection that is dropped with the code of a goodbye.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_goes_before_its_welcome_has_not_said_goodbye() {
    let (bed, identity, older, go_on) = Bed::with_write_under_way().await;
    let (endpoint, connection) = bed.connect(&identity).await;
    let given_up = connection.clone();
    let newer = tokio::spawn({
        let identity = Arc::clone(&identity);
        let instance = Some(lacuna_transport::id::InstanceId([1; 16]));
        async move {
            Client::begin((endpoint, connection), identity, Features::KNOWN, instance)
                .await
                .err()
        }
    });
    // The newer one waits for the write by now.
    assert_eq!(older.closed().await.0, CloseCode::Done);
    given_up.close(CloseCode::Done.code(), b"");
    newer.abort();
    let closed = |live: &Live| live.connection.close_reason().is_some();
    while !bed.server.live.lock().values().all(closed) {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    bed.emptied().await;
    let mut two = bed.client().await;
    assert_eq!(two.open_under(None).await.unwrap_err(), ErrorCode::Busy);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_lost_while_it_opens_again_keeps_the_lease() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 10, &[]);
    bed.volume("w", 10, &[]);
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut one = bed.session(&identity, 1).await.unwrap();
    let first = one.open_to_change("v").await;
    one.connection.close(CloseCode::Done.code(), b"unsure");
    for (instance, name, lease) in [(1, "v", first.lease), (2, "w", None)] {
        let mut one = bed.session(&identity, instance).await.unwrap();
        let beside = format!("beside-{name}");
        bed.volume(&beside, 10, &[]);
        one.open_to_change(&beside).await;
        let (go_on, gate) = std::sync::mpsc::channel();
        plan.next(Call::ReadyToChange, Fault::Wait(gate));
        let request = OpenRequest {
            path: path(name),
            write: true,
            lease,
        };
        let request = message::encode(&request);
        send(&mut one.lane.0, &one.traffic, Kind::Open, 9, request).await;
        while plan.left(Call::ReadyToChange) > 0 {
            tokio::task::yield_now().await;
        }
        one.connection.close(CloseCode::Done.code(), b"unsure");
        // Until the server has taken the session for lost.
        let lingers = |report: &LeaseReport| report.volume == beside && report.lingers_secs.is_some();
        while !bed.server.leases.reports().iter().any(lingers) {
            tokio::task::yield_now().await;
        }
        go_on.send(()).unwrap();
        bed.emptied().await;
    }
    let mut two = bed.client().await;
    assert_eq!(two.open_under(None).await.unwrap_err(), ErrorCode::Busy);
    // What it had not before is not kept for it.
    two.open_to_change("w").await;
    bed.stop().await;
}
