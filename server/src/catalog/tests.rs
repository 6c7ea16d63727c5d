//! The catalog: who is told of what, and when a volume is forgotten.

use std::io::Write;
use std::path::Path;

use lacuna_transport::path::NodePath;

use lacuna_transport::id::Generation;
use lacuna_transport::range::ByteRange;

use lacuna_transport::wire::event::Event;

use super::*;
use crate::backend::Backend;
use crate::backend::sparse_file::SparseFiles;

struct Bed {
    folder: tempfile::TempDir,
    backend: SparseFiles,
    catalog: Catalog,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = SparseFiles::new(folder.path()).unwrap();
        let catalog = Catalog::new(backend.clock_tick());
        Self {
            folder,
            backend,
            catalog,
        }
    }

    fn write(&self, name: &str, text: &[u8]) {
        let path: &Path = self.folder.path();
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path.join(name))
            .unwrap()
            .write_all(text)
            .unwrap();
    }

    fn open(&self, name: &str, handle: u64, party: &Party) -> (OpenNode, Attr) {
        let volume = self
            .backend
            .open(&NodePath::new(name.as_bytes()).unwrap())
            .unwrap();
        self.catalog.open(volume, Handle(handle), party, true).unwrap()
    }

    fn stat(&self, name: &str, session: u64) -> Attr {
        let path = NodePath::new(name.as_bytes()).unwrap();
        self.catalog
            .with_generation(self.backend.stat(&path).unwrap(), session)
    }

    fn descriptors(&self, name: &str) -> usize {
        let path = self.folder.path().join(name).canonicalize().unwrap();
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| *target == path)
            .count()
    }

    fn report(&self) {
        self.catalog.watcher.as_ref().expect("inotify").report().unwrap();
    }
}

fn party(session: u64) -> Party {
    Party {
        session,
        events: Arc::default(),
    }
}

#[tokio::test]
async fn a_write_by_another_program_reaches_every_opener() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let (one, two) = (party(1), party(2));
    let (_a, attr) = bed.open("v", 1, &one);
    let (_b, _) = bed.open("v", 2, &one);
    let (_c, _) = bed.open("v", 1, &two);
    bed.write("v", b"two");
    bed.report();
    let events = one.events.take().await.unwrap();
    let mut changes: Vec<_> = events
        .into_iter()
        .map(|event| match event {
            Event::VolumeChanged(change) => change,
            other => panic!("{other:?}"),
        })
        .collect();
    changes.sort_by_key(|change| change.handle);
    assert_eq!(
        changes.iter().map(|change| change.handle).collect::<Vec<_>>(),
        [Handle(1), Handle(2)]
    );
    assert!(changes[0].generation() > attr.generation);
    assert_eq!(changes[0].attr.size, 6);
    assert_eq!(changes[0].range(), ByteRange::ALL);
    assert_eq!(two.events.take().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_look_notices_a_change_without_any_report() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (open, attr) = bed.open("v", 1, &one);
    assert!(open.is_still(attr.base));
    bed.write("v", b"two");
    assert!(!open.is_still(attr.base));
    assert_eq!(one.events.take().await.unwrap().len(), 1);
}

#[test]
fn all_see_one_generation_and_it_survives_a_restart() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (_open, attr) = bed.open("v", 1, &one);
    let path = NodePath::new(b"v").unwrap();
    let by_path = bed.catalog.with_generation(bed.backend.stat(&path).unwrap(), 9);
    if bed.backend.clock_tick().is_zero() {
        assert_eq!(by_path.generation, attr.generation);
        let restarted = Catalog::new(bed.backend.clock_tick());
        assert_eq!(
            restarted
                .with_generation(bed.backend.stat(&path).unwrap(), 9)
                .generation,
            attr.generation
        );
    }
}

#[test]
fn a_change_while_closed_is_a_new_generation() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (open, before) = bed.open("v", 1, &one);
    drop(open);
    bed.write("v", b"two");
    bed.report();
    let (_open, after) = bed.open("v", 2, &one);
    assert!(after.generation > before.generation);
}

