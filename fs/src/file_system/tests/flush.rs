//! How many requests an fsync takes, and what it covers.

use lacuna_transport::wire::message::Features;

use super::*;

async fn ends_with(remote: &MemoryRemote, expected: &[u8]) {
    remote.crash();
    let content = remote.content(&path("v")).unwrap();
    assert!(content.bytes(ByteRange::up_to(content.size)) == expected);
}

#[tokio::test(start_paused = true)]
async fn a_write_and_its_fsync_are_one_request() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    fs.flush(open, true).await.unwrap();
    for round in 0..3_u8 {
        let before = remote.requests();
        write(&fs, open, u64::from(round) * 100, &[round; 100])
            .await
            .unwrap();
        fs.flush(open, round == 0).await.unwrap();
        assert_eq!(remote.requests() - before, 1, "round {round}");
        assert_eq!(fs.open_volumes()[0].unflushed_bytes(), 0);
    }
    let before = remote.requests();
    fs.write(open, 300, &[3; 100], Reach::Storage).await.unwrap();
    assert_eq!(remote.requests() - before, 1, "with O_DSYNC");
    remote.forget(Features::WRITE_FLUSH);
    write(&fs, open, 400, &[4; 100]).await.unwrap();
    fs.flush(open, true).await.unwrap();
    assert_eq!(remote.requests() - before, 3, "an older server is told twice");
    let expected: Vec<u8> = (0..5).flat_map(|round| [round; 100]).collect();
    ends_with(&remote, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn an_fsync_of_more_than_one_write_carries_sends_all_of_it_first() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    let expected = [vec![1; 3 << 20], vec![0; 4096]].concat();
    write(&fs, open, 0, &expected[..3 << 20]).await.unwrap();
    fs.void(open, at(3 << 20, 4096), Content::Hole).await.unwrap();
    fs.flush(open, true).await.unwrap();
    ends_with(&remote, &expected).await;
    // Many small ones too.
    for index in 0..300 {
        write(&fs, open, index * 8192, &[2; 10]).await.unwrap();
    }
    fs.flush(open, true).await.unwrap();
    remote.crash();
    let content = remote.content(&path("v")).unwrap();
    assert!(
        (0..300).all(|index| content.bytes(at(index * 8192, 11))[..] == [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1])
    );
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_fails_behind_a_write_has_everything_sent_again() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    let (other, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    fs.drain(open).await.unwrap();
    write(&fs, open, 100, &[2; 100]).await.unwrap();
    remote.fail_next_flush(ErrorKind::Io);
    assert_eq!(fs.flush(open, true).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(
        fs.open_volumes()[0].unsent_bytes(),
        200,
        "what the server had is in doubt too"
    );
    fs.flush(open, true).await.unwrap();
    assert_eq!(fs.drain(other).await.unwrap_err().kind(), ErrorKind::Io);
    ends_with(&remote, &[[1; 100], [2; 100]].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_write_with_a_flush_is_asked_for_again() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    remote.lose_answers(1);
    fs.flush(open, true).await.unwrap();
    ends_with(&remote, &[1; 100]).await;
}

/// The server may have done it after the flush.
#[tokio::test(start_paused = true)]
async fn what_is_answered_while_a_write_is_flushed_is_not_taken_for_flushed() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    remote.delay(Delays {
        answer: Duration::from_millis(10),
        ..Delays::default()
    });
    write(&fs, open, 0, &[1; 4096]).await.unwrap();
    let flushing = async { fs.flush(open, true).await.unwrap() };
    let growing = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        remote.delay(Delays::default());
        let range = at(1 << 20, 1 << 20);
        fs.reshape(open, Reshape::Allocate, range, true).await.unwrap();
    };
    tokio::join!(flushing, growing);
    assert_eq!(fs.attr_now(id).unwrap().size, 2 << 20);
    remote.crash();
    assert_eq!(
        remote.content(&path("v")).unwrap().size,
        4096,
        "it was flushed alone"
    );
    fs.flush(open, true).await.unwrap();
    remote.crash();
    assert_eq!(remote.content(&path("v")).unwrap().size, 2 << 20);
}
