//! Changes against a reference: an array of bytes, over a server in memory that crashes and loses answers.

use std::time::Duration;

use lacuna_transport::attr::{NewAttr, NewNode, NewTime, Timestamp};
use lacuna_transport::wire::message::{RenameMode, Reshape};
use proptest::prelude::*;

mod flush;
mod lease;
mod races;
mod sizes;
mod void;

use super::changes::Reach;
use super::*;
use crate::overlay::Content;
use crate::remote::memory::{Delays, MemoryRemote};
use crate::volume::write::WriteNow;

const CACHE: u64 = 16 << 20;
const UNIT: u64 = 4096;
const SIZE_MAX: u64 = 24 * UNIT;

fn at(start: u64, len: u64) -> ByteRange {
    ByteRange::at(start, len).unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> NodePath {
    NodePath::new(text.as_bytes()).unwrap()
}

const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn mounted(remote: &MemoryRemote, dirty: u64) -> FileSystem<MemoryRemote> {
    let settings = Settings {
        dirty_bytes_max: dirty,
        ..Settings::new(CACHE, Some(Duration::from_secs(20)))
    };
    FileSystem::new(remote.clone(), NodePath::root(), settings)
}

async fn created(remote: &MemoryRemote) -> (FileSystem<MemoryRemote>, NodeId, OpenId) {
    let fs = mounted(remote, CACHE / 2);
    let (attr, open) = fs.create(NodeId::ROOT, &name("v"), NODE, true).await.unwrap();
    (fs, attr.id, open)
}

async fn bytes(fs: &FileSystem<MemoryRemote>, open: OpenId, wanted: ByteRange) -> Vec<u8> {
    fs.read(open, wanted).await.unwrap().with_slice(<[u8]>::to_vec)
}

/// A time of modification that nobody's clock shows, and how it is set.
fn a_time() -> (Timestamp, NewAttr) {
    let time = Timestamp {
        seconds: 1_000_000,
        nanos: 5,
    };
    let attr = NewAttr {
        modified: Some(NewTime::At(time)),
        ..NewAttr::default()
    };
    (time, attr)
}

async fn write(fs: &FileSystem<MemoryRemote>, open: OpenId, offset: u64, bytes: &[u8]) -> Result<()> {
    fs.write(open, offset, bytes, Reach::Here).await
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Punch(u64, u64),
    Zero(u64, u64),
    /// A hole (or zeros) that makes the volume larger.
    Void(u64, u64, bool),
    Allocate(u64, u64),
    Resize(u64),
    Copy(u64, u64, u64),
    Drain,
    Flush,
    Reopen,
    Crash,
    LoseAnswers(u64),
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SIZE_MAX, 1..SIZE_MAX / 2).prop_map(|(start, len)| (start, len.min(SIZE_MAX - start)));
    let aligned =
        || (0..24_u64, 1..12_u64).prop_map(|(start, len)| (start * UNIT, (len.min(24 - start)) * UNIT));
    let either = move || prop_oneof![place(), aligned()];
    prop_oneof![
        6 => (either(), 1..=255_u8).prop_map(|((start, len), byte)| Step::Write(start, len, byte)),
        2 => either().prop_map(|(start, len)| Step::Punch(start, len)),
        1 => either().prop_map(|(start, len)| Step::Zero(start, len)),
        1 => (either(), any::<bool>()).prop_map(|((start, len), hole)| Step::Void(start, len, hole)),
        1 => either().prop_map(|(start, len)| Step::Allocate(start, len)),
        2 => (0..SIZE_MAX).prop_map(Step::Resize),
        1 => (0..SIZE_MAX / 2, 0..SIZE_MAX / 2, 1..SIZE_MAX / 4).prop_map(|(from, to, len)| Step::Copy(from, to, len)),
        1 => Just(Step::Drain),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => (1..3_u64).prop_map(Step::LoseAnswers),
        2 => Just(Step::Pause),
    ]
}

/// What the volume should be: bytes, and which units must not be called holes.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
}