#[test]
fn a_file_that_replaces_another_is_another_node() {
    let bed = Bed::new();
    bed.write("v", b"one");
    bed.write("w", b"two");
    let one = party(1);
    let (open, before) = bed.open("v", 1, &one);
    std::fs::rename(bed.folder.path().join("w"), bed.folder.path().join("v")).unwrap();
    let mut old = [0; 3];
    open.volume().read_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"one", "an open volume stays what it was");
    let (_new, after) = bed.open("v", 2, &one);
    assert_ne!(before.id, after.id);
}

#[test]
fn openers_share_a_descriptor_and_the_last_one_closes_it() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (a, _) = bed.open("v", 1, &one);
    let (b, _) = bed.open("v", 2, &one);
    assert!(a.is_same(&b) && std::ptr::addr_eq(a.volume(), b.volume()));
    let descriptors = || bed.descriptors("v");
    assert_eq!(descriptors(), 2, "one to read, one to write");
    drop(a);
    assert_eq!(descriptors(), 2);
    drop(b);
    assert_eq!(descriptors(), 0);
}

#[test]
fn closed_volumes_are_forgotten_before_open_ones() {
    let bed = Bed::new();
    let one = party(1);
    let mut opened = Vec::new();
    for index in 0..20 {
        let name = format!("v{index}");
        bed.write(&name, b"x");
        opened.push(bed.open(&name, index, &one));
    }
    let kept = opened.split_off(15);
    drop(opened);
    let mut nodes = bed.catalog.nodes.lock();
    forget(&mut nodes, 100);
    assert_eq!(nodes.len(), kept.len());
    assert!(kept.iter().all(|(_, attr)| nodes.contains_key(&attr.id)));
    drop(nodes);
    bed.write("v19", b"y");
    bed.report();
    let (_open, attr) = &kept[4];
    assert!(!kept[4].0.is_still(attr.base));
}

/// The kernel moves the change time when a write begins and reports it when it is done. A look in
/// between has the new stamp and the old bytes, so the report must count, although the stamp is known.
#[test]
fn a_report_counts_even_if_the_stamp_was_seen_already() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (open, _) = bed.open("v", 1, &one);
    bed.write("v", b"two");
    let seen = open.look().unwrap();
    bed.report();
    let reported = open.look().unwrap();
    assert_eq!(Stamp::of(&seen), Stamp::of(&reported));
    assert!(reported.generation > seen.generation);
    bed.report();
    assert!(open.is_still(reported.base), "and it counts once");
}

fn write(open: &OpenNode, offset: u64, bytes: &[u8]) -> Attr {
    let range = ByteRange::at(offset, u64::try_from(bytes.len()).unwrap()).unwrap();
    open.change(|_| range, |volume| volume.write_at(bytes, offset))
        .unwrap()
        .1
}

fn told(party: &Party) -> Vec<(Handle, ByteRange, Generation)> {
    let changes = party.events.try_take().unwrap().unwrap_or_default();
    let mut told: Vec<_> = changes
        .iter()
        .map(|change| (change.handle, change.range(), change.attr.base))
        .collect();
    told.sort_by_key(|(handle, ..)| *handle);
    told
}

