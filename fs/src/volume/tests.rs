//! Volumes and the file system over a server in memory.

use std::time::Duration;

use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodeName;
use proptest::prelude::*;

use super::map::Whence;
use super::read::ReadNow;
use super::shared::Settings;
use super::*;
use crate::file_system::{FileSystem, OpenId};
use crate::remote::memory::{Content, MemoryRemote, UNIT_BYTES};

const CACHE: u64 = 8 << 20;

fn path() -> NodePath {
    NodePath::new(b"v").unwrap()
}

fn at(start: u64, len: u64) -> ByteRange {
    ByteRange::at(start, len).unwrap()
}

/// A server with one volume of `size` bytes, and the file system over it with the volume opened.
async fn opened(
    size: u64,
    fill: impl FnOnce(&mut Content),
) -> (MemoryRemote, Arc<FileSystem<MemoryRemote>>, OpenId) {
    let remote = MemoryRemote::default();
    remote.change(&path(), |content| {
        content.size = size;
        fill(content);
    });
    let fs = FileSystem::new(
        remote.clone(),
        NodePath::root(),
        Settings::new(CACHE, Some(Duration::from_secs(20))),
    );
    let fs = Arc::new(fs);
    let attr = fs
        .lookup(NodeId::ROOT, &NodeName::new(b"v").unwrap())
        .await
        .unwrap();
    let (open, _) = fs.open(attr.id, Access::Read).await.unwrap();
    (remote, fs, open)
}

async fn bytes(fs: &FileSystem<MemoryRemote>, open: OpenId, wanted: ByteRange) -> Vec<u8> {
    fs.read(open, wanted).await.unwrap().with_slice(<[u8]>::to_vec)
}

/// Runs other tasks until nothing is on its way.
async fn settle(fs: &FileSystem<MemoryRemote>) {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(
        fs.open_volumes()
            .iter()
            .all(|volume| volume.state.lock().flights.is_empty())
    );
}

#[tokio::test]
async fn holes_are_read_without_any_request() {
    let (remote, fs, open) = opened(1 << 40, |content| content.write(at(1 << 30, 1), 7)).await;
    assert_eq!(fs.seek(open, 0, Whence::Data).await.unwrap(), 1 << 30);
    let before = remote.requests();
    for offset in [0, 4096, 1 << 29, 1 << 35, (1 << 40) - 4096] {
        assert_eq!(bytes(&fs, open, at(offset, 4096)).await, vec![0; 4096]);
    }
    remote.fail_with(Some(ErrorKind::Disconnected));
    assert_eq!(bytes(&fs, open, at(1 << 39, 8192)).await, vec![0; 8192]);
    assert_eq!(remote.requests(), before);
    assert_eq!(fs.shared().counters.hole_bytes_read.value(), 5 * 4096 + 8192);
    assert_eq!(fs.shared().counters.fetched_bytes.value(), 0);
}

#[tokio::test]
async fn reads_are_cut_at_the_end_and_full_before_it() {
    let (_, fs, open) = opened(0, |content| content.write(at(0, 10_001), 9)).await;
    assert_eq!(bytes(&fs, open, at(10_000, 4096)).await, [9]);
    assert_eq!(bytes(&fs, open, at(10_001, 4096)).await, Vec::<u8>::new());
    assert_eq!(bytes(&fs, open, at(1 << 50, 4096)).await, Vec::<u8>::new());
    assert_eq!(bytes(&fs, open, at(0, 20_000)).await, vec![9; 10_001]);
}

#[tokio::test]
async fn a_small_random_read_fetches_a_page() {
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 4 << 20), 1)).await;
    for offset in [3 << 20, 100, 2 << 20] {
        bytes(&fs, open, at(offset, 100)).await;
    }
    settle(&fs).await;
    assert_eq!(remote.read_bytes(), 3 * 4096);
}