impl Model {
    fn grow(&mut self, end: u64) {
        let end = end as usize;
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
    }

    fn fill(&mut self, range: ByteRange, byte: u8) {
        let end = range.end().min(self.bytes.len() as u64) as usize;
        let start = (range.start() as usize).min(end);
        self.bytes[start..end].fill(byte);
    }
}

struct World {
    remote: MemoryRemote,
    fs: FileSystem<MemoryRemote>,
    id: NodeId,
    open: OpenId,
    model: Model,
}

impl World {
    async fn step(&mut self, step: &Step) {
        let (fs, open) = (&self.fs, self.open);
        match *step {
            Step::Write(start, len, byte) => {
                write(fs, open, start, &vec![byte; len as usize]).await.unwrap();
                self.model.grow(start + len);
                self.model.fill(at(start, len), byte);
            }
            Step::Punch(start, len) => {
                let range = at(start, len);
                fs.reshape(open, Reshape::Punch, range, false).await.unwrap();
                self.model.fill(range, 0);
            }
            Step::Zero(start, len) => {
                let (range, grow) = (at(start, len), len % 2 == 0);
                fs.reshape(open, Reshape::Zero, range, grow).await.unwrap();
                if grow {
                    self.model.grow(start + len);
                }
                self.model.fill(range, 0);
            }
            Step::Void(start, len, hole) => {
                let content = if hole { Content::Hole } else { Content::Zero };
                fs.void(open, at(start, len), content).await.unwrap();
                self.model.grow(start + len);
                self.model.fill(at(start, len), 0);
            }
            Step::Allocate(start, len) => {
                fs.reshape(open, Reshape::Allocate, at(start, len), true)
                    .await
                    .unwrap();
                self.model.grow(start + len);
            }
            Step::Resize(size) => {
                let attr = fs
                    .set_attr(self.id, Some(size), NewAttr::default())
                    .await
                    .unwrap();
                assert_eq!(attr.size, size);
                self.model.bytes.resize(size as usize, 0);
            }
            Step::Copy(from, to, len) => self.copy(from, to, len).await,
            Step::Drain => fs.drain(open).await.unwrap(),
            Step::Flush => fs.flush(open, false).await.unwrap(),
            Step::Reopen => {
                fs.drain(open).await.unwrap();
                fs.close(open);
                fs.forget(self.id, 1);
                let attr = fs.lookup(NodeId::ROOT, &name("v")).await.unwrap();
                assert_eq!(attr.id, self.id);
                self.open = fs.open(self.id, Access::ReadWrite).await.unwrap().0;
            }
            Step::Crash => self.remote.crash(),
            Step::LoseAnswers(count) => self.remote.lose_answers(count),
            Step::Pause => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }

    async fn copy(&mut self, from: u64, to: u64, len: u64) {
        let len = len.min((self.model.bytes.len() as u64).saturating_sub(from));
        if len == 0 || from.abs_diff(to) < len {
            return;
        }
        let (source, target) = ((self.open, at(from, len)), (self.open, to));
        assert_eq!(self.fs.copy(source, target).await.unwrap(), len);
        let copied = self.model.bytes[from as usize..(from + len) as usize].to_vec();
        self.model.grow(to + len);
        self.model.bytes[to as usize..(to + len) as usize].copy_from_slice(&copied);
    }

    async fn check(&self) {
        let size = self.model.bytes.len() as u64;
        let volume = self.fs.namespace.lock().volume(self.id).unwrap();
        assert_eq!(volume.attr().size, size, "size");
        let got = bytes(&self.fs, self.open, at(0, SIZE_MAX * 2)).await;
        if let Some(place) = (0..got.len().max(self.model.bytes.len()))
            .find(|place| got.get(*place) != self.model.bytes.get(*place))
        {
            panic!(
                "byte {place} is {:?}, not {:?}",
                got.get(place),
                self.model.bytes.get(place)
            );
        }
        let mut offset = 0;
        while offset < size {
            let data = match self.fs.seek(self.open, offset, Whence::Data).await {
                Ok(data) => data,
                Err(error) if error.kind() == ErrorKind::NoExtent => size,
                Err(error) => panic!("{error}"),
            };
            let hole = &self.model.bytes[offset as usize..data as usize];
            assert!(
                hole.iter().all(|byte| *byte == 0),
                "data in {offset}..{data} is called a hole"
            );
            if data == size {
                break;
            }
            offset = self.fs.seek(self.open, data, Whence::Hole).await.unwrap();
            assert!(offset > data);
        }
    }

    /// Nothing is left to do: the server has what the model has, also after one more crash.
    async fn finish(&self) {
        self.remote.lose_answers(0);
        self.fs.flush(self.open, false).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.remote.crash();
        let content = self.remote.content(&path("v")).unwrap();
        assert_eq!(content.size, self.model.bytes.len() as u64);
        assert!(
            content.bytes(ByteRange::up_to(content.size)) == self.model.bytes,
            "server and model differ"
        );
        assert_eq!(self.fs.shared.dirty_bytes(), 0);
        assert_eq!(self.fs.shared.dirty.bytes(), 0, "all room came back");
        assert!(self.fs.shared.all_unsettled().is_empty());
    }
}

fn run(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let remote = MemoryRemote::default();
        let (fs, id, open) = created(&remote).await;
        let model = Model::default();
        let mut world = World {
            remote,
            fs,
            id,
            open,
            model,
        };
        for step in steps {
            world.step(step).await;
            world.check().await;
        }
        world.finish().await;
    });
}

