//! What the host must offer. A test that cannot run here fails and says what to do.

use std::env;
use std::path::Path;

use anyhow::{Result, bail};

/// Mounting needs root and /dev/fuse.
pub fn require_fuse() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("these tests mount file systems: run them as root");
    }
    if !Path::new("/dev/fuse").exists() {
        bail!("/dev/fuse is missing: `modprobe fuse`, or start the container with `--device /dev/fuse`");
    }
    Ok(())
}

/// Each of `programs` is installed.
pub fn require_programs(programs: &[&str]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|program| !installed(program)).collect();
    if !missing.is_empty() {
        bail!("missing programs {missing:?}: scripts/test.sh installs them");
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    // mkfs and losetup lie in sbin, which an ordinary PATH may lack.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
