//! A volume of a million extents: open and walk work, in little memory. A tenth of it is copied here, all of it by
//! the `long` tests.

use std::fs::File;

use anyhow::{Result, ensure};
use lacuna_tests::comb;
use lacuna_tests::command;
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::seek_map::SeekMap;

use crate::MIB;

const EXTENTS: u64 = 1_000_000;

/// Memory of a client that has nothing to do with the number of extents: buffers of the walk itself.
const CONSTANT_BYTES: u64 = 8 * MIB;

#[test]
fn a_million_extents() -> Result<()> {
    comb::with_extents(EXTENTS, |rig, _| {
        let daemon = rig.mount.daemon()?;
        let before = daemon.resident_bytes()?;
        let open = File::open(rig.volume("volume"))?;
        let map = SeekMap::of(&open)?;
        let grown = daemon.resident_bytes()?.saturating_sub(before);
        ensure!(
            map == SeekMap::of_path(&rig.original("volume"))?,
            "the maps differ"
        );
        assert_eq!(u64::try_from(map.data().count())?, EXTENTS);
        ensure!(
            grown < EXTENTS * 64 + CONSTANT_BYTES,
            "the client grew by {grown} bytes"
        );
        Ok(())
    })
}

#[test]
fn a_hundred_thousand_are_copied() -> Result<()> {
    comb::with_extents(EXTENTS / 10, |rig, copy| {
        let (original, volume) = (rig.original("volume"), rig.volume("volume"));
        command::tool(
            "cp",
            ["--sparse=auto".as_ref(), volume.as_os_str(), copy.as_os_str()],
        )?;
        compare::same_bytes(&original, copy, Reading::Data)?;
        SeekMap::of_path(&volume)?.ensure_within(&SeekMap::of_path(copy)?)?;
        compare::same_space(&original, copy, compare::Space::Same)
    })
}