proptest! {
    #[test]
    fn equals_an_array_through_crashes_and_lost_answers(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}

/// A batch that ends while a change waits for its second try must not end what looks after the volume: closed
/// and forgotten by the kernel, it would not be flushed any more.
#[test]
fn a_change_whose_answer_was_lost_is_looked_after() {
    run(&[
        Step::Write(0, 1, 1),
        Step::LoseAnswers(1),
        Step::Flush,
        Step::LoseAnswers(1),
        Step::Allocate(0, 2),
        Step::Reopen,
    ]);
    run(&[
        Step::LoseAnswers(1),
        Step::Write(0, 1, 1),
        Step::Pause,
        Step::Pause,
        Step::Write(0, 45_120, 1),
        Step::Copy(38_975, 0, 1),
        Step::LoseAnswers(1),
        Step::Punch(0, 1),
        Step::Reopen,
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_seen_at_once_and_sent_later() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    assert_eq!(fs.write_now(open, 10_000, &[7; 100]).unwrap(), WriteNow::Done);
    assert_eq!(remote.writes(), 0);
    assert_eq!(bytes(&fs, open, at(10_000, 100)).await, [7; 100]);
    assert_eq!(fs.seek(open, 0, Whence::Data).await.unwrap(), 8192);
    let attr = fs.attr_now(id).unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (10_100, 4096));
    fs.drain(open).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().size, 10_100);
}

#[tokio::test(start_paused = true)]
async fn an_fsync_covers_what_another_client_left_behind() {
    let remote = MemoryRemote::default();
    let (before, _, open) = created(&remote).await;
    write(&before, open, 0, &[7; 100]).await.unwrap();
    before.drain(open).await.unwrap();
    // Its host is gone, and another run goes on with what it finds.
    let fs = mounted(&remote, CACHE / 2);
    let attr = fs.lookup(NodeId::ROOT, &name("v")).await.unwrap();
    let (open, _) = fs.open(attr.id, Access::ReadWrite).await.unwrap();
    assert_eq!(bytes(&fs, open, at(0, 100)).await, [7; 100]);
    fs.flush(open, true).await.unwrap();
    remote.crash();
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(content.bytes(ByteRange::up_to(content.size)), [7; 100]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_is_made_again_leaves_what_was_written_since() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.set_attr(id, Some(1000), NewAttr::default()).await.unwrap();
    write(&fs, open, 4096, &[2; 4096]).await.unwrap();
    fs.drain(open).await.unwrap();
    remote.restart();
    remote.delay(Delays {
        before: Duration::from_secs(1),
        ..Delays::default()
    });
    fs.shared().send_again();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(
        content.bytes(at(4096, 4096)),
        [2; 4096],
        "readers see it all the time"
    );
    fs.flush(open, true).await.unwrap();
    remote.crash();
    let content = remote.content(&path("v")).unwrap();
    let expected = [vec![1; 1000], vec![0; 3096], vec![2; 4096]].concat();
    assert_eq!(content.bytes(ByteRange::up_to(content.size)), expected);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_is_not_taken_for_that_of_somebody_else() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 4096]).await.unwrap();
    fs.drain(open).await.unwrap();
    remote.lose_answers(1);
    write(&fs, open, 4096, &[2; 4096]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    // In the next session all that was before it is the base.
    let volume = Arc::clone(&fs.open_volumes()[0]);
    volume.unfollow();
    let attr = remote.stat(&path("v")).await.unwrap();
    volume.update(Attr {
        base: attr.generation,
        ..attr
    });
    fs.drain(open).await.unwrap();
    remote.crash();
    fs.flush(open, true).await.unwrap();
    let content = remote.content(&path("v")).unwrap();
    let expected = [vec![1; 4096], vec![2; 4096]].concat();
    assert_eq!(content.bytes(ByteRange::up_to(content.size)), expected);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_was_flushed_does_not_cut_what_was_flushed_with_it() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    let cut = async |size| fs.set_attr(id, Some(size), NewAttr::default()).await.unwrap();
    cut(100).await;
    write(&fs, open, 100, &[2; 3000]).await.unwrap();
    fs.drain(open).await.unwrap();
    // The next cut is answered before a flush that is under way.
    remote.delay(Delays {
        answer: Duration::from_millis(10),
        ..Delays::default()
    });
    let flushing = async { fs.flush(open, true).await.unwrap() };
    let cutting = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        remote.delay(Delays::default());
        cut(2000).await;
    };
    tokio::join!(flushing, cutting);
    remote.crash();
    fs.flush(open, true).await.unwrap();
    let content = remote.content(&path("v")).unwrap();
    let expected = [vec![1; 100], vec![2; 1900]].concat();
    assert_eq!(content.bytes(ByteRange::up_to(content.size)), expected);
}

