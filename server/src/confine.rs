//! Least privilege: what `lacunad serve` gives up before it hears from anybody.
//!
//! | given up | how | where it cannot be |
//! |---|---|---|
//! | root | `--user`: see [`user`] | the operator decides |
//! | capabilities but those of `KEPT` | capset(2) | — |
//! | privileges of programs that it starts | no_new_privs | — |
//! | files other than its own | Landlock: see [`landlock`] | kernels before 5.19, or without it |
//! | system calls without a use | seccomp: see [`lacuna_transport::confine`] | kernels without it |
//!
//! **Invariant:** all of it is done while the process has one thread, for some of it holds only for the thread that
//! asks, and those it starts. So what starts threads (the runtime, the search for zeros, streams) comes after, and what
//! needs more (the socket, devices, the user's name) before. What cannot be had is said in the log and is no reason
//! not to serve.

pub mod landlock;
pub mod user;

use std::io;

use lacuna_transport::confine::{self, CapabilitySet, Role, Threads};

use self::landlock::{Hold, Reach};
use crate::error::{Error, Result};

/// What root needs to keep owners, modes and times of all files as clients ask, and nothing else. Another user
/// has none of it.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Gives up all of it, for the calling thread and those it starts.
pub fn confine(reach: &Reach<'_>) -> Result<()> {
    let failed = |what: &str, error| Error::io(format!("cannot give up {what}"), error);
    confine::keep_capabilities(KEPT).map_err(|error| failed("capabilities", error))?;
    confine::refuse_new_privileges().map_err(|error| failed("new privileges", error))?;
    let files = landlock::restrict(reach)?;
    match files {
        Hold::All => {}
        Hold::Files => {
            tracing::info!("this kernel knows less of Landlock than there is; what it knows holds")
        }
        Hold::Nothing => {
            tracing::warn!(
                "files are not restricted: this kernel has no Landlock (Linux 5.19, or lsm= without it)"
            );
        }
    }
    let calls = match confine::refuse_calls(Role::Server, Threads::Calling) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(%error, "system calls are not restricted");
            false
        }
        other => other
            .map(|()| true)
            .map_err(|error| failed("system calls", error))?,
    };
    tracing::info!(landlock = ?files, seccomp = calls, "confined to what is served");
    Ok(())
}
