//! A newer session of the same mount: nothing sent on the older one takes effect after its welcome.

use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{Reshape, ReshapeRequest};

use super::bed::*;
use super::*;
use crate::backend::fault::{Call, Fault, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_waits_for_the_older_ones_running_write() {
    let (bed, identity, older, go_on) = Bed::with_write_under_way().await;
    // Other mounts of the same client are not held up.
    let _other = bed.session(&identity, 2).await.unwrap();
    let mut newer = tokio::spawn({
        let identity = Arc::clone(&identity);
        let (endpoint, connection) = bed.connect(&identity).await;
        async move {
            let instance = Some(lacuna_transport::id::InstanceId([1; 16]));
            Client::begin((endpoint, connection), identity, Features::KNOWN, instance).await
        }
    });
    assert_eq!(older.closed().await.0, CloseCode::Done);
    assert!(
        timeout(Duration::from_millis(100), &mut newer).await.is_err(),
        "welcomed too early"
    );
    go_on.send(()).unwrap();
    let mut newer = newer.await.unwrap().unwrap();
    let handle = newer.open("v").await.handle;
    assert_eq!(newer.read(handle, &[(0, 4)]).await.unwrap().1, b"late");
    // The older one leaves the register after its work has ended.
    while bed.server.sessions().len() != 2 {
        tokio::task::yield_now().await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_end_makes_the_newer_one_try_again() {
    let (bed, identity, _older, go_on) = Bed::with_write_under_way().await;
    assert_eq!(bed.session(&identity, 1).await.err(), Some(CloseCode::Busy));
    go_on.send(()).unwrap();
    bed.session(&identity, 1).await.unwrap();
    bed.stop().await;
}

/// As zeroing a device does, which can take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn long_work_that_asks_ends_with_its_session() {
    let plan = Arc::new(Plan::default());
    let bed = Bed::start_faulty(&plan);
    bed.volume("v", 10, &[]);
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut older = bed.session(&identity, 1).await.unwrap();
    let body = message::encode(&ReshapeRequest {
        handle: older.open_to_change("v").await.handle,
        how: Reshape::Zero,
        start: 0,
        end: 10,
        grow: false,
        others: None,
    });
    plan.next(Call::Zero, Fault::WaitWanted);
    send(&mut older.lane.0, &older.traffic, Kind::Reshape, 9, body).await;
    while plan.left(Call::Zero) > 0 {
        tokio::task::yield_now().await;
    }
    bed.session(&identity, 1).await.unwrap();
    assert_eq!(older.closed().await.0, CloseCode::Done);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_an_instance_are_on_their_own() {
    let bed = Bed::start();
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let connected = bed.connect(&identity).await;
    let mut one = Client::new(connected, Arc::clone(&identity), Features::KNOWN).await;
    let mut two = Client::new(bed.connect(&identity).await, identity, Features::KNOWN).await;
    one.stat("").await.unwrap();
    two.stat("").await.unwrap();
    bed.stop().await;
}