#[test]
fn an_own_change_leaves_the_base_and_tells_the_others_where() {
    let bed = Bed::new();
    bed.write("v", &[7; 100]);
    let (one, two) = (party(1), party(2));
    let (a, opened) = bed.open("v", 1, &one);
    let (again, _) = bed.open("v", 2, &one);
    let (b, _) = bed.open("v", 1, &two);
    assert_eq!(opened.base, opened.generation);
    let written = write(&a, 10, b"mine");
    assert!(written.generation > opened.generation);
    assert_eq!(written.base, opened.base);
    for attr in [a.look().unwrap(), again.look().unwrap(), bed.stat("v", 1)] {
        assert_eq!((attr.generation, attr.base), (written.generation, opened.base));
    }
    for attr in [b.look().unwrap(), bed.stat("v", 2), bed.stat("v", 77)] {
        assert_eq!(
            (attr.generation, attr.base),
            (written.generation, written.generation)
        );
    }
    assert_eq!(told(&one), []);
    let range = ByteRange::at(10, 4).unwrap();
    assert_eq!(told(&two), [(Handle(1), range, written.generation)]);
    let (_late, late) = bed.open("v", 3, &one);
    assert_eq!(late.base, opened.base, "handles of a session share it");
    let (_third, third) = bed.open("v", 1, &party(3));
    assert_eq!(third.base, written.generation);
}

#[test]
fn reports_of_an_own_change_are_not_foreign_and_those_of_others_are() {
    let bed = Bed::new();
    bed.write("v", &[7; 100]);
    let one = party(1);
    let (a, opened) = bed.open("v", 1, &one);
    for offset in 0..20 {
        write(&a, offset, b"mine");
    }
    bed.report();
    assert!(a.is_still(opened.base));
    assert_eq!(told(&one), []);
    bed.write("v", b"theirs");
    bed.report();
    let now = a.look().unwrap();
    assert!(now.base > opened.base && now.base == now.generation);
    assert_eq!(told(&one), [(Handle(1), ByteRange::ALL, now.base)]);
    let mine = write(&a, 0, b"mine");
    bed.report();
    assert_eq!(mine.base, now.base);
    assert_eq!(told(&one), []);
}

#[test]
fn what_others_did_before_an_own_change_is_noticed_first() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let one = party(1);
    let (a, opened) = bed.open("v", 1, &one);
    bed.write("v", b"theirs");
    let written = write(&a, 0, b"mine");
    assert!(opened.generation < written.base && written.base < written.generation);
    assert_eq!(told(&one), [(Handle(1), ByteRange::ALL, written.base)]);
}

/// A read that races with writes of its own session must not take them for changes of others.
#[test]
fn looks_during_an_own_change_attribute_it_to_its_maker() {
    let bed = Bed::new();
    bed.write("v", &[7; 100]);
    let (one, two) = (party(1), party(2));
    let (a, opened) = bed.open("v", 1, &one);
    let (b, _) = bed.open("v", 1, &two);
    let range = ByteRange::at(40, 5).unwrap();
    let (in_between, attr) = a
        .change(
            |_| range,
            |volume| {
                volume.write_at(b"begun", 40)?;
                bed.report();
                let seen = b.look().unwrap();
                assert!(a.is_still(opened.base), "a read of the maker goes on");
                assert_eq!(told(&two), [(Handle(1), range, seen.base)]);
                Ok(seen)
            },
        )
        .unwrap();
    assert!(in_between.generation > opened.generation);
    assert!(
        attr.generation > in_between.generation,
        "the end counts, whatever the stamp says"
    );
    assert_eq!(attr.base, opened.base);
    assert_eq!(told(&two), [(Handle(1), range, attr.generation)]);
    bed.report();
    assert!(a.is_still(opened.base) && b.is_still(attr.generation));
}

#[test]
fn changes_of_one_session_at_once_are_all_its_own() {
    let bed = Bed::new();
    bed.write("v", &[7; 4096]);
    let (one, two) = (party(1), party(2));
    let (a, opened) = bed.open("v", 1, &one);
    let (_b, _) = bed.open("v", 1, &two);
    std::thread::scope(|scope| {
        for lane in 0..4_u64 {
            let a = &a;
            scope.spawn(move || {
                for round in 0..200 {
                    let attr = write(a, lane * 1000 + round, b"x");
                    assert_eq!(attr.base, opened.base);
                }
            });
        }
        for _ in 0..200 {
            bed.report();
            assert!(a.is_still(opened.base));
        }
    });
    bed.report();
    assert!(a.is_still(opened.base));
    assert_eq!(told(&one), []);
    let all = told(&two);
    assert_eq!(all[0].1, ByteRange::new(0, 3200).unwrap());
}

