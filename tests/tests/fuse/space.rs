//! statfs: the space of the file system below the server.

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use rustix::fs::statvfs;

#[test]
fn space_is_that_of_the_server() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let (ours, theirs) = (statvfs(rig.mount.path())?, statvfs(&rig.dir)?);
    assert_eq!(ours.f_blocks * ours.f_frsize, theirs.f_blocks * theirs.f_frsize);
    assert_eq!(ours.f_namemax, theirs.f_namemax);
    // Other tests write meanwhile.
    let (free, expected) = (ours.f_bavail * ours.f_frsize, theirs.f_bavail * theirs.f_frsize);
    ensure!(
        free.abs_diff(expected) < theirs.f_blocks * theirs.f_frsize / 20,
        "{free} free, not {expected}"
    );
    Ok(())
}