#[tokio::test]
async fn reading_in_order_prefetches_and_reads_each_byte_once() {
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 2 << 20), 5)).await;
    let mut all = Vec::new();
    while all.len() < 2 << 20 {
        let offset = all.len() as u64;
        all.extend(bytes(&fs, open, at(offset, 16384)).await);
    }
    assert!(all.iter().all(|byte| *byte == 5));
    assert_eq!(remote.read_bytes(), 2 << 20);
    assert!(remote.requests() < 20, "{} requests", remote.requests());
}

#[tokio::test]
async fn readers_of_the_same_bytes_share_one_fetch() {
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 1 << 20), 3)).await;
    settle(&fs).await;
    let before = remote.requests();
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let fs = Arc::clone(&fs);
            tokio::spawn(async move { bytes(&fs, open, at(4096, 8192)).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), vec![3; 8192]);
    }
    assert_eq!(remote.requests() - before, 1);
    assert_eq!(remote.read_bytes(), 8192);
}

#[tokio::test]
async fn what_is_cached_is_read_at_once_and_without_the_server() {
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 65536), 3)).await;
    assert!(matches!(fs.read_now(open, at(0, 65536)).unwrap(), ReadNow::Wait));
    bytes(&fs, open, at(0, 65536)).await;
    remote.fail_with(Some(ErrorKind::Disconnected));
    let ReadNow::Ready(gathered) = fs.read_now(open, at(100, 5000)).unwrap() else {
        panic!("not cached")
    };
    assert_eq!(gathered.with_slice(<[u8]>::to_vec), vec![3; 5000]);
    assert_eq!(fs.shared().counters.cache_bytes_read.value(), 5000);
    assert!(fs.read(open, at(0, 10)).await.is_ok());
}

#[tokio::test]
async fn a_change_behind_the_back_is_seen_at_the_next_open() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(0, 4096), 1)).await;
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![1; 4096]);
    remote.change(&path(), |content| content.write(at(0, 8192), 2));
    let id = fs.open_volumes()[0].attr().id;
    let (again, keep_cache) = fs.open(id, Access::Read).await.unwrap();
    assert!(!keep_cache, "the kernel's pages are old");
    assert_eq!(bytes(&fs, again, at(0, 8192)).await, vec![2; 8192]);
    assert_eq!(fs.seek(again, 0, Whence::Hole).await.unwrap(), 8192);
    let (_, keep_cache) = fs.open(id, Access::Read).await.unwrap();
    assert!(keep_cache);
}

#[tokio::test]
async fn an_event_drops_what_was_known_and_posts_a_notice() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(0, 4096), 1)).await;
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![1; 4096]);
    remote.change(&path(), |content| content.write(at(8192, 1), 2));
    let attr = fs.shared().remote.stat(&path()).await.unwrap();
    fs.shared().notices.attach();
    fs.changed(&crate::remote::Change {
        attr,
        range: ByteRange::ALL,
    });
    assert_eq!(fs.seek(open, 4096, Whence::Data).await.unwrap(), 8192);
    assert_eq!(fs.shared().notices.take().map(|taken| taken.id), Some(attr.id));
}

/// A write into a hole makes the whole blocks that it touches data, and an event names only its bytes.
#[tokio::test]
async fn an_event_within_a_block_drops_the_map_of_the_whole_block() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(0, 4096), 1)).await;
    settle(&fs).await;
    let nothing = fs.seek(open, 4096, Whence::Data).await.unwrap_err();
    assert_eq!(nothing.kind(), crate::error::ErrorKind::NoExtent);
    remote.change(&path(), |content| content.write(at(9000, 5000), 2));
    let attr = fs.shared().remote.stat(&path()).await.unwrap();
    fs.changed(&crate::remote::Change {
        attr,
        range: at(9000, 5000),
    });
    assert_eq!(fs.seek(open, 4096, Whence::Data).await.unwrap(), 8192);
    assert_eq!(fs.seek(open, 8192, Whence::Hole).await.unwrap(), 16384);
}

