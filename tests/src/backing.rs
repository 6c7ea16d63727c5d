//! A small file system for a server to serve: one that becomes full, or one of another kind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::loop_device::Mounted;
use crate::sandbox::Sandbox;
use crate::{command, host};

/// A mounted file system with a folder to serve. Drop it after the server; a sandbox that ends first detaches it.
#[derive(Debug)]
pub struct Backing {
    mounted: Mounted,
    served: PathBuf,
}

impl Backing {
    /// One that lives in memory.
    pub fn tmpfs(sandbox: &Sandbox, bytes: u64) -> Result<Self> {
        let options = format!("size={bytes}");
        let mounted = Mounted::mount_type("tmpfs", sandbox.join("backing"), &options)?;
        Self::over(mounted)
    }

    /// `MAKE ARGUMENTS IMAGE`, mounted by a loop device.
    pub fn made_by(sandbox: &Sandbox, bytes: u64, make: &str, arguments: &[&str]) -> Result<Self> {
        host::require_programs(&[make])?;
        let image = sandbox.join("backing.img");
        File::create_new(&image)?.set_len(bytes)?;
        let words = arguments.iter().copied().map(AsRef::as_ref);
        command::tool(make, words.chain([image.as_os_str()]))?;
        Self::over(Mounted::mount(&image, sandbox.join("backing"), "loop")?)
    }

    fn over(mounted: Mounted) -> Result<Self> {
        let served = mounted.path().join("served");
        fs::create_dir(&served)?;
        Ok(Self { mounted, served })
    }

    /// The folder to serve.
    pub fn served(&self) -> &Path {
        &self.served
    }

    /// Bytes that are free for a file.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::statvfs(self.mounted.path())?;
        Ok(space.f_bavail * space.f_frsize)
    }
}
