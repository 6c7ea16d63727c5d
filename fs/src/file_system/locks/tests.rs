//! Over a server in memory, which keeps no locks: the record of the mount decides.

use std::sync::atomic::AtomicBool;

use lacuna_transport::attr::NewNode;
use lacuna_transport::path::{NodeName, NodePath};

use super::*;
use crate::remote::memory::MemoryRemote;
use crate::volume::shared::Settings;

const DEADLINE: Duration = Duration::from_secs(20);
const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

async fn opened() -> (Arc<FileSystem<MemoryRemote>>, OpenId, OpenId) {
    let settings = Settings::new(16 << 20, Some(DEADLINE));
    let fs = FileSystem::new(MemoryRemote::default(), NodePath::root(), settings);
    let fs = Arc::new(fs);
    let name = NodeName::new(b"v").unwrap();
    let (attr, one) = fs.create(NodeId::ROOT, &name, NODE, true).await.unwrap();
    let (two, _) = fs.open(attr.id, Access::ReadWrite).await.unwrap();
    (fs, one, two)
}

fn call(open: OpenId, owner: u64) -> LockCall {
    LockCall {
        open,
        space: LockSpace::Ranges,
        owner: LockOwner(owner),
        process: 1,
        range: ByteRange::new(0, 10).unwrap(),
    }
}

fn kind_of(result: Result<()>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn without_a_server_that_keeps_them_locks_hold_within_the_mount() {
    let (fs, one, two) = opened().await;
    fs.lock(&call(one, 1), LockKind::Exclusive, None).await.unwrap();
    let refused = fs.lock(&call(two, 2), LockKind::Shared, None).await;
    assert_eq!(kind_of(refused), Some(ErrorKind::Locked));
    let held = fs
        .test_lock(&call(two, 2), LockKind::Shared)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((held.kind, held.start, held.end), (LockKind::Exclusive, 0, 10));
    fs.unlock_closed(two, LockOwner(1)).await;
    fs.lock(&call(two, 2), LockKind::Shared, None).await.unwrap();
    fs.unlock(&call(two, 2)).await.unwrap();
    assert!(fs.locks.volumes.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_when_the_handle_is_closed() {
    let (fs, one, two) = opened().await;
    fs.lock(&call(one, 1), LockKind::Exclusive, None).await.unwrap();
    let waiting = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move {
            fs.lock(&call(two, 2), LockKind::Exclusive, Some(&|| Signals::None))
                .await
        }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    fs.release(one);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_a_signal_and_at_the_deadline() {
    let (fs, one, two) = opened().await;
    fs.lock(&call(one, 1), LockKind::Exclusive, None).await.unwrap();
    let begun = Instant::now();
    let waited = fs
        .lock(&call(two, 2), LockKind::Exclusive, Some(&|| Signals::None))
        .await;
    assert_eq!(kind_of(waited), Some(ErrorKind::Locked));
    assert!(begun.elapsed() >= DEADLINE && begun.elapsed() < DEADLINE + 2 * SIGNAL_PAUSE);
    let sent = AtomicBool::new(false);
    let look = || {
        if sent.swap(true, Ordering::Relaxed) {
            Signals::Pending
        } else {
            Signals::None
        }
    };
    let begun = Instant::now();
    let waited = fs.lock(&call(two, 2), LockKind::Exclusive, Some(&look)).await;
    assert_eq!(kind_of(waited), Some(ErrorKind::Interrupted));
    assert!(begun.elapsed() <= 2 * SIGNAL_PAUSE);
}
