//! A server that was killed and comes back: who has a volume open notices nothing but the wait.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::rig::Rig;
use lacuna_tests::{samples, wait};

use crate::MIB;

#[test]
fn an_open_volume_goes_on_and_hears_of_changes() -> Result<()> {
    let mut rig =
        Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 16 * MIB, 3, [(MIB, 9 * MIB)]))?;
    let volume = rig.mount.open("volume")?;
    volume.read_exact_at(&mut [0; 4096], 2 * MIB)?;
    rig.restart_server()?;
    // Not read before: it must come from the new server, through the handle of the old one.
    compare::same_bytes(
        &rig.original("volume"),
        &rig.volume("volume"),
        Reading::Everything,
    )?;
    ensure!(rig.mount.status()?.reconnects >= 1, "no reconnect was counted");
    // All of it is cached now; a change must still arrive at the descriptor that was open all the time.
    let original = File::options().write(true).open(rig.original("volume"))?;
    original.write_all_at(b"after the restart", 2 * MIB)?;
    original.set_len(20 * MIB)?;
    wait::until("a change to reach the open volume", wait::LIMIT, || {
        let mut bytes = [0; 17];
        volume.read_exact_at(&mut bytes, 2 * MIB)?;
        Ok(&bytes == b"after the restart" && volume.metadata()?.len() == 20 * MIB)
    })
}
