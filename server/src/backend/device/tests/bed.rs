//! Loop devices for tests, and an export that has some.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use lacuna_transport::path::{NodeName, NodePath};
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::super::Device;
use super::search;
use crate::backend::conformance::Fixture;
use crate::backend::export::{Export, NamedVolume};
use crate::backend::memory::Memory;
use crate::backend::{Backend, OpenVolume};

/// Most volumes of one test.
const VOLUMES_MAX: usize = 128;

/// A file of zeros as a block device; detached when dropped.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    backing: File,
    _below: Below,
}

/// A folder for the file of a device; unmounted and removed when dropped.
#[derive(Debug)]
struct Below {
    folder: TempDir,
    mounted: bool,
}

impl Below {
    fn tmpfs() -> Self {
        Self {
            folder: tempfile::tempdir_in("/dev/shm").unwrap(),
            mounted: false,
        }
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: the device may hold its file for a moment yet.
            let _ = rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH);
        }
    }
}

impl LoopDevice {
    pub(super) fn of(bytes: u64) -> Self {
        Self::attach(Below::tmpfs(), bytes, &[])
    }

    pub(super) fn read_only(bytes: u64) -> Self {
        Self::attach(Below::tmpfs(), bytes, &["--read-only"])
    }

    /// On ramfs, which has no way to free a part of a file.
    pub(super) fn without_discard(bytes: u64) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let ramfs = Command::new("mount")
            .args(["-t", "ramfs", "lacuna-test"])
            .arg(folder.path())
            .status();
        assert!(ramfs.unwrap().success(), "mounting needs root");
        let below = Below {
            folder,
            mounted: true,
        };
        Self::attach(below, bytes, &[])
    }

    fn attach(below: Below, bytes: u64, options: &[&str]) -> Self {
        let file = below.folder.path().join("disk");
        let backing = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&file)
            .unwrap();
        backing.set_len(bytes).unwrap();
        let output = Command::new("losetup")
            .args(options)
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "a loop device needs root: {said}");
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Self {
            path,
            backing,
            _below: below,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the device keeps its bytes in.
    pub(super) fn backing(&self) -> &File {
        &self.backing
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // There is nobody to tell here.
        let mut losetup = Command::new("losetup");
        let _ = losetup
            .arg("--detach")
            .arg(&self.path)
            .stderr(Stdio::null())
            .status();
    }
}

/// A folder in memory, and a loop device for each volume that is made. An export does not change, so that there
/// is another one after each.
pub(super) struct Bed {
    folder: Arc<Memory>,
    exports: [OnceLock<Export>; VOLUMES_MAX],
    latest: Cell<usize>,
    named: Mutex<BTreeMap<NodeName, Arc<dyn NamedVolume>>>,
    disks: Mutex<Vec<LoopDevice>>,
}

impl Default for Bed {
    fn default() -> Self {
        let bed = Self {
            folder: Arc::default(),
            exports: [const { OnceLock::new() }; VOLUMES_MAX],
            latest: Cell::new(0),
            named: Mutex::default(),
            disks: Mutex::default(),
        };
        bed.export();
        bed
    }
}

impl Bed {
    fn export(&self) {
        let folder: Arc<dyn Backend> = self.folder.clone();
        let export = Export::new(folder, self.named.lock().clone()).unwrap();
        self.exports[self.latest.get()].set(export).unwrap();
    }

    fn open(&self, path: &NodePath) -> Arc<dyn OpenVolume> {
        let volume = self.backend().open(path).unwrap();
        volume.ready_to_change().unwrap();
        volume
    }
}

impl Fixture for Bed {
    fn backend(&self) -> &dyn Backend {
        self.exports[self.latest.get()].get().unwrap()
    }

    fn make_folder(&self, path: &NodePath) {
        self.folder.put_folder(path);
    }

    fn make_volume(&self, path: &NodePath, size: u64) {
        let disk = LoopDevice::of(size.next_multiple_of(512));
        let name = NodeName::new(path.as_bytes()).unwrap();
        let device = Device::open(&name, disk.path(), false).unwrap();
        search(&device);
        self.named.lock().insert(name, Arc::new(device));
        self.disks.lock().push(disk);
        self.latest.set(self.latest.get() + 1);
        self.export();
    }

    /// Nobody else may write to a device that is served.
    fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) {
        self.open(path).write_at(bytes, offset).unwrap();
    }

    fn resize(&self, path: &NodePath, size: u64) {
        self.open(path).resize(size).unwrap();
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn size_max(&self) -> u64 {
        1 << 30
    }
}
