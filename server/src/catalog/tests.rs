//! The catalog: who is told of what, and when a volume is forgotten.

use std::io::Write;
use std::path::Path;

use lacuna_transport::path::NodePath;

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

    fn open(&self, name: &str, handle: u64, events: &Arc<EventQueue>) -> (OpenNode, Attr) {
        let volume = self
            .backend
            .open(&NodePath::new(name.as_bytes()).unwrap())
            .unwrap();
        self.catalog.open(volume, Handle(handle), events).unwrap()
    }

    fn report(&self) {
        self.catalog.watcher.as_ref().expect("inotify").report().unwrap();
    }
}

#[tokio::test]
async fn a_write_by_another_program_reaches_every_opener() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let (queue, other) = (Arc::new(EventQueue::default()), Arc::new(EventQueue::default()));
    let (_a, attr) = bed.open("v", 1, &queue);
    let (_b, _) = bed.open("v", 2, &queue);
    let (_c, _) = bed.open("v", 1, &other);
    bed.write("v", b"two");
    bed.report();
    let mut changes = queue.take().await.unwrap();
    changes.sort_by_key(|change| change.handle);
    assert_eq!(
        changes.iter().map(|change| change.handle).collect::<Vec<_>>(),
        [Handle(1), Handle(2)]
    );
    assert!(changes[0].generation() > attr.generation);
    assert_eq!(changes[0].attr.size, 6);
    assert_eq!(changes[0].range(), ByteRange::ALL);
    assert_eq!(other.take().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_look_notices_a_change_without_any_report() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let queue = Arc::new(EventQueue::default());
    let (open, attr) = bed.open("v", 1, &queue);
    assert!(open.is_still(attr.generation));
    bed.write("v", b"two");
    assert!(!open.is_still(attr.generation));
    assert_eq!(queue.take().await.unwrap().len(), 1);
}

#[test]
fn all_see_one_generation_and_it_survives_a_restart() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let queue = Arc::new(EventQueue::default());
    let (_open, attr) = bed.open("v", 1, &queue);
    let path = NodePath::new(b"v").unwrap();
    let by_path = bed.catalog.with_generation(bed.backend.stat(&path).unwrap());
    if bed.backend.clock_tick().is_zero() {
        assert_eq!(by_path.generation, attr.generation);
        let restarted = Catalog::new(bed.backend.clock_tick());
        assert_eq!(
            restarted
                .with_generation(bed.backend.stat(&path).unwrap())
                .generation,
            attr.generation
        );
    }
}

#[test]
fn a_change_while_closed_is_a_new_generation() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let queue = Arc::new(EventQueue::default());
    let (open, before) = bed.open("v", 1, &queue);
    drop(open);
    bed.write("v", b"two");
    bed.report();
    let (_open, after) = bed.open("v", 2, &queue);
    assert!(after.generation > before.generation);
}

#[test]
fn a_file_that_replaces_another_is_another_node() {
    let bed = Bed::new();
    bed.write("v", b"one");
    bed.write("w", b"two");
    let queue = Arc::new(EventQueue::default());
    let (open, before) = bed.open("v", 1, &queue);
    std::fs::rename(bed.folder.path().join("w"), bed.folder.path().join("v")).unwrap();
    let mut old = [0; 3];
    open.volume().read_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"one", "an open volume stays what it was");
    let (_new, after) = bed.open("v", 2, &queue);
    assert_ne!(before.id, after.id);
}

#[test]
fn openers_share_a_descriptor_and_the_last_one_closes_it() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let queue = Arc::new(EventQueue::default());
    let (a, _) = bed.open("v", 1, &queue);
    let (b, _) = bed.open("v", 2, &queue);
    assert!(Arc::ptr_eq(&a.volume, &b.volume));
    let weak = Arc::downgrade(&a.volume);
    drop((a, b));
    assert!(weak.upgrade().is_none());
}

#[test]
fn closed_volumes_are_forgotten_before_open_ones() {
    let bed = Bed::new();
    let queue = Arc::new(EventQueue::default());
    let mut opened = Vec::new();
    for index in 0..20 {
        let name = format!("v{index}");
        bed.write(&name, b"x");
        opened.push(bed.open(&name, index, &queue));
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
    assert!(!kept[4].0.is_still(attr.generation));
}

/// The kernel moves the change time when a write begins and reports it when it is done. A look in
/// between has the new stamp and the old bytes, so the report must count, although the stamp is known.
#[test]
fn a_report_counts_even_if_the_stamp_was_seen_already() {
    let bed = Bed::new();
    bed.write("v", b"one");
    let queue = Arc::new(EventQueue::default());
    let (open, _) = bed.open("v", 1, &queue);
    bed.write("v", b"two");
    let seen = open.look().unwrap();
    bed.report();
    let reported = open.look().unwrap();
    assert_eq!(Stamp::of(&seen), Stamp::of(&reported));
    assert!(reported.generation > seen.generation);
    bed.report();
    assert!(open.is_still(reported.generation), "and it counts once");
}
