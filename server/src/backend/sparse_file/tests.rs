//! The conformance suite over file systems of this machine, and attempts to get out of DIR.

mod change;
mod mounted;

use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType};
use tempfile::TempDir;

use super::*;
use crate::backend::conformance::{self, Fixture, path};

struct Bed {
    folder: TempDir,
    backend: SparseFiles,
    size_max: u64,
}

impl Bed {
    /// On the local disk.
    fn disk() -> Self {
        // ext4 with 4 KiB blocks ends just below 16 TiB.
        Self::on(tempfile::tempdir().unwrap(), 15 << 40)
    }

    fn tmpfs() -> Self {
        Self::on(tempfile::tempdir_in("/dev/shm").unwrap(), (1 << 63) - 4096)
    }

    fn on(folder: TempDir, size_max: u64) -> Self {
        let backend = SparseFiles::new(folder.path()).unwrap();
        Self {
            folder,
            backend,
            size_max,
        }
    }

    fn at(&self, path: &NodePath) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.folder
            .path()
            .join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    fn at_name(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn change(&self, path: &NodePath) -> std::fs::File {
        std::fs::OpenOptions::new()
            .write(true)
            .open(self.at(path))
            .unwrap()
    }
}

impl Fixture for Bed {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn make_folder(&self, path: &NodePath) {
        std::fs::create_dir(self.at(path)).unwrap();
    }

    fn make_volume(&self, path: &NodePath, size: u64) {
        std::fs::File::create(self.at(path))
            .unwrap()
            .set_len(size)
            .unwrap();
    }

    fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) {
        self.change(path).write_all_at(bytes, offset).unwrap();
    }

    fn resize(&self, path: &NodePath, size: u64) {
        self.change(path).set_len(size).unwrap();
    }

    fn size_max(&self) -> u64 {
        self.size_max
    }
}

mod on_disk {
    super::conformance::suite!(super::Bed::disk());
}

mod on_tmpfs {
    super::conformance::suite!(super::Bed::tmpfs());
}

/// Stops the other thread of a race, when an assertion fails too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn assert_hidden(bed: &Bed, name: &str) {
    let backend = &bed.backend;
    for (what, error) in [
        ("stat", backend.stat(&path(name)).err()),
        ("open", backend.open(&path(name)).err()),
        ("list", backend.list(&path(name)).err()),
    ] {
        let kind = error
            .unwrap_or_else(|| panic!("{what} of {name} was allowed"))
            .kind();
        assert!(
            matches!(kind, ErrorKind::NotFound | ErrorKind::NotFolder),
            "{what} of {name} told more than it should: {kind:?}"
        );
    }
}

