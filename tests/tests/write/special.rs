//! What a folder of volumes cannot hold is refused with EPERM: links, pipes, sockets and devices.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::empty;

#[test]
fn links_pipes_sockets_and_devices_are_refused() -> Result<()> {
    let rig = empty()?;
    fs::write(rig.volume("volume"), "x")?;
    let new = rig.volume("new");
    let refused = Some(Errno::PERM.raw_os_error());
    // Twice: an ENOSYS would switch a call off.
    for _ in 0..2 {
        let outcome = symlink("volume", &new);
        assert_eq!(
            outcome.err().and_then(|error| error.raw_os_error()),
            refused,
            "symlink"
        );
        let outcome = fs::hard_link(rig.volume("volume"), &new);
        assert_eq!(
            outcome.err().and_then(|error| error.raw_os_error()),
            refused,
            "link"
        );
        for kind in [
            FileType::Fifo,
            FileType::Socket,
            FileType::CharacterDevice,
            FileType::BlockDevice,
        ] {
            let outcome = mknodat(CWD, &new, kind, Mode::RUSR, rustix::fs::makedev(1, 3));
            assert_eq!(outcome, Err(Errno::PERM), "{kind:?}");
        }
    }
    assert_eq!(fs::read_dir(&rig.dir)?.count(), 1);
    Ok(())
}