#[tokio::test]
async fn a_read_that_meets_a_change_is_never_half_old() {
    // The change arrives between the plan and the fetch: the server names another generation.
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 65536), 1)).await;
    fs.seek(open, 0, Whence::Hole).await.unwrap();
    bytes(&fs, open, at(0, 4096)).await;
    remote.change(&path(), |content| content.write(at(0, 65536), 2));
    let all = bytes(&fs, open, at(0, 16384)).await;
    assert_eq!(all, vec![2; 16384], "old cached bytes were mixed with new ones");
}

#[tokio::test]
async fn the_map_is_fetched_page_by_page_where_it_is_needed() {
    let remote = MemoryRemote::default();
    remote.limit_pages_to(1 << 20);
    remote.change(&path(), |content| {
        content.size = 64 << 20;
        content.write(at(60 << 20, 1), 1);
    });
    let shared = Arc::new(Shared::new(remote.clone(), Settings::new(CACHE, None)));
    let attr = remote.stat(&path()).await.unwrap();
    let volume = Arc::new(Volume::new(shared, path(), attr));
    volume.bind(
        remote.open(&volume.path, attr.id, Access::Read).await.unwrap().0,
        Access::Read,
    );
    let before = remote.requests();
    assert_eq!(volume.seek(59 << 20, Whence::Data).await.unwrap(), 60 << 20);
    assert_eq!(remote.requests() - before, 2, "one page at 59 MiB, one at 60 MiB");
}

#[tokio::test]
async fn errors_reach_every_reader_and_pass() {
    let (remote, fs, open) = opened(0, |content| content.write(at(0, 65536), 1)).await;
    fs.seek(open, 0, Whence::Hole).await.unwrap();
    remote.fail_with(Some(ErrorKind::Io));
    let error = fs.read(open, at(0, 4096)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    remote.fail_with(None);
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![1; 4096]);
    assert_eq!(
        fs.shared().cache.bytes(),
        4096,
        "the failed fetch gave its room back"
    );
}

/// Reads `pages` pages of 4 KiB, each far from the last, all at once; the results in order.
async fn read_pages_at_once(
    fs: &Arc<FileSystem<MemoryRemote>>,
    open: OpenId,
    pages: u64,
) -> Vec<Result<Vec<u8>, ErrorKind>> {
    let readers: Vec<_> = (0..pages)
        .map(|page| {
            let fs = Arc::clone(fs);
            tokio::spawn(async move {
                let read = fs.read(open, at(page << 20, 4096)).await;
                read.map(|read| read.with_slice(<[u8]>::to_vec))
                    .map_err(|error| error.kind())
            })
        })
        .collect();
    let mut results = Vec::new();
    for reader in readers {
        results.push(reader.await.unwrap());
    }
    results
}

/// A volume in which each MiB is data of its own number.
async fn numbered(pages: u64) -> (MemoryRemote, Arc<FileSystem<MemoryRemote>>, OpenId) {
    let (remote, fs, open) = opened(0, |content| {
        for page in 0..pages {
            content.write(at(page << 20, 1 << 20), page as u8);
        }
    })
    .await;
    fs.seek(open, 0, Whence::Hole).await.unwrap();
    settle(&fs).await;
    (remote, fs, open)
}

#[tokio::test]
async fn many_small_reads_at_once_are_few_requests() {
    let (remote, fs, open) = numbered(32).await;
    let before = remote.requests();
    let results = read_pages_at_once(&fs, open, 32).await;
    for (page, result) in results.into_iter().enumerate() {
        assert_eq!(result, Ok(vec![page as u8; 4096]));
    }
    let requests = remote.requests() - before;
    assert!(
        requests <= 3,
        "{requests} requests: the first alone, then all others"
    );
    assert_eq!(remote.read_bytes(), 32 * 4096);
    settle(&fs).await;
    assert_eq!(fs.shared().cache.bytes(), 32 * 4096);
}

