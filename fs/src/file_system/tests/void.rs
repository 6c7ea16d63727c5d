//! Holes and zeros that are acknowledged before the server has them.

use super::*;

const BLOCKS: u64 = 64;

/// A volume of data that was punched once: the server can.
async fn punched() -> (MemoryRemote, FileSystem<MemoryRemote>, NodeId, OpenId) {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &vec![1; (BLOCKS * UNIT) as usize])
        .await
        .unwrap();
    fs.flush(open, true).await.unwrap();
    punch(&fs, open, 0, 1).await.unwrap();
    fs.flush(open, true).await.unwrap();
    (remote, fs, id, open)
}

/// By blocks.
async fn punch(fs: &FileSystem<MemoryRemote>, open: OpenId, first: u64, count: u64) -> Result<()> {
    let range = at(first * UNIT, count * UNIT);
    fs.reshape(open, Reshape::Punch, range, false).await
}

async fn zero(fs: &FileSystem<MemoryRemote>, open: OpenId, first: u64, count: u64) -> Result<()> {
    let range = at(first * UNIT, count * UNIT);
    fs.reshape(open, Reshape::Zero, range, true).await
}

fn units(remote: &MemoryRemote) -> u64 {
    remote.content(&path("v")).unwrap().units.len() as u64
}

#[tokio::test(start_paused = true)]
async fn a_punch_is_seen_at_once_and_sent_later() {
    let (remote, fs, id, open) = punched().await;
    let blocks = |fs: &FileSystem<MemoryRemote>| fs.attr_now(id).unwrap().allocated_bytes / UNIT;
    assert_eq!(blocks(&fs), BLOCKS - 1);
    let before = remote.requests();
    punch(&fs, open, 8, 4).await.unwrap();
    assert_eq!(remote.requests(), before, "it waited for the server");
    assert_eq!(
        bytes(&fs, open, at(8 * UNIT, 4 * UNIT)).await,
        vec![0; 4 * UNIT as usize]
    );
    assert_eq!(fs.seek(open, UNIT, Whence::Hole).await.unwrap(), 8 * UNIT);
    assert_eq!(fs.seek(open, 8 * UNIT, Whence::Data).await.unwrap(), 12 * UNIT);
    assert_eq!(blocks(&fs), BLOCKS - 5);
    // An answer to something else, of which the server has counted the blocks before the hole.
    write(&fs, open, 0, &[2; 10]).await.unwrap();
    assert_eq!(blocks(&fs), BLOCKS - 4);
    fs.drain(open).await.unwrap();
    assert_eq!((units(&remote), blocks(&fs)), (BLOCKS - 4, BLOCKS - 4));
    fs.flush(open, true).await.unwrap();
    remote.crash();
    assert_eq!(units(&remote), BLOCKS - 4);
}

