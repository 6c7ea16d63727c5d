//! A served volume of very many extents, on a file system of its own with small blocks.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;

use crate::loop_device::Mounted;
use crate::rig::Rig;
use crate::sandbox::Sandbox;
use crate::{command, host, samples};

/// Blocks of the file system, and bytes of each extent.
const BLOCK_BYTES: u64 = 1 << 10;

/// Room for a million extents, their holes and a copy.
const BACKING_BYTES: u64 = 4 << 30;

/// Has `work` done with a mount whose one volume, `volume`, has so many extents, and a path on the same file system
/// where a copy of it has the same holes.
pub fn with_extents(extents: u64, work: impl FnOnce(&Rig, &Path) -> Result<()>) -> Result<()> {
    host::require_programs(&["mkfs.ext4"])?;
    let sandbox = Sandbox::new()?;
    let image = sandbox.join("backing.img");
    File::create_new(&image)?.set_len(BACKING_BYTES)?;
    let options = ["-q", "-F", "-b", "1024", "-O", "^has_journal"].map(AsRef::as_ref);
    command::tool("mkfs.ext4", options.into_iter().chain([image.as_os_str()]))?;
    let backing = Mounted::mount(&image, sandbox.join("backing"), "loop")?;
    let dir = backing.path().join("served");
    fs::create_dir(&dir)?;
    samples::write_comb(&dir.join("volume"), extents, BLOCK_BYTES)?;
    let copy = backing.path().join("copy");
    let rig = Rig::start(sandbox, dir, &[])?;
    let outcome = work(&rig, &copy);
    drop(rig.mount);
    drop(rig.server);
    backing.unmount()?;
    outcome
}
