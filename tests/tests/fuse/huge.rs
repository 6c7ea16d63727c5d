//! A volume of 12 GiB with 16 MiB of data: reading all of it moves the data and the map. The `long` tests read
//! 100 GiB.

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;

use crate::{KIB, MIB};

/// What the map of 64 extents may take on the wire.
const MAP_BYTES: u64 = 64 * KIB;

#[test]
fn reading_all_of_it_moves_only_the_data() -> Result<()> {
    let path = samples::large()?;
    let rig = Rig::over(&path)?;
    let before = rig.mount.status()?;
    compare::same_bytes(
        &path,
        &rig.volume(path.file_name().context("no name")?),
        Reading::Everything,
    )?;
    let after = rig.mount.settled()?;
    let received = after.bytes_received - before.bytes_received;
    ensure!(
        received >= 16 * MIB,
        "{received} bytes received are less than the data"
    );
    ensure!(
        received < 17 * MIB + MAP_BYTES,
        "{received} bytes received for 16 MiB of data"
    );
    assert_eq!(after.fetched_bytes, 16 * MIB);
    let holes = after.hole_bytes_read - before.hole_bytes_read;
    ensure!(
        holes >= 12 * 1024 * MIB - 16 * MIB,
        "only {holes} bytes of hole read"
    );
    Ok(())
}
