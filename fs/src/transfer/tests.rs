//! Transfers between a server in memory and real files. Time is real here: the files are on threads of their own,
//! which paused time does not wait for.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::digest::{InOrder, UNIT_LOG2_MAX};
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Features;
use proptest::prelude::*;
use rustix::fs::SeekFrom;

use super::local::{Kind, Local};
use super::pull::{Compare, Pull, pull};
use super::push::{Push, Pushed, push};
use super::range::Part;
use super::records::{RecordSource, RecordTarget};
use super::source::{self, Detect, Source};
use super::target::{self, Target};
use super::*;
use crate::client::{Access, Client, Options, Volume};
use crate::error::Result;
use crate::remote::memory::{MemoryRemote, UNIT_BYTES};
use crate::zeros;

/// Runs of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Data,
    /// Allocated.
    Zeros,
    Hole,
}

type Layout = Vec<(Run, u64)>;

fn layout() -> impl Strategy<Value = Layout> {
    let run = prop_oneof![Just(Run::Data), Just(Run::Zeros), Just(Run::Hole)];
    let len = prop_oneof![1..9000_u64, (1..30_u64).prop_map(|units| units * UNIT_BYTES)];
    prop::collection::vec((run, len), 1..10)
}

fn sparse() -> impl Strategy<Value = Sparse> {
    prop_oneof![Just(Sparse::Auto), Just(Sparse::Always), Just(Sparse::Never)]
}

/// The runs of a layout with their ranges.
fn runs(layout: &Layout) -> impl Iterator<Item = (Run, ByteRange)> {
    layout.iter().scan(0, |at, (run, len)| {
        let range = ByteRange::at(*at, *len)?;
        *at = range.end();
        Some((*run, range))
    })
}

fn size(layout: &Layout) -> u64 {
    layout.iter().map(|(_, len)| len).sum()
}

/// Data is the same in two contents of the same seed, so that comparing finds some of it; never zero.
fn data(range: ByteRange, seed: u8) -> Vec<u8> {
    let byte = |at: u64| (at / 5000 % 200) as u8 + 1 + seed;
    (range.start()..range.end()).map(byte).collect()
}

fn bytes(layout: &Layout, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; size(layout) as usize];
    for (_, range) in runs(layout).filter(|(run, _)| *run == Run::Data) {
        bytes[range.start() as usize..range.end() as usize].copy_from_slice(&data(range, seed));
    }
    bytes
}

fn path() -> NodePath {
    NodePath::parse(b"v").unwrap()
}

/// A server with the volume `v`.
fn serve(layout: &Layout, seed: u8) -> MemoryRemote {
    let remote = MemoryRemote::default();
    remote.change(&path(), |content| {
        content.resize(size(layout));
        for (run, range) in runs(layout) {
            match run {
                Run::Data => content.write_bytes(range.start(), &data(range, seed)),
                Run::Zeros => content.zero(range),
                Run::Hole => {}
            }
        }
    });
    remote
}

fn make_file(dir: &Path, layout: &Layout, seed: u8) -> PathBuf {
    let path = dir.join("file");
    let file = File::create_new(&path).unwrap();
    file.set_len(size(layout)).unwrap();
    for (run, range) in runs(layout).filter(|(run, _)| *run != Run::Hole) {
        let bytes = match run {
            Run::Data => data(range, seed),
            _ => vec![0; range.len() as usize],
        };
        file.write_all_at(&bytes, range.start()).unwrap();
    }
    file.sync_all().unwrap();
    path
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(work)
}

async fn open(remote: &MemoryRemote, access: Access) -> (Client<MemoryRemote>, Volume<MemoryRemote>) {
    let client = Client::over(remote.clone(), &Options::default());
    let volume = client.open("v", access).await.unwrap();
    (client, volume)
}

