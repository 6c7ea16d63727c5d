//! Loop devices: a file as a block device, detached on drop.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{command, mount_table, wait};

/// An attached loop device.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// What the kernel calls the file behind it.
    file: PathBuf,
}

impl LoopDevice {
    /// Attaches `file` read-only.
    pub fn read_only(file: &Path) -> Result<Self> {
        Self::attach(file, &["--read-only"])
    }

    /// Attaches `file` for reading and writing.
    pub fn read_write(file: &Path) -> Result<Self> {
        Self::attach(file, &[])
    }

    /// Attaches `file` with these options of losetup(8).
    pub fn attach(file: &Path, options: &[&str]) -> Result<Self> {
        let file = file.to_str().context("losetup takes UTF-8 names here")?;
        let ended = command::tool(
            "losetup",
            options.iter().copied().chain(["--find", "--show", file]),
        )?;
        let path = PathBuf::from(ended.text()?.trim());
        ensure!(
            path.exists(),
            "losetup named {}, which does not exist",
            path.display()
        );
        let file = backing_file(&path)?;
        Ok(Self { path, file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches and waits until the file behind it is closed, unlike drop.
    pub fn detach(self) -> Result<()> {
        command::tool("losetup", ["--detach".as_ref(), self.path.as_os_str()])?;
        wait::until("a loop device to let go of its file", wait::LIMIT, || {
            Ok(!self.is_attached())
        })
    }

    /// To this file: a device that was detached may be another test's by now.
    fn is_attached(&self) -> bool {
        backing_file(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.is_attached() {
            return;
        }
        // The sandbox looks again; there is nobody to tell here.
        let _ = command::tool("losetup", ["--detach".as_ref(), self.path.as_os_str()]);
    }
}

/// A file system mounted from a device or image; unmounted on drop.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
}

impl Mounted {
    /// `mount -o OPTIONS SOURCE MOUNTPOINT`; the mountpoint is made.
    pub fn mount(source: &Path, mountpoint: PathBuf, options: &str) -> Result<Self> {
        fs::create_dir_all(&mountpoint)?;
        let arguments = [
            "-o".as_ref(),
            options.as_ref(),
            source.as_os_str(),
            mountpoint.as_os_str(),
        ];
        command::tool("mount", arguments)?;
        Ok(Self { mountpoint })
    }

    /// A file system without a device: `mount -t KIND -o OPTIONS KIND MOUNTPOINT`.
    pub fn mount_type(kind: &str, mountpoint: PathBuf, options: &str) -> Result<Self> {
        fs::create_dir_all(&mountpoint)?;
        let words = ["-t", kind, "-o", options, kind].map(OsStr::new);
        command::tool("mount", words.into_iter().chain([mountpoint.as_os_str()]))?;
        Ok(Self { mountpoint })
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Unmounts and reports an error, unlike drop.
    pub fn unmount(self) -> Result<()> {
        command::tool("umount", [&self.mountpoint]).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mount_table::detach(&self.mountpoint);
    }
}

/// The file behind a loop device.
fn backing_file(device: &Path) -> Result<PathBuf> {
    let name = device.file_name().context("a device without a name")?;
    let fact = Path::new("/sys/block").join(name).join("loop/backing_file");
    let file = fs::read_to_string(&fact).with_context(|| format!("cannot read {}", fact.display()))?;
    Ok(PathBuf::from(file.trim_end()))
}

/// Detaches every loop device whose file lies below `dir`.
pub(crate) fn detach_below(dir: &Path) {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return;
    };
    for device in devices.flatten() {
        let path = Path::new("/dev").join(device.file_name());
        if let Ok(file) = backing_file(&path)
            && file.starts_with(dir)
        {
            drop(LoopDevice { path, file });
        }
    }
}
