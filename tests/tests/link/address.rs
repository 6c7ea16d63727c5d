//! A client whose address changes goes on, in the same session.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::compare;
use lacuna_tests::link::{Conditions, LinkedRig};
use lacuna_tests::{samples, wait};

use crate::{KIB, MIB};

const STEP_BYTES: u64 = 256 * KIB;
const STEPS: u64 = 256;
const SIZE: u64 = STEPS * STEP_BYTES;

#[test]
fn reads_writes_and_events_go_on_in_the_same_session() -> Result<()> {
    let mut linked = LinkedRig::filled(Conditions::of(2, 0), &["cache=16M"], |dir| {
        samples::write_sparse(&dir.join("volume"), SIZE, 65, [(0, SIZE)])
    })?;
    let (original, volume) = (
        File::options()
            .read(true)
            .write(true)
            .open(linked.rig.original("volume"))?,
        linked.rig.mount.open_for_writing("volume")?,
    );
    let mut fetched_bytes = 0;
    for step in 0..STEPS {
        if step % (STEPS / 4) == 0 {
            let [.., last] = linked.link.client().address().octets();
            linked
                .link
                .change_client_address(Ipv4Addr::new(10, 117, 0, last + 1))?;
        }
        // Not in order, and more than the cache holds, so that each address has something to fetch.
        let at = step * 37 % STEPS * STEP_BYTES;
        compare::same_range(&original, &volume, at, at + STEP_BYTES)?;
        if step % (STEPS / 4) == STEPS / 4 - 1 {
            let before = std::mem::replace(&mut fetched_bytes, linked.rig.mount.status()?.fetched_bytes);
            ensure!(fetched_bytes > before, "nothing was fetched from this address");
        }
    }
    volume.write_all_at(b"from the fifth address", MIB)?;
    volume.sync_all()?;
    compare::same_range(&original, &volume, MIB, MIB + 64)?;
    let mut arrived = [0; 22];
    original.read_exact_at(&mut arrived, MIB)?;
    assert_eq!(&arrived, b"from the fifth address");
    // What the server says without being asked finds the new address too.
    original.write_all_at(b"told", 2 * MIB)?;
    wait::until("a change to be told", wait::LIMIT, || {
        let mut found = [0; 4];
        volume.read_exact_at(&mut found, 2 * MIB)?;
        Ok(&found == b"told")
    })?;
    let status = linked.rig.mount.status()?;
    ensure!(
        status.connected && status.reconnects == 0,
        "not the same session: {status:?}"
    );
    Ok(())
}