fn job(range: ByteRange) -> Pull {
    Pull {
        range,
        sparse: Sparse::Auto,
        digest: Some(DigestKind::Tree),
        compare: None,
        tally: Arc::default(),
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut digest = InOrder::new(DigestKind::Tree);
    digest.data(bytes);
    digest.finish()
}

/// A part of `size` bytes, from two thousandths of it.
fn part(size: u64, ends: (u64, u64)) -> ByteRange {
    let (from, to) = (ends.0.min(ends.1), ends.0.max(ends.1));
    ByteRange::new(size * from / 1000, size * to / 1000).unwrap()
}

fn ends() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![Just((0, 1000)), (0..=1000_u64, 0..=1000_u64)]
}

/// Where the file has data in `range`, as lseek says.
fn data_in(file: &File, range: ByteRange) -> Option<u64> {
    let found = rustix::fs::seek(file, SeekFrom::Data(range.start())).ok();
    found.filter(|at| *at < range.end())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Bytes, size, holes and space of a pulled file are those of the range, whatever was there before.
    #[test]
    fn a_pulled_file_is_the_range(
        layout in layout(),
        old in prop::option::of((layout(), 0..2_u8)),
        ends in ends(),
        sparse in sparse(),
        compare in prop::option::of(any::<bool>()),
        lacks in prop_oneof![4 => Just(Features::default()), 1 => Just(Features::DIGESTS)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let name = match &old {
            Some((old, seed)) => make_file(dir.path(), old, *seed),
            None => dir.path().join("file"),
        };
        let range = part(size(&layout), ends);
        let expected = bytes(&layout, 0)[range.start() as usize..range.end() as usize].to_vec();
        let remote = serve(&layout, 0);
        remote.forget(lacks);
        let tally = Arc::<Tally>::default();
        let compared = compare;
        let digest = block_on(async {
            let (_client, volume) = open(&remote, Access::Read).await;
            let local = Local::target(&name).unwrap();
            let compare = compare.map(|blocks| Compare {
                old: local.file.try_clone().unwrap(),
                old_bytes: local.size,
                blocks,
            });
            let job = Pull { sparse, compare, tally: Arc::clone(&tally), ..job(range) };
            pull(&volume, job, target::raw(local, sparse), "file", std::future::pending()).await
        });
        prop_assert_eq!(digest.unwrap(), Some(digest_of(&expected)));
        prop_assert!(fs::read(&name).unwrap() == expected, "the file differs");
        prop_assert_eq!(tally.done(), range.len());
        if sparse == Sparse::Always && compared.is_none() && range.start().is_multiple_of(zeros::BLOCK_BYTES) {
            let whole_zeros = zeros::split(0, &Bytes::from(expected), true);
            let hole: u64 = whole_zeros.iter().filter(|piece| matches!(piece, Piece::Hole(_))).map(Piece::len).sum();
            prop_assert_eq!(tally.hole(), hole, "zeros count as what they became");
        }
        let file = File::open(&name).unwrap();
        if sparse == Sparse::Never {
            let blocks = file.metadata().unwrap().blocks() * 512;
            prop_assert!(blocks >= range.len(), "{} of {} bytes are allocated", blocks, range.len());
            return Ok(());
        }
        // A server's hole is of whole units; a file's one of whole blocks.
        let mut start = 0;
        let content = remote.content(&path()).unwrap();
        for unit in content.units.keys().copied().chain([1 << 40]) {
            let hole = ByteRange::new(start, unit * UNIT_BYTES).map(|hole| hole.intersect(range));
            start = (unit + 1) * UNIT_BYTES;
            let Some(hole) = hole.filter(|hole| !hole.is_empty()) else { continue };
            let (from, to) = (hole.start() - range.start(), hole.end() - range.start());
            let inner = ByteRange::new(from.next_multiple_of(UNIT_BYTES), to / UNIT_BYTES * UNIT_BYTES);
            if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
                prop_assert_eq!(data_in(&file, inner), None, "data in the hole {} of {:?}", inner, content.size);
            }
        }
    }

    /// A volume has the source in the range that it was pushed into and is untouched outside of it, also if the
    /// server crashes and answers are lost meanwhile; it ends elsewhere only if that is wanted.
    #[test]
    fn a_pushed_volume_is_the_source(
        layout in layout(),
        old in layout(),
        seed in 0..2_u8,
        offset in 0..100_000_u64,
        (sparse, compare) in (sparse(), prop::option::of(any::<bool>())),
        resize in any::<bool>(),
        (crashes, lost) in (0..4_u32, 0..3_u64),
        lacks in prop_oneof![4 => Just(Features::default()), 1 => Just(Features::DIGESTS)],
    ) {
        let offset = offset.min(size(&old));
        let room = size(&old) - offset;
        prop_assume!(resize || room > 0);
        let source_bytes = bytes(&layout, 0);
        let length = if resize { size(&layout) } else { size(&layout).min(room) };
        let plan = Part { offset, length: Some(length) }
            .of_source(Some(size(&layout)), Some(size(&old)), resize)
            .unwrap();
        let mut expected = bytes(&old, seed);
        let end = (offset + length) as usize;
        expected.resize(if resize { end } else { expected.len() }, 0);
        expected[offset as usize..end].copy_from_slice(&source_bytes[..length as usize]);

        let dir = tempfile::tempdir().unwrap();
        let name = make_file(dir.path(), &layout, 0);
        let remote = serve(&old, seed);
        remote.forget(lacks);
        let detect = match sparse {
            Sparse::Auto => Detect::Unmapped,
            Sparse::Always => Detect::InData,
            Sparse::Never => Detect::Nowhere,
        };
        let tally = Arc::<Tally>::default();
        let pushed = block_on(async {
            let (_client, volume) = open(&remote, Access::ReadWrite).await;
            let trouble = remote.clone();
            let troubles = tokio::spawn(async move {
                for number in 0..crashes {
                    for _ in 0..number * 7 {
                        tokio::task::yield_now().await;
                    }
                    trouble.crash();
                    trouble.lose_answers(lost);
                }
            });
            let source = source::raw(Local::source(&name).unwrap(), detect, length);
            let job = Push { plan, sparse, digest: Some(DigestKind::Tree), compare, tally: Arc::clone(&tally) };
            let pushed = push(&volume, job, source, "file", std::future::pending()).await;
            troubles.await.unwrap();
            pushed
        });
        let pushed = pushed.unwrap();
        prop_assert_eq!(pushed.range, plan.range);
        prop_assert_eq!(pushed.digest, Some(digest_of(&source_bytes[..length as usize])));
        prop_assert_eq!(tally.done(), length);
        // What is told to be there is flushed.
        remote.crash();
        let content = remote.content(&path()).unwrap();
        prop_assert_eq!(content.size, expected.len() as u64);
        prop_assert!(content.bytes(ByteRange::up_to(content.size)) == expected, "the volume differs");
        for (run, range) in runs(&layout).filter(|_| offset % UNIT_BYTES == 0) {
            let range = range.intersect(ByteRange::up_to(length));
            let (first, end) = ((offset + range.start()).div_ceil(UNIT_BYTES), (offset + range.end()) / UNIT_BYTES);
            let is_hole = match sparse {
                Sparse::Auto => run == Run::Hole && range.start() % UNIT_BYTES == 0,
                Sparse::Always => run != Run::Data,
                Sparse::Never => continue,
            };
            // What was found to be the same was left alone.
            if is_hole && compare.is_none() && first < end {
                prop_assert_eq!(content.units.range(first..end).next(), None, "data in {:?} {}", run, range);
            }
        }
        if sparse == Sparse::Never {
            let (first, end) = (offset / UNIT_BYTES, (offset + length).div_ceil(UNIT_BYTES));
            let allocated = content.units.range(first..end).count() as u64;
            prop_assert!(compare.is_some() || allocated == end - first, "{} of {}", allocated, end - first);
        }
    }
}