#[tokio::test]
async fn of_small_reads_that_leave_together_only_the_bad_one_fails() {
    let (remote, fs, open) = numbered(8).await;
    remote.damage((5 << 20) + 17);
    let results = read_pages_at_once(&fs, open, 8).await;
    for (page, result) in results.into_iter().enumerate() {
        let expected = if page == 5 {
            Err(ErrorKind::Io)
        } else {
            Ok(vec![page as u8; 4096])
        };
        assert_eq!(result, expected, "page {page}");
    }
    settle(&fs).await;
    assert_eq!(
        fs.shared().cache.bytes(),
        7 * 4096,
        "each gave back what it did not need"
    );
}

#[test]
fn what_was_to_leave_when_the_runtime_ended_lands() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_remote, fs, open) = runtime.block_on(numbered(8));
    // The first goes alone, the others wait for a task that never runs.
    let readers: Vec<_> = (0..8)
        .map(|page| {
            let fs = Arc::clone(&fs);
            runtime.spawn(async move { drop(fs.read(open, at(page << 20, 4096)).await) })
        })
        .collect();
    runtime.block_on(async {
        while fs.open_volumes()[0].leaving.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    let volume = Arc::clone(&fs.open_volumes()[0]);
    drop((readers, runtime));
    assert!(volume.leaving.lock().is_empty());
    assert!(volume.state.lock().flights.is_empty());
    assert_eq!(volume.aloft.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn small_reads_that_hang_together_are_tried_alone() {
    let (remote, fs, open) = numbered(8).await;
    let before = remote.requests();
    remote.hang_larger_than(Some(4096));
    let results = read_pages_at_once(&fs, open, 8).await;
    for (page, result) in results.into_iter().enumerate() {
        assert_eq!(result, Ok(vec![page as u8; 4096]));
    }
    assert!(remote.requests() - before >= 8);
}

#[tokio::test]
async fn direct_reads_leave_nothing_in_the_cache() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(4096, 8192), 6)).await;
    for _ in 0..2 {
        let read = fs
            .read_direct(open, at(0, 20480))
            .await
            .unwrap()
            .with_slice(<[u8]>::to_vec);
        assert_eq!(read, [vec![0; 4096], vec![6; 8192], vec![0; 8192]].concat());
    }
    assert_eq!(remote.read_bytes(), 2 * 8192);
    assert_eq!(fs.shared().cache.bytes(), 0);
}

#[tokio::test]
async fn the_budget_holds_while_more_is_read_than_fits() {
    let (_, fs, open) = opened(0, |content| content.write(at(0, 3 * CACHE), 4)).await;
    let mut offset = 0;
    while offset < 3 * CACHE {
        assert_eq!(bytes(&fs, open, at(offset, 1 << 20)).await.len(), 1 << 20);
        assert!(fs.shared().cache.bytes() <= CACHE);
        offset += 1 << 20;
    }
}