#[test]
fn links_sockets_fifos_and_devices_do_not_exist() {
    let bed = Bed::disk();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::write(bed.at_name("inside"), "inside").unwrap();
    std::fs::create_dir(bed.at_name("folder")).unwrap();
    symlink(outside.path().join("secret"), bed.at_name("to-outside")).unwrap();
    symlink(outside.path(), bed.at_name("to-outside-folder")).unwrap();
    symlink("inside", bed.at_name("to-inside")).unwrap();
    symlink("folder", bed.at_name("to-inside-folder")).unwrap();
    symlink("/", bed.at_name("to-root")).unwrap();
    symlink("/proc/self/root", bed.at_name("magic")).unwrap();
    symlink("..", bed.at_name("up")).unwrap();
    symlink("loop", bed.at_name("loop")).unwrap();
    let fifo = |name: &str, kind| rustix::fs::mknodat(CWD, bed.at_name(name), kind, Mode::RUSR, 0);
    fifo("fifo", FileType::Fifo).unwrap();
    let _socket = UnixListener::bind(bed.at_name("socket")).unwrap();
    let mut hidden = vec![
        "to-outside",
        "to-outside-folder",
        "to-outside-folder/secret",
        "to-inside",
        "to-inside-folder",
        "to-root",
        "to-root/etc/passwd",
        "magic",
        "magic/etc/passwd",
        "up",
        "loop",
        "fifo",
        "socket",
    ];
    let null = rustix::fs::makedev(1, 3);
    match rustix::fs::mknodat(
        CWD,
        bed.at_name("null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        null,
    ) {
        Ok(()) => hidden.push("null"),
        Err(Errno::PERM) => eprintln!("SKIPPED: making a device node needs root"),
        Err(errno) => panic!("mknod: {errno}"),
    }
    for name in hidden {
        assert_hidden(&bed, name);
    }
    let shown: Vec<_> = bed
        .backend
        .list(&NodePath::root())
        .unwrap()
        .into_iter()
        .map(|entry| entry.0.to_string())
        .collect();
    assert_eq!(shown, ["folder", "inside"]);
}

#[test]
fn no_path_with_dots_or_a_leading_slash_can_be_said() {
    for bad in ["..", "../x", "a/../../x", "/etc/passwd", "./x"] {
        assert!(NodePath::new(bad.as_bytes()).is_err());
    }
}

/// One thread swaps a folder with a link to the outside as fast as it can; the other opens through it.
#[test]
fn a_folder_swapped_for_a_link_never_leads_outside() {
    let bed = Bed::disk();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("v"), "secret").unwrap();
    std::fs::create_dir(bed.at_name("f")).unwrap();
    std::fs::write(bed.at_name("f/v"), "public").unwrap();
    symlink(outside.path(), bed.at_name("g")).unwrap();
    let (f, g) = (bed.at_name("f"), bed.at_name("g"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &f, CWD, &g, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut opened, mut refused) = (0_u32, 0_u32);
        // At least 10,000 attempts, and more until the scheduler let both sides win.
        while opened + refused < 10_000 || (opened.min(refused) < 100 && opened + refused < 10_000_000) {
            match bed.backend.open(&path("f/v")) {
                Ok(volume) => {
                    let mut text = [0; 6];
                    volume.read_at(&mut text, 0).unwrap();
                    assert_eq!(&text, b"public");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(
            opened > 0 && refused > 0,
            "no race: {opened} opened, {refused} refused"
        );
    });
}

/// The same with a volume and a FIFO: an open that fell for it would block for ever.
#[test]
fn a_volume_swapped_for_a_fifo_never_blocks() {
    let bed = Bed::tmpfs();
    std::fs::write(bed.at_name("v"), "public").unwrap();
    rustix::fs::mknodat(CWD, bed.at_name("w"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let (v, w) = (bed.at_name("v"), bed.at_name("w"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &v, CWD, &w, rustix::fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..10_000 {
            if let Ok(volume) = bed.backend.open(&path("v")) {
                assert_eq!(volume.attr().unwrap().size, 6);
            }
        }
    });
}

#[test]
fn the_export_stays_the_same_when_its_folder_is_renamed() {
    let above = tempfile::tempdir().unwrap();
    std::fs::create_dir(above.path().join("a")).unwrap();
    let backend = SparseFiles::new(&above.path().join("a")).unwrap();
    std::fs::write(above.path().join("a/v"), "v").unwrap();
    std::fs::rename(above.path().join("a"), above.path().join("b")).unwrap();
    symlink("/etc", above.path().join("a")).unwrap();
    assert!(backend.stat(&path("v")).is_ok());
    assert!(backend.stat(&path("passwd")).is_err());
}

#[test]
fn a_bad_folder_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (name, kind) in [("missing", ErrorKind::NotFound), ("file", ErrorKind::NotFolder)] {
        let error = SparseFiles::new(&folder.path().join(name)).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(
            error.to_string().contains(name) && error.to_string().contains(';'),
            "{error}"
        );
    }
}

#[test]
fn an_unwritten_reservation_is_a_hole_until_it_is_written() {
    let bed = Bed::disk();
    bed.make_volume(&path("v"), 1 << 20);
    let file = bed.change(&path("v"));
    if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).is_err() {
        eprintln!("SKIPPED: no fallocate on this file system");
        return;
    }
    bed.write(&path("v"), 4096, b"x");
    let volume = bed.backend.open(&path("v")).unwrap();
    let extents = volume
        .extents(lacuna_transport::range::ByteRange::ALL, 10)
        .unwrap();
    let data = extents.iter().find(|extent| extent.range.contains(4096)).unwrap();
    assert_eq!(data.kind, lacuna_transport::extent::ExtentKind::Data);
}

/// Extents of a file that is cut and grown all the time: each answer tiles, ends, and stays in bounds.
#[test]
fn extents_of_a_volume_that_changes_all_the_time_are_sound() {
    let bed = Bed::tmpfs();
    bed.make_volume(&path("v"), 1 << 20);
    let volume = bed.backend.open(&path("v")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            let file = bed.change(&path("v"));
            let mut round = 0_u64;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                file.set_len(round * 7919 % (1 << 20)).unwrap();
                file.write_all_at(&[1; 5000], round * 104_729 % (1 << 20))
                    .unwrap();
            }
        });
        for _ in 0..5_000 {
            let mut at = 0;
            for extent in volume
                .extents(lacuna_transport::range::ByteRange::ALL, 1000)
                .unwrap()
            {
                assert_eq!(extent.range.start(), at);
                at = extent.range.end();
                assert!(at <= (1 << 20) + 5000);
            }
        }
    });
}

/// Those that exclude each other do it in one order.
#[test]
fn changes_of_all_kinds_at_once_come_to_an_end() {
    use lacuna_transport::range::ByteRange;

    let bed = Bed::tmpfs();
    bed.make_volume(&path("v"), 1 << 20);
    let volume = bed.backend.open(&path("v")).unwrap();
    let at = |start: u64| ByteRange::at(start, 8192).unwrap();
    let repeat = |work: &(dyn Fn(u64) -> Result<()> + Sync)| {
        for round in 0..3_000 {
            work(round % 64 * 8192).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| repeat(&|start| volume.write_at(&[7; 4096], start)));
            scope.spawn(|| repeat(&|start| volume.punch(at(start))));
            // At the end, which takes all others out.
            scope.spawn(|| repeat(&|start| volume.punch(at((1 << 20) - 8192 + start))));
            scope.spawn(|| repeat(&|start| volume.zero(at(start), true)));
        }
    });
    assert_eq!(volume.attr().unwrap().size, 1 << 20);
}