/// A stream of records, and its bytes.
fn records(dir: &Path) -> (Vec<u8>, Vec<Piece>) {
    let pieces = vec![
        Piece::Hole(1 << 40),
        Piece::Data(vec![7; 100].into()),
        Piece::Hole(5),
        Piece::Data(vec![8; 30].into()),
    ];
    let name = dir.join("records");
    let total = pieces.iter().map(Piece::len).sum();
    let mut target = RecordTarget::new(File::create(&name).unwrap(), total).unwrap();
    for piece in &pieces {
        target.put(piece).unwrap();
    }
    target.finish().unwrap();
    (fs::read(&name).unwrap(), pieces)
}

fn read_records(dir: &Path, bytes: &[u8]) -> std::io::Result<Vec<Piece>> {
    let name = dir.join("copy");
    fs::write(&name, bytes).unwrap();
    let mut source = RecordSource::open(File::open(&name).unwrap())?;
    let mut pieces = Vec::new();
    while let Some(piece) = source.next()? {
        pieces.push(piece);
    }
    Ok(pieces)
}

#[test]
fn records_come_back_and_no_damage_goes_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, pieces) = records(dir.path());
    assert_eq!(read_records(dir.path(), &bytes).unwrap(), pieces);
    for cut in 0..bytes.len() {
        let error = read_records(dir.path(), &bytes[..cut]).unwrap_err();
        assert!(error.to_string().contains("cut"), "cut at {cut}: {error}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match read_records(dir.path(), &damaged) {
                Err(_) => {}
                // A hole that became zeros is the same content.
                Ok(read) => assert_eq!(read, pieces, "bit {bit} of byte {at} was turned"),
            }
        }
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(read_records(dir.path(), &longer).is_err());
}