#[tokio::test]
async fn reads_that_pin_the_whole_budget_do_not_wait_for_each_other() {
    let (_, fs, open) = opened(0, |content| content.write(at(0, 32 << 20), 4)).await;
    // The cache is full with the first half of what each reader wants. Backwards, so that nothing is
    // prefetched.
    for index in (0..16).rev() {
        bytes(&fs, open, at(index << 21, 512 << 10)).await;
    }
    assert_eq!(fs.shared().cache.bytes(), CACHE);
    let readers: Vec<_> = (0..16_u64)
        .map(|index| {
            let fs = Arc::clone(&fs);
            tokio::spawn(async move { bytes(&fs, open, at(index << 21, 1 << 20)).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), vec![4; 1 << 20]);
    }
    assert!(fs.shared().cache.bytes() <= CACHE);
}

#[tokio::test]
async fn opens_and_closes_that_cross_leave_the_volume_open() {
    let (_, fs, first) = opened(0, |content| content.write(at(0, 4096), 4)).await;
    let id = fs.open_volumes()[0].attr().id;
    let mut held = first;
    for _ in 0..200 {
        let opening = tokio::spawn({
            let fs = Arc::clone(&fs);
            async move { fs.open(id, Access::Read).await.unwrap().0 }
        });
        tokio::task::yield_now().await;
        fs.close(held);
        held = opening.await.unwrap();
        let volume = Arc::clone(&fs.open_volumes()[0]);
        assert!(volume.bound.lock().is_some(), "an open volume lost its handle");
    }
    let volume = Arc::clone(&fs.open_volumes()[0]);
    fs.close(held);
    assert!(volume.bound.lock().is_none(), "a closed volume keeps its handle");
}

#[tokio::test]
async fn after_a_reconnect_older_numbers_count() {
    // A server that was restarted may give the same or a later content a lower number.
    let (remote, fs, open) = opened(65536, |content| {
        content.write(at(0, 4096), 1);
        content.generation = 100;
    })
    .await;
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![1; 4096]);
    remote.change(&path(), |content| {
        content.write(at(0, 8192), 2);
        content.generation = 50;
    });
    let volume = Arc::clone(&fs.open_volumes()[0]);
    volume.unfollow();
    assert_eq!(
        fs.attr_now(volume.attr().id),
        None,
        "nobody would have told of a change"
    );
    volume.resync().await.unwrap();
    assert_eq!(bytes(&fs, open, at(0, 8192)).await, vec![2; 8192]);
    assert!(fs.attr_now(volume.attr().id).is_some());
}

#[tokio::test]
async fn an_event_before_the_look_after_a_reconnect_does_not_hide_what_was_missed() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(0, 4096), 1)).await;
    assert_eq!(
        fs.seek(open, 4096, Whence::Data).await.unwrap_err().kind(),
        ErrorKind::NoExtent
    );
    let volume = Arc::clone(&fs.open_volumes()[0]);
    volume.unfollow();
    // Nobody was there to be told of this one.
    remote.change(&path(), |content| content.write(at(40_960, 4096), 2));
    remote.change(&path(), |content| content.write(at(8192, 4096), 3));
    let attr = fs.shared().remote.stat(&path()).await.unwrap();
    volume.changed(attr, at(8192, 4096));
    volume.resync().await.unwrap();
    assert_eq!(bytes(&fs, open, at(40_960, 4096)).await, vec![2; 4096]);
}

#[tokio::test]
async fn an_event_overtaken_by_a_look_changes_nothing() {
    let (remote, fs, open) = opened(65536, |content| content.write(at(0, 4096), 1)).await;
    let old = fs.shared().remote.stat(&path()).await.unwrap();
    remote.change(&path(), |content| content.write(at(0, 8192), 2));
    let id = old.id;
    fs.open(id, Access::Read).await.unwrap();
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![2; 4096]);
    let before = remote.requests();
    fs.changed(&crate::remote::Change {
        attr: old,
        range: ByteRange::ALL,
    });
    assert_eq!(bytes(&fs, open, at(0, 4096)).await, vec![2; 4096]);
    assert_eq!(remote.requests(), before, "what is cached is still good");
    // The server's file system may allocate some more without a change of the content.
    let volume = Arc::clone(&fs.open_volumes()[0]);
    let newest = volume.attr();
    let event = crate::remote::Change {
        attr: Attr {
            allocated_bytes: 4096,
            ..newest
        },
        range: at(0, 8192),
    };
    fs.changed(&event);
    assert_eq!(volume.attr().allocated_bytes, newest.allocated_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Random reads, seeks and changes against the content itself.
    #[test]
    fn equals_the_server_at_every_step(
        steps in prop::collection::vec((0..4_u8, 0..40_u64 * UNIT_BYTES, 1..3 * UNIT_BYTES, any::<u8>()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (remote, fs, mut open) = opened(40 * UNIT_BYTES, |_| {}).await;
            let mut model = Content { size: 40 * UNIT_BYTES, ..Content::default() };
            for (what, offset, len, byte) in steps {
                match what {
                    0 => {
                        remote.change(&path(), |content| content.write(at(offset, len), byte));
                        model.write(at(offset, len), byte);
                        let id = fs.open_volumes()[0].attr().id;
                        open = fs.open(id, Access::Read).await.unwrap().0;
                    }
                    1 => {
                        let data = (offset..model.size).find(|at| model.units.contains_key(&(at / UNIT_BYTES)));
                        assert_eq!(fs.seek(open, offset, Whence::Data).await.ok(), data);
                    }
                    2 => {
                        let hole = (offset..model.size).find(|at| !model.units.contains_key(&(at / UNIT_BYTES)));
                        let expected = (offset < model.size).then(|| hole.unwrap_or(model.size));
                        assert_eq!(fs.seek(open, offset, Whence::Hole).await.ok(), expected);
                    }
                    _ => {
                        let end = model.size.min(offset + len).max(offset);
                        let expected = model.bytes(ByteRange::new(offset, end).unwrap());
                        assert_eq!(bytes(&fs, open, at(offset, len)).await, expected);
                    }
                }
            }
        });
    }
}

