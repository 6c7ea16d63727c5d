//! File systems that are mounted for a test, where it runs as root and their tools are there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

use super::*;

/// A file system on a folder of its own; unmounted, and its loop device detached, when dropped.
pub(super) struct Mounted {
    _above: TempDir,
    at: PathBuf,
    device: Option<String>,
}

fn run(tool: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(tool).args(arguments).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn skip<T>(kind: &str, why: &str) -> Option<T> {
    eprintln!("SKIPPED: no {kind} to test on: {why}");
    None
}

impl Mounted {
    /// tmpfs of so many bytes.
    pub(super) fn tmpfs(bytes: u32) -> Option<Self> {
        let mut mounted = Self::folder();
        std::fs::create_dir(&mounted.at).unwrap();
        let (options, at) = (format!("size={bytes}"), mounted.at.to_str().unwrap().to_owned());
        if run("mount", &["-t", "tmpfs", "-o", &options, "lacuna-test", &at]).is_none() {
            mounted.at = PathBuf::new();
            return skip("tmpfs", "mounting needs root");
        }
        Some(mounted)
    }

    /// A new file system of `kind` in a sparse image.
    fn image(kind: &str) -> Option<Self> {
        let mut mounted = Self::folder();
        let image = mounted._above.path().join("image");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(1 << 30).unwrap();
        let image = image.to_str().unwrap();
        if run(&format!("mkfs.{kind}"), &["-q", image]).is_none() {
            mounted.at = PathBuf::new();
            return skip(kind, &format!("mkfs.{kind} is missing or failed"));
        }
        mounted.device = run("losetup", &["--find", "--show", image]);
        std::fs::create_dir(&mounted.at).unwrap();
        let at = mounted.at.to_str().unwrap().to_owned();
        let device = mounted.device.clone();
        if device.is_none_or(|device| run("mount", &["-t", kind, &device, &at]).is_none()) {
            return skip(kind, "mounting a loop device needs root");
        }
        Some(mounted)
    }

    fn folder() -> Self {
        let above = tempfile::tempdir().unwrap();
        let at = above.path().join("mounted");
        Self {
            _above: above,
            at,
            device: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.at.as_os_str().is_empty() {
            // Nothing is mounted if the test could not; there is nobody to tell either.
            let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        }
        if let Some(device) = &self.device {
            run("losetup", &["--detach", device]);
        }
    }
}

/// A part of the suite.
type Part = fn(&Bed);

/// All of the suite that is about changes, each part on a new folder of one file system.
fn changes_on(kind: &str) {
    let parts: [(&str, Part); 14] = [
        ("writes", conformance::writes_are_exact_and_grow),
        ("punch and zero", conformance::punch_and_zero_are_exact),
        ("space", conformance::punch_frees_and_zero_keeps),
        ("allocate", conformance::allocating_grows_only_if_told),
        ("resize", conformance::resizing_cuts_and_grows_with_a_hole),
        ("copy", conformance::copies_keep_bytes_and_holes),
        ("copy within", conformance::a_copy_within_a_volume_is_exact),
        ("stamps", conformance::own_changes_move_the_stamp),
        ("attributes", conformance::attributes_are_set_one_by_one),
        ("create", conformance::a_created_volume_is_empty_and_as_asked),
        ("groups", conformance::folders_are_made_and_pass_on_their_group),
        ("remove", conformance::removing_says_what_it_is),
        ("rename", conformance::renaming_has_three_modes),
        ("rename trees", conformance::renaming_keeps_kinds_and_trees),
    ];
    let Some(mounted) = Mounted::image(kind) else {
        return;
    };
    for (name, part) in parts {
        eprintln!("{kind}: {name}");
        let folder = tempfile::tempdir_in(mounted.path()).unwrap();
        part(&Bed::on(folder, 1 << 50));
    }
}

#[test]
fn the_suite_holds_on_xfs() {
    changes_on("xfs");
}

#[test]
fn the_suite_holds_on_btrfs() {
    changes_on("btrfs");
}

#[test]
fn a_copy_shares_extents_where_the_file_system_can() {
    for kind in ["xfs", "btrfs"] {
        let Some(mounted) = Mounted::image(kind) else {
            continue;
        };
        let bed = Bed::on(tempfile::tempdir_in(mounted.path()).unwrap(), 1 << 50);
        let bytes = 64 << 20;
        for name in ["source", "target"] {
            bed.make_volume(&path(name), 0);
        }
        let source = bed.backend.open(&path("source")).unwrap();
        let target = bed.backend.open(&path("target")).unwrap();
        source.write_at(&vec![7; bytes + 777], 4096).unwrap();
        source.flush(false).unwrap();
        let free = || {
            rustix::fs::syncfs(std::fs::File::open(mounted.path()).unwrap()).unwrap();
            let space = bed.backend.space().unwrap();
            space.blocks_free * u64::from(space.block_bytes)
        };
        let before = free();
        bed.backend.copy(&*source, ByteRange::ALL, &*target, 0).unwrap();
        target.flush(false).unwrap();
        let taken = before.saturating_sub(free());
        assert!(taken < 8 << 20, "{kind}: the copy took {taken} bytes");
        let (mut one, mut two) = (vec![0; bytes], vec![1; bytes]);
        source.read_at(&mut one, 5000).unwrap();
        target.read_at(&mut two, 5000).unwrap();
        assert!(one == two);
        assert_eq!(source.attr().unwrap().size, target.attr().unwrap().size);
    }
}
