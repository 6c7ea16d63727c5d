//! Bounds of sessions and handles, lowered where the real ones would take long.

use lacuna_transport::limits::{SESSION_HANDLES_MAX, SESSIONS_MAX};
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{HandleRequest, Opened};

use super::bed::*;
use super::names::create;
use super::*;
use crate::backend::sparse_file::SparseFiles;

fn start(bounds: Bounds) -> Bed {
    Bed::start_with(
        |folder| Arc::new(SparseFiles::new(folder).unwrap()),
        false,
        bounds,
    )
}

#[test]
fn the_bounds_are_those_of_the_protocol() {
    let bounds = Bounds {
        sessions_max: SESSIONS_MAX,
        session_handles_max: SESSION_HANDLES_MAX,
        memory_bytes: MEMORY_BYTES_DEFAULT,
        lease_linger: Duration::from_secs(30),
        ..Bounds::default()
    };
    assert_eq!(Bounds::default(), bounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_end_at_their_bound_and_come_back() {
    let bed = start(Bounds {
        session_handles_max: 3,
        ..Bounds::default()
    });
    bed.volume("v", 1, &[]);
    let mut client = bed.client().await;
    let mut handles = Vec::new();
    for _ in 0..3 {
        handles.push(client.open("v").await.handle);
    }
    assert_eq!(
        client.ask(Kind::Open, open_request("v")).await,
        Err(ErrorCode::Exhausted)
    );
    let refused = client.get::<Opened>(Kind::Create, &create(1, "new", true)).await;
    assert_eq!(refused, Err(ErrorCode::Exhausted));
    assert!(client.stat("new").await.is_err(), "nothing was made");
    let close = HandleRequest { handle: handles[0] };
    client.tell(Kind::Close, &close).await.unwrap();
    client
        .get::<Opened>(Kind::Create, &create(2, "new", true))
        .await
        .unwrap();
    bed.client().await.open("v").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_at_their_bound_and_come_back() {
    let bed = start(Bounds {
        sessions_max: 2,
        ..Bounds::default()
    });
    let (_one, two) = (bed.client().await, bed.client().await);
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    let third = bed.connect(&identity).await;
    let closed = timeout(Duration::from_secs(10), third.1.closed()).await.unwrap();
    let (code, text) = CloseCode::of(&closed).expect("closed by the server");
    assert_eq!(code, CloseCode::Busy);
    assert!(text.contains("--memory"), "{text}");
    two.connection.close(CloseCode::Done.code(), b"");
    while bed.server.sessions().len() > 1 {
        tokio::task::yield_now().await;
    }
    Client::new(bed.connect(&identity).await, identity, Features::KNOWN).await;
    bed.stop().await;
}
