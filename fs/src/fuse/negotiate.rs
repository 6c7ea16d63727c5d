//! What a mount asks of the kernel when it begins: capabilities, and the sizes and the number of requests.

use std::io;

use fuser::{InitFlags, KernelConfig};

/// Largest request of the kernel.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests the kernel may have under way in the background (readahead, asynchronous direct IO).
const BACKGROUND_MAX: u16 = 128;

/// Asks for all that makes a mount fast.
pub fn negotiate(config: &mut KernelConfig) -> io::Result<()> {
    for wanted in [
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ] {
        ask_for(config, wanted);
    }
    let refused = |nearest: String| io::Error::other(format!("the kernel's limit is {nearest}"));
    config
        .set_max_background(BACKGROUND_MAX)
        .map_err(|nearest| refused(nearest.to_string()))?;
    config
        .set_max_write(REQUEST_BYTES_MAX)
        .map_err(|nearest| refused(nearest.to_string()))?;
    Ok(())
}

/// One by one, each if offered: asking for all of them at once hangs the mount.
pub fn ask_for(config: &mut KernelConfig, wanted: InitFlags) {
    if let Err(missing) = config.add_capabilities(wanted) {
        tracing::debug!(?missing, "the kernel does not offer this");
    }
}