/// Pushes what a pipe gives into a volume of 20,000 bytes.
fn push_pipe(given: Vec<u8>, part: Part, resize: bool) -> (MemoryRemote, Result<Pushed>) {
    let remote = serve(&vec![(Run::Data, 20_000)], 1);
    let plan = part.of_source(None, Some(20_000), resize).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let giver = std::thread::spawn(move || writer.write_all(&given));
    let local = Local {
        file: File::from(std::os::fd::OwnedFd::from(reader)),
        kind: Kind::Stream,
        size: 0,
        name: "pipe".to_owned(),
    };
    let pushed = block_on(async {
        let (_client, volume) = open(&remote, Access::ReadWrite).await;
        let job = Push {
            plan,
            sparse: Sparse::Auto,
            digest: None,
            compare: None,
            tally: Arc::default(),
        };
        let source = source::raw(local, Detect::Unmapped, part.length.unwrap_or(u64::MAX));
        push(&volume, job, source, "pipe", std::future::pending()).await
    });
    // It fails if not all was wanted.
    let _ = giver.join().unwrap();
    (remote, pushed)
}

fn content(remote: &MemoryRemote) -> Vec<u8> {
    let content = remote.content(&path()).unwrap();
    content.bytes(ByteRange::up_to(content.size))
}

#[test]
fn a_source_that_ends_early_is_an_error_with_both_numbers() {
    let part = Part {
        offset: 1000,
        length: Some(9000),
    };
    let (remote, pushed) = push_pipe(vec![250; 7000], part, false);
    let text = pushed.unwrap_err().to_string();
    assert!(text.contains("7000") && text.contains("9000"), "{text}");
    let mut expected = bytes(&vec![(Run::Data, 20_000)], 1);
    expected[1000..8000].fill(250);
    assert!(content(&remote) == expected, "the volume differs");
}

