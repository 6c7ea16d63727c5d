//! What the daemon of a mount gives up: all but what serving FUSE and unmounting take.
//!
//! | | as root | as another user |
//! |---|---|---|
//! | capabilities | those of `KEPT` | has none |
//! | no new privileges, system calls without a use refused | yes | no: it unmounts with `fusermount3`, which is set-user-id root |
//!
//! No Landlock: the kernel lets nobody unmount who is under it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lacuna_transport::confine::{self, CapabilitySet, Role, Threads};

/// To unmount; to find the mountpoint, also through folders of others; socket buffers beyond the limit of the system,
/// for a later socket too.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::NET_ADMIN);

/// To be called before there are threads. `state` is where it makes files later.
pub fn begin(state: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let is_ours = std::fs::metadata(state)?.uid() == rustix::process::geteuid().as_raw();
    let files = if is_ours {
        CapabilitySet::empty()
    } else {
        CapabilitySet::DAC_OVERRIDE
    };
    confine::keep_capabilities(KEPT | files)?;
    confine::refuse_new_privileges()
}

/// To be called when it is mounted: nothing is mounted after that. For all threads.
pub fn once_mounted() -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    confine::refuse_calls(Role::Mount, Threads::All)
}
