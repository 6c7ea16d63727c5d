//! A volume that another client got: what was not saved, who hears of it, and what is seen from then on.

use super::*;
use crate::overlay::Content;
use crate::volume::lease::Recalled;

/// Two volumes' worth of a file system with a folder for rescue files.
async fn bed() -> (
    MemoryRemote,
    Arc<FileSystem<MemoryRemote>>,
    NodeId,
    OpenId,
    tempfile::TempDir,
) {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    let folder = tempfile::tempdir().unwrap();
    fs.shared().rescue.keep_in(folder.path().to_owned());
    (remote, Arc::new(fs), id, open, folder)
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn server(remote: &MemoryRemote, range: ByteRange) -> Vec<u8> {
    remote.content(&path("v")).unwrap().bytes(range)
}

#[tokio::test(start_paused = true)]
async fn what_is_late_is_refused_told_once_and_kept() {
    let (remote, fs, id, open, _folder) = bed().await;
    let (second, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    write(&fs, open, 0, b"saved").await.unwrap();
    fs.flush(open, true).await.unwrap();
    remote.fence(&path("v"));
    remote.change(&path("v"), |content| content.write_bytes(0, b"other"));
    write(&fs, open, 2, b"late").await.unwrap();
    fs.reshape(open, Reshape::Punch, at(8192, 4096), false)
        .await
        .unwrap_err();
    // Each handle once.
    for handle in [open, second] {
        assert_eq!(kind(fs.flush(handle, true).await), ErrorKind::Fenced);
        fs.flush(handle, true).await.unwrap();
        assert_eq!(kind(write(&fs, handle, 0, b"never").await), ErrorKind::Fenced);
        assert_eq!(
            kind(fs.void(handle, at(0, 4096), Content::Hole).await),
            ErrorKind::Fenced
        );
        let punched = fs.reshape(handle, Reshape::Punch, at(0, 4096), false);
        assert_eq!(kind(punched.await), ErrorKind::Fenced);
        assert_eq!(bytes(&fs, handle, at(0, 6)).await, b"other");
    }
    fs.shared().rescue.kept().await;
    let reports = fs.shared().rescue.reports();
    let [report] = &reports[..] else {
        panic!("{reports:?}")
    };
    let kept = std::fs::read(report.file.as_ref().unwrap()).unwrap();
    assert_eq!(&kept[2..6], b"late");
    assert_eq!((report.bytes, report.left_out_bytes), (4, 0));
    assert_eq!(fs.shared().counters.lost_bytes.value(), 4);
    assert_eq!(server(&remote, at(0, 6)).await, b"other\0");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fs.shared().all_unsettled().is_empty());

    let (anew, keep_cache) = fs.open(id, Access::ReadWrite).await.unwrap();
    assert!(!keep_cache, "the kernel has what is not true any more");
    write(&fs, anew, 0, b"again").await.unwrap();
    fs.flush(anew, true).await.unwrap();
    assert_eq!(server(&remote, at(0, 6)).await, b"again\0");
    assert_eq!(kind(write(&fs, open, 0, b"never").await), ErrorKind::Fenced);
}

#[tokio::test(start_paused = true)]
async fn one_that_had_saved_everything_loses_nothing() {
    let (remote, fs, id, open, _folder) = bed().await;
    write(&fs, open, 0, b"saved").await.unwrap();
    fs.flush(open, true).await.unwrap();
    remote.fence(&path("v"));
    let zeroed = fs.reshape(open, Reshape::Zero, at(0, 4096), false).await;
    assert_eq!(kind(zeroed), ErrorKind::Fenced);
    fs.flush(open, true).await.unwrap();
    fs.shared().rescue.kept().await;
    assert_eq!(fs.shared().rescue.reports(), []);
    assert_eq!(fs.shared().counters.lost_bytes.value(), 0);
    assert_eq!(bytes(&fs, open, at(0, 5)).await, b"saved");
    assert_eq!(kind(write(&fs, open, 0, b"late").await), ErrorKind::Fenced);
    assert_eq!(kind(fs.resize_open(open, 3).await), ErrorKind::Fenced);
    fs.set_attr(id, Some(2), NewAttr::default()).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().size, 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_an_older_lease_is_not_sent_under_a_newer_one() {
    let (remote, fs, id, open, _folder) = bed().await;
    write(&fs, open, 0, b"saved").await.unwrap();
    fs.flush(open, true).await.unwrap();
    remote.delay(Delays {
        before: Duration::from_secs(1),
        ..Delays::default()
    });
    for unit in 0..16 {
        write(&fs, open, unit * 2 * UNIT, &[1; 4096]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    remote.fence(&path("v"));
    remote.change(&path("v"), |content| content.write(at(0, 64 * UNIT), 9));
    fs.flush(open, true).await.unwrap_err();
    let (anew, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    write(&fs, anew, 64 * UNIT, b"new").await.unwrap();
    fs.flush(anew, true).await.unwrap();
    assert!(
        server(&remote, at(0, 64 * UNIT))
            .await
            .iter()
            .all(|byte| *byte == 9)
    );
    assert_eq!(server(&remote, at(64 * UNIT, 3)).await, b"new");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_once_all_is_saved_and_nobody_writes() {
    let (remote, fs, id, open, _folder) = bed().await;
    let (reader, _) = fs.open(id, Access::Read).await.unwrap();
    let volume = fs.open_volumes().pop().unwrap();
    write(&fs, open, 0, b"text").await.unwrap();
    assert!(volume.is_recalled() && !volume.is_recalled(), "asked once");
    assert_eq!(volume.give_back().await.unwrap(), Recalled::Needed);
    assert_eq!(fs.shared().dirty_bytes(), 4, "it went on");
    fs.close(open);
    assert!(volume.is_recalled());
    assert_eq!(volume.give_back().await.unwrap(), Recalled::GivenBack);
    assert_eq!(fs.shared().dirty_bytes(), 0);
    remote.hold_leases(true);
    assert_eq!(bytes(&fs, reader, at(0, 4)).await, b"text");
    assert_eq!(kind(fs.open(id, Access::ReadWrite).await), ErrorKind::Busy);
    let refused = fs.shared().refused_opens();
    assert!(
        refused.len() == 1 && refused[0].1.contains("host-b"),
        "{refused:?}"
    );
    remote.hold_leases(false);
    fs.open(id, Access::ReadWrite).await.unwrap();
    assert!(fs.shared().refused_opens().is_empty());
}

/// The kernel tells of the end of a handle a moment after its descriptor was closed.
#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_a_handle_that_is_being_closed() {
    let (remote, fs, _, open, _folder) = bed().await;
    let volume = fs.open_volumes().pop().unwrap();
    write(&fs, open, 0, b"text").await.unwrap();
    fs.drain(open).await.unwrap();
    let closing = Arc::clone(&fs);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        closing.close(open);
    });
    assert!(volume.is_recalled());
    assert_eq!(volume.give_back().await.unwrap(), Recalled::GivenBack);
    assert_eq!(server(&remote, at(0, 4)).await, b"text");
}

/// Its answer is on the way, or here and not taken note of.
#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_a_change_that_is_under_way() {
    let (remote, fs, _, open, _folder) = bed().await;
    let volume = fs.open_volumes().pop().unwrap();
    remote.delay(Delays {
        answer: Duration::from_millis(300),
        ..Delays::default()
    });
    let changing = Arc::clone(&fs);
    let allocated = tokio::spawn(async move {
        changing
            .reshape(open, Reshape::Allocate, at(0, 4096), false)
            .await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    fs.close(open);
    assert!(volume.is_recalled());
    assert_eq!(volume.give_back().await.unwrap(), Recalled::GivenBack);
    allocated.await.unwrap().unwrap();
}

/// One of two descriptors of it was closed, and that long ago.
#[tokio::test(start_paused = true)]
async fn a_lease_does_not_wait_for_a_handle_that_stays_open() {
    let (_remote, fs, _, open, _folder) = bed().await;
    let volume = fs.open_volumes().pop().unwrap();
    fs.drain(open).await.unwrap();
    for expected in [Duration::from_secs(1), Duration::ZERO] {
        let begun = tokio::time::Instant::now();
        assert!(volume.is_recalled());
        assert_eq!(volume.give_back().await.unwrap(), Recalled::Needed);
        assert_eq!(begun.elapsed(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_asked_for_before_the_open_is_known_is_answered() {
    let (remote, fs, id, open, _folder) = bed().await;
    fs.close(open);
    // Until the handle at the server is given up.
    tokio::time::sleep(Duration::from_secs(60)).await;
    remote.delay(Delays {
        ask: Duration::from_millis(500),
        ..Delays::default()
    });
    let (events, receiver) = tokio::sync::mpsc::channel(16);
    let follower = tokio::spawn(crate::file_system::follow::follow(Arc::clone(&fs), receiver));
    let opening = Arc::clone(&fs);
    let opened = tokio::spawn(async move { opening.open(id, Access::ReadWrite).await });
    let handle = lacuna_transport::id::Handle(id.0);
    let recalled = crate::remote::Event::Recalled(1, handle);
    events.send(recalled).await.unwrap();
    let (_open, _) = opened.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(remote.leases_kept(), 1, "whoever asked waits in vain");
    follower.abort();
}