/// A map that has no room is not all known, and every seek is right all the same.
#[tokio::test]
async fn a_map_larger_than_its_memory_is_sought_in_parts() {
    const EXTENTS: u64 = 60_000;
    let remote = MemoryRemote::default();
    remote.change(&path(), |content| {
        content.size = EXTENTS * 2 * UNIT_BYTES;
        (0..EXTENTS).for_each(|number| content.write(at(number * 2 * UNIT_BYTES, UNIT_BYTES), 1));
    });
    let settings = Settings {
        map_runs_max: 30_000,
        ..Settings::new(CACHE, Some(Duration::from_secs(20)))
    };
    let fs = Arc::new(FileSystem::new(remote.clone(), NodePath::root(), settings));
    let name = NodeName::new(b"v").unwrap();
    let attr = fs.lookup(NodeId::ROOT, &name).await.unwrap();
    let (open, _) = fs.open(attr.id, Access::Read).await.unwrap();
    settle(&fs).await;
    // There and back again, and as far as anybody goes at once.
    for number in (0..EXTENTS).step_by(7).chain((0..EXTENTS).rev().step_by(1009)) {
        let hole = (number * 2 + 1) * UNIT_BYTES;
        let next = if number + 1 < EXTENTS {
            fs.seek(open, hole, Whence::Data).await.unwrap()
        } else {
            hole + UNIT_BYTES
        };
        assert_eq!(next, hole + UNIT_BYTES);
        assert_eq!(fs.seek(open, hole - 1, Whence::Hole).await.unwrap(), hole);
        let runs: usize = fs.open_volumes().iter().map(|volume| volume.map_runs()).sum();
        assert!(runs <= 30_000 + 10_000, "{runs} runs are held");
    }
    fs.close(open);
}

/// The look was under way when a change of ours was answered, and says how it was before.
#[tokio::test]
async fn a_look_after_a_reconnect_that_an_answer_overtook_takes_nothing_back() {
    let (_remote, fs, open) = opened(4096, |content| content.write(at(0, 4096), 1)).await;
    let volume = Arc::clone(&fs.open_volumes()[0]);
    let (writer, _) = fs.open(volume.id(), Access::ReadWrite).await.unwrap();
    volume.unfollow();
    let before = fs.shared().remote.stat(&path()).await.unwrap();
    fs.write(writer, 100_000, b"new", crate::file_system::changes::Reach::Here)
        .await
        .unwrap();
    fs.drain(writer).await.unwrap();
    volume.update(before);
    assert_eq!(fs.open_attr(open).unwrap().size, 100_003);
}
