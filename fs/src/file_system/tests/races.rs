//! Interleavings that once lost data or hung, each made to happen by delays of the server.

use std::sync::Arc;

use super::*;
use crate::remote::memory::Delays;
use crate::volume::shared::DetectZeroes;

fn unmapping(remote: &MemoryRemote) -> Arc<FileSystem<MemoryRemote>> {
    let settings = Settings {
        detect_zeroes: DetectZeroes::Unmap,
        ..Settings::new(CACHE, Some(Duration::from_secs(20)))
    };
    Arc::new(FileSystem::new(remote.clone(), NodePath::root(), settings))
}

async fn opened(fs: &FileSystem<MemoryRemote>) -> OpenId {
    let (_, open) = fs.create(NodeId::ROOT, &name("v"), NODE, true).await.unwrap();
    open
}

fn slow_answers(seconds: u64) -> Delays {
    Delays {
        answer: Duration::from_secs(seconds),
        ..Delays::default()
    }
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_after_our_own_growth_cuts_nothing() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    remote.change(&path("v"), |content| content.write(at(0, 100), 9));
    let attr = remote.stat(&path("v")).await.unwrap();
    write(&fs, open, 8192, &[2; 8192]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    let range = at(0, 100);
    fs.changed(&Change { attr, range });
    assert_eq!(bytes(&fs, open, at(0, 100)).await, [9; 100]);
    assert_eq!(bytes(&fs, open, at(8192, 16384)).await, [2; 8192]);
    write(&fs, open, 0, &[3; 10]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    assert_eq!(fs.attr(id).await.unwrap().size, 16384);
    assert_eq!(bytes(&fs, open, at(8192, 16384)).await, [2; 8192]);
    assert_eq!(fs.seek(open, 8192, Whence::Data).await.unwrap(), 8192);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_is_sent_does_not_cut_a_write_that_came_meanwhile() {
    let remote = MemoryRemote::default();
    let fs = unmapping(&remote);
    let open = opened(&fs).await;
    write(&fs, open, 0, &[0; 8192]).await.unwrap();
    remote.delay(slow_answers(1));
    let punch = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move { fs.reshape(open, Reshape::Punch, at(0, 4096), false).await }
    });
    a_moment().await;
    let writer = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move { write(&fs, open, 8192, &[7; 4096]).await }
    });
    a_moment().await;
    fs.flush(open, false).await.unwrap();
    punch.await.unwrap().unwrap();
    writer.await.unwrap().unwrap();
    fs.flush(open, false).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().size, 12288);
    assert_eq!(bytes(&fs, open, at(8192, 4096)).await, [7; 4096]);
}

#[tokio::test(start_paused = true)]
async fn many_reservations_flush_without_waiting_for_themselves() {
    let remote = MemoryRemote::default();
    let fs = unmapping(&remote);
    let open = opened(&fs).await;
    write(&fs, open, 0, &[5; 4096]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    write(&fs, open, 4096, &[0; 8192]).await.unwrap();
    for index in 0..1100 {
        let range = at(index % 4096, 1);
        fs.reshape(open, Reshape::Allocate, range, false).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_fsync_does_not_wait_for_what_is_written_after_it() {
    let remote = MemoryRemote::default();
    let fs = Arc::new(mounted(&remote, 4 << 20));
    let open = opened(&fs).await;
    remote.delay(Delays {
        before: Duration::from_millis(20),
        ..Delays::default()
    });
    let writer = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move {
            for index in 0.. {
                write(&fs, open, (index % 64) << 16, &[1; 4096]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    a_moment().await;
    let flushed = tokio::time::timeout(Duration::from_secs(2), fs.flush(open, false)).await;
    writer.abort();
    flushed.expect("it waits for the writer").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_page_of_the_map_from_before_a_write_does_not_take_it_back() {
    let remote = MemoryRemote::default();
    remote.change(&path("v"), |content| {
        content.write(at(0, 4096), 5);
        content.size = 1 << 20;
    });
    let fs = mounted(&remote, CACHE / 2);
    let attr = fs.lookup(NodeId::ROOT, &name("v")).await.unwrap();
    remote.delay(Delays {
        map: Duration::from_millis(200),
        ..Delays::default()
    });
    let (open, _) = fs.open(attr.id, Access::ReadWrite).await.unwrap();
    // Before the task that loads the map runs for the first time.
    assert_eq!(fs.write_now(open, 65536, &[7; 4096]).unwrap(), WriteNow::Done);
    tokio::time::sleep(Duration::from_millis(1)).await;
    fs.flush(open, false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs.seek(open, 4096, Whence::Data).await.unwrap(), 65536);
    assert_eq!(bytes(&fs, open, at(65536, 4096)).await, [7; 4096]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_earlier_run_of_the_server_does_not_count() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 4096]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    write(&fs, open, 0, &[2; 4096]).await.unwrap();
    remote.delay(slow_answers(1));
    a_moment().await;
    remote.crash();
    remote.delay(Delays::default());
    fs.shared.send_again();
    fs.flush(open, false).await.unwrap();
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(content.bytes(at(0, 4096)), [2; 4096]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_beside_a_punch_brings_nothing_back() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    let fs = Arc::new(fs);
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.drain(open).await.unwrap();
    remote.delay(slow_answers(3));
    let punch = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move { fs.reshape(open, Reshape::Punch, at(0, 8192), false).await }
    });
    a_moment().await;
    remote.fail_next_flush(ErrorKind::Io);
    assert_eq!(fs.flush(open, false).await.unwrap_err().kind(), ErrorKind::Io);
    punch.await.unwrap().unwrap();
    remote.delay(Delays::default());
    fs.flush(open, false).await.unwrap();
    assert_eq!(bytes(&fs, open, at(0, 8192)).await, [0; 8192]);
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(content.bytes(at(0, 8192)), [0; 8192]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_reaches_to_an_end_that_is_only_a_hole() {
    let remote = MemoryRemote::default();
    let fs = unmapping(&remote);
    let open = opened(&fs).await;
    let (_, target) = fs.create(NodeId::ROOT, &name("w"), NODE, true).await.unwrap();
    write(&fs, open, 0, &[1; 4096]).await.unwrap();
    write(&fs, open, 4096, &[0; 8192]).await.unwrap();
    assert_eq!(fs.copy((open, at(0, 12288)), (target, 0)).await.unwrap(), 12288);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_was_set_survives_another_run_of_the_server() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    let (time, attr) = a_time();
    fs.set_attr(id, None, attr).await.unwrap();
    remote.crash();
    fs.flush(open, false).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().modified, time);
}

/// Sending again moves the time at the server; it is set again at once, and meanwhile nobody sees another one.
#[tokio::test(start_paused = true)]
async fn a_time_that_was_set_is_shown_while_data_is_sent_again() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    let (time, attr) = a_time();
    fs.set_attr(id, None, attr).await.unwrap();
    fs.close(open);
    remote.crash();
    assert_ne!(remote.content(&path("v")).unwrap().modified, time);
    // Every request takes a while, so that there is a time between them to look.
    remote.delay(slow_answers(1));
    fs.shared.send_again();
    a_moment().await;
    let start = tokio::time::Instant::now();
    while remote.content(&path("v")).unwrap().modified != time {
        assert!(start.elapsed() < Duration::from_secs(4), "not set again");
        assert_eq!(fs.attr(id).await.unwrap().modified, time, "another time is seen");
        a_moment().await;
    }
    assert_eq!(fs.attr(id).await.unwrap().modified, time);
}
