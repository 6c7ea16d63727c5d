//! Changes in a folder of this machine: what is not shown is not touched, and what only a kernel can say.

use lacuna_transport::attr::NewNode;
use lacuna_transport::wire::message::RenameMode;

use super::mounted::Mounted;
use super::*;

const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

#[test]
fn what_is_not_shown_is_not_touched() {
    let bed = Bed::disk();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    symlink(&secret, bed.at_name("link")).unwrap();
    symlink(outside.path(), bed.at_name("folder-link")).unwrap();
    symlink("nowhere", bed.at_name("dangling")).unwrap();
    rustix::fs::mknodat(CWD, bed.at_name("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::fs::write(bed.at_name("v"), "v").unwrap();
    std::fs::create_dir(bed.at_name("f")).unwrap();
    let backend = &bed.backend;
    let create = |name: &str, exclusive| backend.create(&path(name), &NODE, exclusive, &mut |_| {});
    let rename = |from: &str, to: &str, mode| backend.rename(&path(from), &path(to), mode);
    use RenameMode::{Exchange, Keep, Replace};
    for name in ["link", "folder-link", "dangling", "fifo"] {
        assert_eq!(kind(create(name, true)), ErrorKind::Exists);
        assert_eq!(kind(create(name, false)), ErrorKind::Exists);
        assert_eq!(kind(backend.make_folder(&path(name), &NODE)), ErrorKind::Exists);
        for folder in [true, false] {
            let removed = backend.remove(&path(name), folder, None);
            assert_eq!(kind(removed), ErrorKind::NotFound);
        }
        for mode in [Replace, Keep, Exchange] {
            assert_eq!(kind(rename("v", name, mode)), ErrorKind::Exists);
            assert_eq!(kind(rename("f", name, mode)), ErrorKind::Exists);
            assert_eq!(kind(rename(name, "new", mode)), ErrorKind::NotFound);
        }
        assert_eq!(
            kind(backend.set_attr(&path(name), &NewAttr::default())),
            ErrorKind::NotFound
        );
    }
    // Nothing is told of what a link leads to; the link itself is no folder.
    let hidden = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotFolder);
    for name in ["folder-link/secret", "folder-link/new"] {
        assert!(hidden(kind(create(name, false))));
        assert!(hidden(kind(backend.make_folder(&path(name), &NODE))));
        assert!(hidden(kind(backend.remove(&path(name), false, None))));
        assert!(hidden(kind(rename("v", name, Replace))));
    }
    assert!(hidden(kind(backend.flush_folder(&path("folder-link")))));
    // A folder that holds only what is not shown is not empty.
    rustix::fs::mknodat(CWD, bed.at_name("f/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(kind(backend.remove(&path("f"), true, None)), ErrorKind::NotEmpty);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(bed.folder.path()).unwrap().count(), 6);
}

/// One thread swaps a volume with a link to the outside; the other removes, creates and renames over it.
#[test]
fn races_with_links_never_touch_what_is_behind_them() {
    let bed = Bed::tmpfs();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    symlink(&secret, bed.at_name("swap")).unwrap();
    std::fs::write(bed.at_name("v"), "public").unwrap();
    let (v, swap) = (bed.at_name("v"), bed.at_name("swap"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Missing while the other side has one of them.
                let _ = rustix::fs::renameat_with(CWD, &v, CWD, &swap, rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        for round in 0..3_000_u32 {
            if let Ok(created) = bed.backend.create(&path("v"), &NODE, false, &mut |_| {}) {
                created.volume.write_at(b"public", 0).unwrap();
            }
            let new = NewAttr {
                mode: Some(0o600 + round % 8),
                ..NewAttr::default()
            };
            let _ = bed.backend.set_attr(&path("v"), &new);
        }
    });
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&secret.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_volume_too_large_for_its_file_system_is_said_so() {
    let bed = Bed::disk();
    bed.make_volume(&path("v"), 0);
    let volume = bed.backend.open(&path("v")).unwrap();
    let end = lacuna_transport::limits::VOLUME_BYTES_MAX;
    match volume.resize(end) {
        Ok(()) => eprintln!("SKIPPED: this file system has no smaller bound than lacuna"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert_eq!(kind(volume.write_at(b"x", end - 1)), ErrorKind::TooLarge);
            let last = ByteRange::new(end - 4096, end).unwrap();
            assert_eq!(kind(volume.allocate(last, true)), ErrorKind::TooLarge);
        }
    }
}

#[test]
fn a_full_file_system_is_no_space_and_keeps_what_was_there() {
    let Some(mounted) = Mounted::tmpfs(4 << 20) else {
        return;
    };
    let folder = tempfile::tempdir_in(mounted.path()).unwrap();
    let bed = Bed::on(folder, 1 << 40);
    bed.make_volume(&path("v"), 0);
    let volume = bed.backend.open(&path("v")).unwrap();
    volume.write_at(&vec![1; 1 << 20], 0).unwrap();
    let large = vec![2; 8 << 20];
    assert_eq!(kind(volume.write_at(&large, 1 << 20)), ErrorKind::NoSpace);
    volume.resize(1 << 20).unwrap();
    let beyond = ByteRange::new(1 << 20, 64 << 20).unwrap();
    assert_eq!(kind(volume.allocate(beyond, true)), ErrorKind::NoSpace);
    assert_eq!(kind(volume.zero(beyond, true)), ErrorKind::NoSpace);
    let mut bytes = vec![0; 1 << 20];
    volume.read_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 1));
    volume.punch(ByteRange::up_to(1 << 20)).unwrap();
    volume.write_at(&vec![3; 1 << 20], 0).unwrap();
}

#[test]
fn other_file_systems_below_are_another_device() {
    let Some(mounted) = Mounted::tmpfs(1 << 20) else {
        return;
    };
    let above = mounted.path().parent().unwrap();
    let backend = SparseFiles::new(above).unwrap();
    std::fs::write(above.join("v"), "text").unwrap();
    let renamed = backend.rename(&path("v"), &path("mounted/v"), RenameMode::Replace);
    assert_eq!(kind(renamed), ErrorKind::CrossDevice);
    assert_eq!(
        kind(backend.remove(&path("mounted"), true, None)),
        ErrorKind::Busy
    );
    // A copy works all the same, through memory if the kernel cannot.
    let source = backend.open(&path("v")).unwrap();
    let made = backend.create(&path("mounted/v"), &NODE, true, &mut |_| {});
    let target = made.unwrap().volume;
    let copied = backend.copy(&*source, ByteRange::ALL, &*target, 0);
    assert_eq!(copied.unwrap(), 4);
    assert_eq!(std::fs::read_to_string(above.join("mounted/v")).unwrap(), "text");
}
