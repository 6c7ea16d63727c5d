//! What a server does with many clients, some of them hostile: a real `lacunad`, and clients that speak the protocol by
//! hand. Its memory is that of the whole process, as the kernel counts it.

mod client;
mod daemon;
mod flood;
mod load;

use std::path::Path;
use std::time::Duration;

use lacuna_transport::quic::identity::Identity;
use lacuna_transport::wire::frame::Kind;
use tokio::time::timeout;

use self::client::{Client, LIMIT, answered, path_request, write_body};
use self::daemon::Daemon;

/// What a server may have beyond its budget: itself.
const BEYOND_BYTES: u64 = 64 << 20;
const BUDGET_BYTES: u64 = 128 << 20;
/// What may be left of a load: kept buffers, volumes that are remembered, and what the allocator keeps.
const LEFT_BYTES: u64 = 48 << 20;
/// A write, a look and a read of the good client each: meanwhile all that the hostile ones hold has come together.
const ROUNDS: u64 = 200;
/// The kernel counts, and does not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn key(daemon: &Daemon, state: &Path) -> Identity {
    let identity = Identity::generate();
    daemon.allow(state, identity.id());
    identity
}

/// Five clients do their worst in every way there is, each with all the sessions it gets; a good one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_holds_under_the_worst_load_and_a_good_client_is_served() {
    let (dir, state) = (folder(), folder());
    load::prepare(dir.path());
    let daemon = Daemon::start(dir.path(), state.path(), "128M");
    let begun = daemon.resident_bytes();
    let good = key(&daemon, state.path());
    let good = Client::connect(&daemon, &good).await.expect("a session");
    let mut lane = good.lane().await.expect("a lane");
    let handle = answered("open", lane.open("good", true)).await.expect("opens");

    let mut hostile = Vec::new();
    for _ in 0..5 {
        hostile.push(load::Hostile::connect(&daemon, key(&daemon, state.path())).await);
    }
    let sessions: usize = hostile.iter().map(|client| client.sessions()).sum();
    let mut load = load::Load::default();
    for client in hostile {
        client.work(&mut load);
    }
    let bytes = vec![7; 1 << 20];
    for rounds in 0..ROUNDS {
        let offset = (rounds % 64) << 20;
        let body = write_body(handle, offset, &bytes);
        answered("write", lane.ask(Kind::Write, body))
            .await
            .expect("writes");
        answered("stat", lane.ask(Kind::Stat, path_request("good")))
            .await
            .expect("stats");
        let body = load::read_body(handle, offset, 1 << 20);
        let read = answered("read", lane.ask(Kind::Read, body)).await.expect("reads");
        assert!(read.ends_with(&bytes), "other bytes");
    }
    let peak = daemon.peak_bytes();
    drop(load);
    // What was taken comes back.
    let back = async {
        while daemon.resident_bytes() > begun + LEFT_BYTES {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let came_back = timeout(LIMIT, back).await.is_ok();
    println!(
        "{sessions} hostile sessions, {ROUNDS} rounds of a good one; budget {} MiB: {} MiB at the start, at most {} MiB, {} MiB at the end",
        BUDGET_BYTES >> 20,
        begun >> 20,
        peak >> 20,
        daemon.resident_bytes() >> 20,
    );
    assert!(
        peak < BUDGET_BYTES + BEYOND_BYTES,
        "{} MiB were in use",
        peak >> 20
    );
    assert!(came_back, "memory of sessions that are gone was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_connections_leave_nothing_and_a_good_client_is_served() {
    let (dir, state) = (folder(), folder());
    let daemon = Daemon::start(dir.path(), state.path(), "128M");
    let identity = key(&daemon, state.path());
    let good = Client::connect(&daemon, &identity).await.expect("a session");
    let mut lane = good.lane().await.expect("a lane");
    let begun = daemon.resident_bytes();
    let flood = async {
        let strangers = flood::strangers(&daemon, 2_000);
        let others = async {
            flood::garbage(daemon.address, 6_000).await;
            flood::unfinished(&daemon, 2_000).await;
        };
        tokio::join!(strangers, others).0
    };
    let mut flood = std::pin::pin!(flood);
    let mut rounds = 0;
    let refused = loop {
        tokio::select! {
            refused = &mut flood => break refused,
            _ = answered("stat", lane.ask(Kind::Stat, path_request(""))) => rounds += 1,
        }
    };
    let peak = daemon.peak_bytes();
    // One that comes now gets in, while nobody has forgotten the others yet.
    let another = async { Client::connect(&daemon, &identity).await };
    answered("another session", another).await;
    let back = async {
        while daemon.resident_bytes() > begun + LEFT_BYTES {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let came_back = timeout(LIMIT, back).await.is_ok();
    println!(
        "{refused} of 2000 strangers were told; {rounds} rounds of a good client; at most {} MiB, {} MiB at the end",
        peak >> 20,
        daemon.resident_bytes() >> 20,
    );
    assert!(refused > 0, "no stranger was refused");
    assert!(peak < BUDGET_BYTES + BEYOND_BYTES, "{} MiB", peak >> 20);
    assert!(came_back, "memory of connections that are gone was kept");
}
