//! Very many open volumes after a reconnect.

use lacuna_transport::id::NodeId;
use lacuna_transport::limits::SESSION_HANDLES_MAX;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;

use super::*;
use crate::file_system::OpenId;
use crate::remote::memory::{Delays, MemoryRemote};
use crate::remote::{Access, Change};
use crate::volume::shared::Settings;

const OPEN: usize = 100_000;

/// What an open volume may take in memory, the kernel's node, the map of a volume without data, and this test's server
/// included; in bytes.
const VOLUME_BYTES_MAX: usize = 6 << 10;

/// Of memory.
const PAGE_BYTES: usize = 4096;

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * PAGE_BYTES
}

async fn with_open_volumes(count: usize) -> (MemoryRemote, Arc<FileSystem<MemoryRemote>>, Vec<OpenId>) {
    let remote = MemoryRemote::default();
    let settings = Settings::new(64 << 20, Some(Duration::from_secs(30)));
    let fs = Arc::new(FileSystem::new(remote.clone(), NodePath::root(), settings));
    let mut opens = Vec::new();
    for number in 0..count {
        let text = format!("v{number}");
        let path = NodePath::new(text.as_bytes()).unwrap();
        remote.change(&path, |content| content.resize(1));
        let name = NodeName::new(text.as_bytes()).unwrap();
        let attr = fs.lookup(NodeId::ROOT, &name).await.unwrap();
        opens.push(fs.open(attr.id, Access::Read).await.unwrap().0);
    }
    // Their maps are fetched beside.
    let mut before = 0;
    while std::mem::replace(&mut before, remote.requests()) != before {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (remote, fs, opens)
}

/// Each request takes 10 ms: while one goes there and back, so does one of each looker.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_open_volumes_do_not_hold_up_a_request() {
    let empty_bytes = resident_bytes();
    let (remote, fs, opens) = with_open_volumes(OPEN).await;
    let bytes = (resident_bytes() - empty_bytes) / OPEN;
    assert!(bytes <= VOLUME_BYTES_MAX, "{bytes} bytes for each open volume");
    const { assert!(OPEN <= SESSION_HANDLES_MAX, "a session has no room for them") };
    let (events, receiver) = mpsc::channel(16);
    let follower = tokio::spawn(follow(Arc::clone(&fs), receiver));
    let last = *opens.last().unwrap();
    fs.read(last, ByteRange::up_to(1)).await.unwrap();
    remote.delay(Delays {
        ask: Duration::from_millis(10),
        ..Delays::default()
    });
    let volumes = fs.open_volumes();
    events.send(Event::Reconnected).await.unwrap();
    while volumes.last().unwrap().is_followed() {
        tokio::task::yield_now().await;
    }
    // Its map is known, but nobody knows if it is still true.
    let before = remote.requests();
    fs.read(last, ByteRange::up_to(1)).await.unwrap();
    let asked = remote.requests() - before;
    assert!(
        (1..=8).contains(&asked),
        "{asked} requests until the first one was answered"
    );
    assert!(
        volumes.iter().any(|volume| !volume.is_followed()),
        "nothing was left to do"
    );
    // All others are looked at in the end, and each once.
    remote.delay(Delays::default());
    while volumes.iter().any(|volume| !volume.is_followed()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(remote.requests() - before, u64::try_from(OPEN).unwrap());
    drop(events);
    follower.await.unwrap();
}

/// What the server does not answer is looked at again; what changed meanwhile is seen.
#[tokio::test(start_paused = true)]
async fn a_look_that_fails_is_made_again() {
    let (remote, fs, opens) = with_open_volumes(10).await;
    let (events, receiver) = mpsc::channel(16);
    let follower = tokio::spawn(follow(Arc::clone(&fs), receiver));
    let path = NodePath::new(b"v3").unwrap();
    remote.change(&path, |content| content.write(ByteRange::up_to(5000), 7));
    remote.fail_with(Some(ErrorKind::Io));
    events.send(Event::Reconnected).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!fs.open_volumes().iter().any(|volume| volume.is_followed()));
    remote.fail_with(None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(fs.open_volumes().iter().all(|volume| volume.is_followed()));
    assert_eq!(fs.open_attr(opens[3]).unwrap().size, 5000);
    // Events go on being taken in.
    let attr = fs.open_attr(opens[4]).unwrap();
    let change = Change {
        attr: lacuna_transport::attr::Attr { size: 9, ..attr },
        range: ByteRange::ALL,
    };
    events.send(Event::Changed(change)).await.unwrap();
    drop(events);
    follower.await.unwrap();
    assert_eq!(fs.open_attr(opens[4]).unwrap().size, 9);
}
