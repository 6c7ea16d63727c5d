//! A block device as a volume.
//!
//! **Invariants**
//!
//! * The device is opened exclusively: nobody of this machine mounts it, or builds another device on it, while it
//!   is served. The type is checked before it is opened, since opening some devices does things, and again after.
//! * Its size is what it was then, and no request changes it.
//! * It has no map, so zeros are found by reading it once, in the background (see `scan`), and known from then
//!   on (see `zeros`). What was not read yet is data.
//!
//! Programs that write to the device without opening it exclusively are not noticed: neither in the map nor in
//! the generation, for which a device keeps no time of its own. Between two runs of the server they may.

mod scan;
#[cfg(test)]
mod tests;
mod volume;
mod zeros;

use std::io::ErrorKind as IoErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::path::NodeName;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use self::scan::Scan;
use self::volume::DeviceVolume;
use super::OpenVolume;
use super::export::{NamedVolume, named_id};
use crate::error::{Error, ErrorKind, Result};

/// See the module.
#[derive(Debug)]
pub struct Device {
    volume: Arc<DeviceVolume>,
    scan: Option<Scan>,
}

impl Device {
    /// Opens the block device at `path`, through links, to serve it under `name`.
    pub fn open(name: &NodeName, path: &Path, read_only: bool) -> Result<Self> {
        let what = format!("cannot serve {} as '{name}'", path.display());
        let failed = |errno| Error::os(what.clone(), errno);
        let before = rustix::fs::stat(path).map_err(|errno| match errno {
            Errno::NOENT => {
                let text = format!("{what}: it does not exist; name a block device, like /dev/sdb");
                Error::new(ErrorKind::NotFound, text)
            }
            other => failed(other),
        })?;
        if FileType::from_raw_mode(before.st_mode) != FileType::BlockDevice {
            let text = format!("{what}: it is not a block device; put files into the exported folder");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let number = before.st_rdev;
        let read_only = read_only || is_read_only(number);
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::BUSY => {
                let text = format!(
                    "{what}: this machine uses it (mounted, or part of another device); unmount or release it first"
                );
                Error::new(ErrorKind::Busy, text)
            }
            Errno::ACCESS | Errno::PERM => {
                let text = format!("{what}: permission denied; run lacunad as a user who may open it");
                Error::new(ErrorKind::Denied, text)
            }
            other => failed(other),
        })?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if (FileType::from_raw_mode(stat.st_mode), stat.st_rdev) != (FileType::BlockDevice, number) {
            let text = format!("{what}: it became another device just now; try again");
            return Err(Error::new(ErrorKind::Stale, text));
        }
        let size = size_of(&file).map_err(failed)?;
        if size == 0 {
            let text = format!("{what}: it has no bytes; insert a medium, or set it up first");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let sector_bytes = rustix::fs::ioctl_blksszget(&file).map_err(failed)?;
        let origin = volume::Origin {
            id: named_id(name),
            name: format!("'{name}'"),
            uid: stat.st_uid,
            gid: stat.st_gid,
            size,
            sector_bytes: u64::from(sector_bytes),
            read_only,
        };
        Ok(Self {
            volume: Arc::new(DeviceVolume::new(file, origin)),
            scan: None,
        })
    }

    /// Tells devices apart, whatever their paths are; `None` for what is no block device.
    pub fn number_at(path: &Path) -> Option<u64> {
        let stat = rustix::fs::stat(path).ok()?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        is_device.then_some(stat.st_rdev)
    }

    /// Finds the zeros from here on, until it is dropped.
    pub fn search_in_background(&mut self) -> Result<()> {
        let failed = |error| Error::io("cannot start the search for zeros", error);
        self.scan = Some(Scan::start(&self.volume).map_err(failed)?);
        Ok(())
    }
}

impl NamedVolume for Device {
    fn attr(&self) -> Result<Attr> {
        self.volume.attr()
    }

    fn open(&self) -> Result<Arc<dyn OpenVolume>> {
        let volume = Arc::clone(&self.volume);
        Ok(volume)
    }

    fn set_attr(&self, new: &NewAttr) -> Result<Attr> {
        self.volume.set_attr(new)?;
        self.volume.attr()
    }
}

fn size_of(file: &OwnedFd) -> Result<u64, Errno> {
    rustix::fs::seek(file.as_fd(), SeekFrom::End(0))
}

/// The device refuses writes, which the kernel says only when one is made.
fn is_read_only(number: u64) -> bool {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let fact = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    match fact {
        Ok(text) => text.trim() == "1",
        Err(error) => {
            if error.kind() != IoErrorKind::NotFound {
                tracing::warn!(%error, "cannot tell whether a device is read-only");
            }
            false
        }
    }
}