#[tokio::test(start_paused = true)]
async fn dribbles_become_large_requests() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    for index in 0..4096 {
        write(&fs, open, index * 1024, &[3; 1024]).await.unwrap();
    }
    fs.drain(open).await.unwrap();
    assert!(remote.writes() <= 5, "{} writes for 4 MiB", remote.writes());
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_faster_than_the_server_waits_for_room() {
    let remote = MemoryRemote::default();
    let fs = mounted(&remote, 4 << 20);
    let (_, open) = fs.create(NodeId::ROOT, &name("v"), NODE, true).await.unwrap();
    let mut waited = false;
    for index in 0..64 {
        let (offset, data) = (index << 20, vec![9; 1 << 20]);
        if fs.write_now(open, offset, &data).unwrap() == WriteNow::Wait {
            waited = true;
            write(&fs, open, offset, &data).await.unwrap();
        }
        assert!(fs.shared.dirty.bytes() <= 4 << 20);
    }
    assert!(waited, "64 MiB went into 4 MiB without waiting");
    fs.flush(open, false).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().size, 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn no_space_is_told_once_to_each_handle_and_nothing_is_dropped() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    let (other, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    write(&fs, open, 0, &[1; 5000]).await.unwrap();
    remote.fail_changes_with(Some(ErrorKind::NoSpace));
    assert_eq!(
        fs.flush(open, false).await.unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    assert_eq!(
        write(&fs, open, 5000, &[2; 10]).await.unwrap_err().kind(),
        ErrorKind::NoSpace,
        "the writer hears it"
    );
    assert_eq!(bytes(&fs, open, at(0, 5000)).await, [1; 5000]);
    remote.fail_changes_with(None);
    fs.flush(open, false).await.unwrap();
    assert_eq!(remote.content(&path("v")).unwrap().bytes(at(0, 5000)), [1; 5000]);
    assert_eq!(fs.drain(other).await.unwrap_err().kind(), ErrorKind::NoSpace);
    fs.drain(other).await.unwrap();
    let (late, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    fs.drain(late).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_set_stays_after_writes_before_it() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    let (time, attr) = a_time();
    assert_eq!(fs.set_attr(id, None, attr).await.unwrap().modified, time);
    fs.flush(open, false).await.unwrap();
    assert_eq!(fs.attr(id).await.unwrap().modified, time);
}

#[tokio::test(start_paused = true)]
async fn another_program_at_the_server_does_not_take_what_is_still_to_be_sent() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    write(&fs, open, 0, &[2; 100]).await.unwrap();
    remote.change(&path("v"), |content| content.write(at(4096, 4096), 9));
    let content = remote.content(&path("v")).unwrap();
    let volume = fs.open_volumes().remove(0);
    volume.resync().await.unwrap();
    assert_eq!(content.base, volume.attr().base.0);
    assert_eq!(bytes(&fs, open, at(0, 100)).await, [2; 100]);
    assert_eq!(bytes(&fs, open, at(4096, 4096)).await, [9; 4096]);
    assert_eq!(fs.seek(open, 0, Whence::Data).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_had_before_another_program_wrote_does_not_hide_it() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.drain(open).await.unwrap();
    fs.close(open);
    remote.change(&path("v"), |content| content.write(at(0, 100), 9));
    let (open, _) = fs.open(id, Access::Read).await.unwrap();
    assert_eq!(bytes(&fs, open, at(0, 100)).await, [9; 100]);
    assert_eq!(bytes(&fs, open, at(100, 100)).await, [1; 100]);
}

#[tokio::test(start_paused = true)]
async fn own_changes_keep_the_map_and_the_cache() {
    let remote = MemoryRemote::default();
    remote.change(&path("v"), |content| content.write(at(0, 1 << 20), 5));
    let fs = mounted(&remote, CACHE / 2);
    let attr = fs.lookup(NodeId::ROOT, &name("v")).await.unwrap();
    let (open, _) = fs.open(attr.id, Access::ReadWrite).await.unwrap();
    bytes(&fs, open, at(0, 1 << 20)).await;
    let before = remote.read_bytes();
    write(&fs, open, 1 << 20, &[6; 4096]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    bytes(&fs, open, at(0, 1 << 19)).await;
    assert_eq!(remote.read_bytes(), before);
    fs.close(open);
    let (open, _) = fs.open(attr.id, Access::Read).await.unwrap();
    bytes(&fs, open, at(0, 1 << 19)).await;
    assert_eq!(
        remote.read_bytes(),
        before,
        "our own change is not somebody else's"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_volume_goes_on_while_it_is_open() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 100]).await.unwrap();
    fs.remove(NodeId::ROOT, &name("v"), false).await.unwrap();
    write(&fs, open, 100, &[2; 100]).await.unwrap();
    assert_eq!(bytes(&fs, open, at(100, 100)).await, [2; 100]);
    assert_eq!(fs.attr_now(id).unwrap().links, 0);
    fs.flush(open, false).await.unwrap();
    write(&fs, open, 200, &[3; 100]).await.unwrap();
    fs.close(open);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fs.shared.dirty.bytes(), 0);
    assert!(fs.shared.all_unsettled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_renamed_folder_takes_what_is_below_along() {
    let remote = MemoryRemote::default();
    let fs = mounted(&remote, CACHE / 2);
    let folder = fs.make_folder(NodeId::ROOT, &name("a"), NODE).await.unwrap();
    let (attr, open) = fs.create(folder.id, &name("v"), NODE, true).await.unwrap();
    let (other, _) = fs.create(NodeId::ROOT, &name("w"), NODE, true).await.unwrap();
    {
        let mut namespace = fs.namespace.lock();
        namespace.renamed(&path("a"), &path("b"), false);
        assert_eq!(namespace.path(attr.id).unwrap(), path("b/v"));
        assert_eq!(namespace.id_at(&path("a/v")), None);
        namespace.renamed(&path("w"), &path("b/v"), true);
        assert_eq!(namespace.path(other.id).unwrap(), path("b/v"));
        assert_eq!(namespace.path(attr.id).unwrap(), path("w"));
    }
    let (x, y) = (name("x"), name("y"));
    let rename = fs.rename((NodeId::ROOT, &x), (NodeId::ROOT, &y), RenameMode::Replace);
    assert_eq!(rename.await.unwrap_err().kind(), ErrorKind::NotFound);
    fs.close(open);
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_is_lost_alone_and_told_once_to_each_handle() {
    let remote = MemoryRemote::default();
    let (fs, id, open) = created(&remote).await;
    let (other, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    write(&fs, open, 0, &[1; 1 << 20]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    let position = 100 * 4096 + 5;
    remote.refuse_below(position);
    // One batch: two that are too late, one across the position, one that is not.
    for (start, len) in [(0, 100), (8192, 4096), (99 * 4096, 5 * 4096), (200 * 4096, 10)] {
        write(&fs, open, start, &vec![2; len]).await.unwrap();
    }
    let batches = remote.writes();
    assert_eq!(
        fs.flush(open, false).await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert!(
        remote.writes() - batches < 40,
        "{} requests",
        remote.writes() - batches
    );
    fs.flush(open, false).await.unwrap();
    assert_eq!(fs.drain(other).await.unwrap_err().kind(), ErrorKind::Refused);
    fs.drain(other).await.unwrap();
    let mut expected = vec![1; 1 << 20];
    // From the first page that begins after the position on.
    expected[101 * 4096..104 * 4096].fill(2);
    expected[200 * 4096..200 * 4096 + 10].fill(2);
    assert!(remote.content(&path("v")).unwrap().bytes(at(0, 1 << 20)) == expected);
    assert!(
        bytes(&fs, open, at(0, 1 << 20)).await == expected,
        "what was lost is still shown"
    );
    assert_eq!(fs.shared.counters.lost_bytes.value(), 100 + 4096 + 2 * 4096);
    // Later writes are as ever.
    write(&fs, open, 300 * 4096, &[3; 10]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    let (late, _) = fs.open(id, Access::ReadWrite).await.unwrap();
    fs.drain(late).await.unwrap();
    assert_eq!(fs.open_volumes().remove(0).unflushed_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_write_to_what_is_refused_is_judged_by_itself() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 8192]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    remote.refuse_below(8192);
    remote.delay(Delays {
        answer: Duration::from_secs(1),
        ..Delays::default()
    });
    write(&fs, open, 0, &[2; 8192]).await.unwrap();
    write(&fs, open, 1 << 20, &[3; 10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // On the wire by now; and the stream is another one.
    write(&fs, open, 100, &[4; 10]).await.unwrap();
    remote.refuse_below(0);
    assert_eq!(
        fs.flush(open, false).await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(content.bytes(at(100, 10)), [4; 10]);
    assert_eq!(content.bytes(at(1 << 20, 10)), [3; 10]);
    assert_eq!(bytes(&fs, open, at(100, 10)).await, [4; 10]);
}

#[tokio::test(start_paused = true)]
async fn holes_that_come_too_late_are_refused_alone() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    write(&fs, open, 0, &[1; 1 << 20]).await.unwrap();
    fs.flush(open, false).await.unwrap();
    remote.refuse_below(4096);
    let punched = fs.reshape(open, Reshape::Punch, at(0, 8192), false).await;
    assert_eq!(punched.unwrap_err().kind(), ErrorKind::Refused);
    fs.reshape(open, Reshape::Punch, at(4096, 8192), false)
        .await
        .unwrap();
    fs.flush(open, false).await.unwrap();
    let content = remote.content(&path("v")).unwrap();
    assert_eq!(content.bytes(at(0, 4096)), [1; 4096]);
    assert_eq!(content.bytes(at(4096, 8192)), [0; 8192]);
}