#[test]
fn two_sessions_changing_at_once_are_foreign_to_each_other() {
    let bed = Bed::new();
    bed.write("v", &[7; 100]);
    let (one, two, idle) = (party(1), party(2), party(3));
    let (a, _) = bed.open("v", 1, &one);
    let (b, _) = bed.open("v", 1, &two);
    let (_c, _) = bed.open("v", 1, &idle);
    let (first, second) = (ByteRange::at(0, 4).unwrap(), ByteRange::at(50, 4).unwrap());
    let change = |volume: &dyn OpenVolume| {
        volume.write_at(b"aaaa", 0)?;
        write(&b, 50, b"bbbb");
        Ok(())
    };
    let ((), attr) = a.change(|_| first, change).unwrap();
    assert!(attr.base < attr.generation, "its own end is its own");
    assert_eq!(told(&one)[0].1, second);
    assert_eq!(told(&two)[0].1, first);
    assert_eq!(told(&idle)[0].1, ByteRange::new(0, 54).unwrap());
    assert_eq!(b.look().unwrap().base, attr.generation);
}

#[test]
fn a_change_of_attributes_voids_nothing() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let (one, two) = (party(1), party(2));
    let (a, opened) = bed.open("v", 1, &one);
    let (_b, _) = bed.open("v", 1, &two);
    let change = bed.catalog.change_attr(&bed.stat("v", 1), 1).unwrap();
    let path = bed.folder.path();
    std::fs::rename(path.join("v"), path.join("w")).unwrap();
    let attr = change.end().unwrap();
    bed.report();
    assert!(attr.generation > opened.generation && attr.base == opened.base);
    assert!(a.is_still(opened.base));
    assert_eq!(told(&two), [(Handle(1), ByteRange::EMPTY, attr.generation)]);
}

#[test]
fn an_error_or_panic_during_a_change_ends_it() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let (one, two) = (party(1), party(2));
    let (a, opened) = bed.open("v", 1, &one);
    let (b, _) = bed.open("v", 1, &two);
    let failed = a.change(
        |_| ByteRange::up_to(3),
        |volume| {
            volume.write_at(b"par", 0)?;
            Err::<(), _>(Error::new(ErrorKind::NoSpace, "planned"))
        },
    );
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(told(&two)[0].1, ByteRange::up_to(3));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        a.change(|_| ByteRange::up_to(3), |_| -> Result<()> { panic!("planned") })
    }));
    assert!(panicked.is_err());
    assert!(a.is_still(opened.base));
    told(&two);
    bed.write("v", b"theirs");
    bed.report();
    assert!(!a.is_still(opened.base), "nothing is under way any more");
    assert_eq!(told(&two)[0].1, ByteRange::ALL);
    drop(b);
}

#[test]
fn each_opener_is_told_once_of_a_failed_flush() {
    use crate::backend::fault::{Call, Fault, Faulty, Plan};
    use crate::backend::memory::Memory;

    let plan = Arc::new(Plan::default());
    let memory = Memory::default();
    let path = NodePath::new(b"v").unwrap();
    memory.put_volume(&path, 1);
    let backend = Faulty::new(Arc::new(memory), Arc::clone(&plan));
    let catalog = Catalog::new(backend.clock_tick());
    let open = |session| {
        let volume = backend.open(&path).unwrap();
        catalog.open(volume, Handle(1), &party(session), true).unwrap().0
    };
    let (a, b) = (open(1), open(2));
    plan.next(Call::Flush, Fault::Fail(ErrorKind::NoSpace));
    assert_eq!(a.flush(true).unwrap_err().kind(), ErrorKind::NoSpace);
    a.flush(true).unwrap();
    assert_eq!(b.flush(false).unwrap_err().kind(), ErrorKind::NoSpace);
    b.flush(false).unwrap();
    open(3).flush(true).unwrap();
}