/// A program that finds a volume without space takes all of it for a hole.
#[tokio::test(start_paused = true)]
async fn a_volume_shows_some_space_until_the_server_has_freed_all_of_it() {
    let (_remote, fs, id, open) = punched().await;
    punch(&fs, open, 0, BLOCKS).await.unwrap();
    assert_eq!(fs.attr_now(id).unwrap().allocated_bytes, UNIT);
    fs.flush(open, true).await.unwrap();
    assert_eq!(fs.attr_now(id).unwrap().allocated_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn many_punches_in_a_row_are_few_requests() {
    let (remote, fs, _, open) = punched().await;
    fs.set_attr(fs.open_volumes()[0].id(), Some(1 << 30), NewAttr::default())
        .await
        .unwrap();
    let before = remote.requests();
    for index in 0..4096 {
        punch(&fs, open, index * 16, 16).await.unwrap();
    }
    fs.flush(open, true).await.unwrap();
    let requests = remote.requests() - before;
    assert!(requests <= 4, "{requests} requests for 4096 punches");
    assert_eq!(units(&remote), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_cannot_do_is_said_by_the_call_itself() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &vec![1; (BLOCKS * UNIT) as usize])
        .await
        .unwrap();
    fs.flush(open, true).await.unwrap();
    remote.fail_changes_with(Some(ErrorKind::Unsupported));
    for _ in 0..2 {
        for refused in [punch(&fs, open, 0, 1).await, zero(&fs, open, 1, 1).await] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
    remote.fail_changes_with(None);
    // One kind that works says nothing of the other.
    punch(&fs, open, 0, 1).await.unwrap();
    remote.fail_changes_with(Some(ErrorKind::Unsupported));
    assert_eq!(
        zero(&fs, open, 1, 1).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    // Nor does one run of the server of the next.
    remote.fail_changes_with(None);
    remote.restart();
    remote.fail_changes_with(Some(ErrorKind::Unsupported));
    assert_eq!(
        punch(&fs, open, 1, 1).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    remote.fail_changes_with(None);
    fs.flush(open, true).await.unwrap();
    assert_eq!(units(&remote), BLOCKS - 1);
}

#[tokio::test(start_paused = true)]
async fn zeros_that_need_space_wait_for_it_and_others_do_not() {
    let (remote, fs, _, open) = punched().await;
    zero(&fs, open, 1, 1).await.unwrap();
    let before = remote.requests();
    zero(&fs, open, 2, 4).await.unwrap();
    assert_eq!(remote.requests(), before, "zeros in place of data waited");
    assert_eq!(bytes(&fs, open, at(2 * UNIT, UNIT)).await, vec![0; UNIT as usize]);
    remote.fail_changes_with(Some(ErrorKind::NoSpace));
    let refused = zero(&fs, open, 0, 1).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    remote.fail_changes_with(None);
    let grown = zero(&fs, open, BLOCKS - 1, 2).await;
    grown.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().size, (BLOCKS + 1) * UNIT);
    fs.flush(open, true).await.unwrap();
    assert_eq!(bytes(&fs, open, at(7 * UNIT, UNIT)).await, vec![1; UNIT as usize]);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_waits_for_its_writes_waits_for_its_punches() {
    let (remote, fs, id, _) = punched().await;
    for (first, reach, kept) in [(1, Reach::Server, false), (2, Reach::Storage, true)] {
        let (open, _) = fs.open(id, Access::ReadWrite).await.unwrap();
        fs.set_reach(open, reach);
        let before = units(&remote);
        punch(&fs, open, first, 1).await.unwrap();
        assert_eq!(units(&remote), before - 1, "{reach:?}: it is at the server");
        let now = remote.clone();
        now.crash();
        assert_eq!(
            units(&remote) == before - 1,
            kept,
            "{reach:?}: it is on stable storage"
        );
        fs.flush(open, true).await.unwrap();
        assert_eq!(units(&remote), before - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_punch_that_fails_later_is_told_once_and_made_again() {
    let (remote, fs, id, open) = punched().await;
    let (other, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    remote.fail_changes_with(Some(ErrorKind::Io));
    punch(&fs, open, 1, 1).await.unwrap();
    assert_eq!(fs.flush(open, true).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs.drain(other).await.unwrap_err().kind(), ErrorKind::Io);
    // What frees space is not held up by what could not be sent.
    remote.fail_changes_with(None);
    punch(&fs, open, 3, 1).await.unwrap();
    fs.flush(open, true).await.unwrap();
    fs.drain(other).await.unwrap();
    assert_eq!(units(&remote), BLOCKS - 3);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_bytes_that_were_punched_before_they_were_sent_stays_the_end() {
    let (remote, fs, id, open) = punched().await;
    let size = (BLOCKS + 4) * UNIT - 7;
    write(&fs, open, BLOCKS * UNIT, &vec![3; (4 * UNIT - 7) as usize])
        .await
        .unwrap();
    let tail = at((BLOCKS + 1) * UNIT, 3 * UNIT - 7);
    fs.reshape(open, Reshape::Punch, tail, false).await.unwrap();
    fs.drain(open).await.unwrap();
    assert_eq!(fs.attr_now(id).unwrap().size, size);
    assert_eq!(remote.content(&path("v")).unwrap().size, size);
    fs.flush(open, true).await.unwrap();
    remote.crash();
    assert_eq!(remote.content(&path("v")).unwrap().size, size);
}