#[test]
fn a_pipe_may_end_before_the_volume_and_not_go_beyond_it() {
    let part = Part {
        offset: 15_000,
        length: None,
    };
    let mut expected = bytes(&vec![(Run::Data, 20_000)], 1);
    expected[15_000..15_100].fill(250);
    let (remote, pushed) = push_pipe(vec![250; 100], part, false);
    assert_eq!(pushed.unwrap().range, ByteRange::new(15_000, 15_100).unwrap());
    assert!(content(&remote) == expected, "the volume differs");

    let (remote, pushed) = push_pipe(vec![250; 5001], part, false);
    let text = pushed.unwrap_err().to_string();
    assert!(text.contains("5000") && text.contains("--resize"), "{text}");
    assert_eq!(content(&remote).len(), 20_000);

    let (remote, pushed) = push_pipe(vec![250; 5001], part, true);
    pushed.unwrap();
    assert_eq!(content(&remote).len(), 20_001);
    let (remote, pushed) = push_pipe(vec![250; 3], part, true);
    pushed.unwrap();
    assert_eq!(content(&remote).len(), 15_003);
}

/// A pipe that is longer than wanted is not read to its end, nor waited for.
#[test]
fn no_more_than_the_length_is_taken_from_a_pipe() {
    let part = Part {
        offset: 0,
        length: Some(4000),
    };
    let (remote, pushed) = push_pipe(vec![250; 3 << 20], part, false);
    assert_eq!(pushed.unwrap().range, ByteRange::up_to(4000));
    assert!(content(&remote)[..4000].iter().all(|byte| *byte == 250));
    assert!(content(&remote)[4000..].iter().all(|byte| *byte != 250));
}

/// Pulls into a pipe that nobody reads until the end is wanted, which is when something is in it.
fn pull_until_stopped(layout: &Layout) -> (Error, u64) {
    let remote = serve(layout, 0);
    let (reader, writer) = std::io::pipe().unwrap();
    let local = Local {
        file: File::from(std::os::fd::OwnedFd::from(writer)),
        kind: Kind::Stream,
        size: 0,
        name: "pipe".to_owned(),
    };
    block_on(async {
        let (_client, volume) = open(&remote, Access::Read).await;
        let begun = async {
            while rustix::io::ioctl_fionread(&reader).unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let target = target::raw(local, Sparse::Auto);
        let ended = pull(
            &volume,
            job(ByteRange::up_to(size(layout))),
            target,
            "pipe",
            begun,
        )
        .await;
        let left = rustix::io::ioctl_fionread(&reader).unwrap();
        // The write that is left alone fails, and its thread ends.
        drop(reader);
        (ended.unwrap_err(), left)
    })
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_an_end() {
    for layout in [vec![(Run::Data, 4 << 20)], vec![(Run::Hole, 1 << 50)]] {
        let (error, left) = pull_until_stopped(&layout);
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{layout:?}");
        assert!(left > 0 && left < 4 << 20, "{left} bytes are in the pipe");
    }
}

/// What came before an end is kept, and going on moves only the rest.
#[test]
fn a_stopped_pull_is_taken_up() {
    let layout = vec![(Run::Data, 32 << 20)];
    let remote = serve(&layout, 0);
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("file");
    let whole = ByteRange::up_to(size(&layout));
    block_on(async {
        let (_client, volume) = open(&remote, Access::Read).await;
        let tally = Arc::<Tally>::default();
        let begun = async {
            while tally.done() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let first = Pull {
            tally: Arc::clone(&tally),
            ..job(whole)
        };
        let target = target::raw(Local::target(&name).unwrap(), Sparse::Auto);
        let error = pull(&volume, first, target, "file", begun).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        let kept = tally.done();
        assert!(kept < whole.len(), "it was not stopped");

        let local = Local::target(&name).unwrap();
        let again = Pull {
            compare: Some(Compare {
                old: local.file.try_clone().unwrap(),
                old_bytes: local.size,
                blocks: false,
            }),
            ..job(whole)
        };
        let tally = Arc::clone(&again.tally);
        let target = target::raw(local, Sparse::Auto);
        pull(&volume, again, target, "file", std::future::pending())
            .await
            .unwrap();
        // The last unit may have been cut.
        let same = tally.same();
        assert!(
            same + (1 << UNIT_LOG2_MAX) > kept,
            "{same} of {kept} bytes were there"
        );
    });
    assert!(fs::read(&name).unwrap() == bytes(&layout, 0), "the file differs");
}
