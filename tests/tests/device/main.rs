//! Block devices as volumes: loop devices that a server serves, through a real mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lacuna_tests::loop_device::LoopDevice;
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{host, wait};

mod read;
mod serve;
mod write;

const MIB: u64 = 1 << 20;
/// The name of the device in the mount.
const DISK: &str = "disk";

/// A device that is served, and what is behind it. Fields end in this order.
struct Served {
    rig: Rig,
    device: LoopDevice,
    /// The file that the loop device keeps its bytes in.
    image: PathBuf,
}

impl Served {
    /// A device of `size` bytes that `fill` prepared, beside the file `file` in DIR.
    fn filled(size: u64, fill: impl FnOnce(&File) -> Result<()>) -> Result<Self> {
        Self::with(size, &[], &[], fill)
    }

    /// An empty device.
    fn empty(size: u64) -> Result<Self> {
        Self::filled(size, |_| Ok(()))
    }

    /// With options of losetup and of `lacunad serve`.
    fn with(
        size: u64,
        loop_options: &[&str],
        serve_options: &[&str],
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<Self> {
        host::require_fuse()?;
        let sandbox = Sandbox::new()?;
        let dir = sandbox.folder("served")?;
        fs::write(dir.join("file"), "a file")?;
        let image = sandbox.join("image");
        let file = File::create_new(&image)?;
        file.set_len(size)?;
        fill(&file)?;
        drop(file);
        let device = LoopDevice::attach(&image, loop_options)?;
        let named = named(DISK, device.path())?;
        let options: Vec<&str> = ["--device", &named]
            .into_iter()
            .chain(serve_options.iter().copied())
            .collect();
        let rig = Rig::start_with(sandbox, dir, &options, &[])?;
        Ok(Self { rig, device, image })
    }

    /// The volume through the mount.
    fn volume(&self) -> PathBuf {
        self.rig.volume(DISK)
    }

    fn open_for_writing(&self) -> Result<File> {
        self.rig.mount.open_for_writing(DISK)
    }

    /// Waits until the search found this many bytes of data, and of nothing else.
    fn wait_for_data(&self, bytes: u64) -> Result<()> {
        wait::until("the zeros of a device to be found", wait::LIMIT, || {
            Ok(fs::metadata(self.volume())?.blocks() * 512 == bytes)
        })
    }

    /// Space that the device really takes.
    fn taken(&self) -> Result<u64> {
        Ok(fs::metadata(&self.image)?.blocks() * 512)
    }
}

/// As `--device` takes it.
fn named(name: &str, device: &Path) -> Result<String> {
    let device = device.to_str().context("devices have plain names")?;
    Ok(format!("{name}={device}"))
}

fn bytes(seed: u64, length: u64) -> Result<Vec<u8>> {
    Ok(Random::new(seed).bytes(usize::try_from(length)?))
}
