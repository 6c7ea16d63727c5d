//! A volume of a million extents: open, walk and copy work, in little memory.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::loop_device::Mounted;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, host, samples};

use crate::{KIB, MIB};

const EXTENTS: u64 = 1_000_000;

/// Memory of a client that has nothing to do with the number of extents: buffers of the walk itself.
const CONSTANT_BYTES: u64 = 8 * MIB;

#[test]
fn a_million_extents() -> Result<()> {
    host::require_programs(&["mkfs.ext4"])?;
    let sandbox = Sandbox::new()?;
    // Blocks of 1 KiB, so that a million extents take 1 GiB; the copy takes as much again.
    let image = sandbox.join("backing.img");
    File::create_new(&image)?.set_len(4096 * MIB)?;
    let options = ["-q", "-F", "-b", "1024", "-O", "^has_journal"].map(AsRef::as_ref);
    command::tool("mkfs.ext4", options.into_iter().chain([image.as_os_str()]))?;
    let backing = Mounted::mount(&image, sandbox.join("backing"), "loop")?;
    let dir = backing.path().join("served");
    fs::create_dir(&dir)?;
    samples::write_comb(&dir.join("volume"), EXTENTS, KIB)?;
    let copy = backing.path().join("copy");
    let rig = Rig::start(sandbox, dir, &[])?;
    let outcome = walk_and_copy(&rig, &copy);
    drop(rig.mount);
    drop(rig.server);
    backing.unmount()?;
    outcome
}

fn walk_and_copy(rig: &Rig, copy: &std::path::Path) -> Result<()> {
    let (original, volume) = (rig.original("volume"), rig.volume("volume"));
    let daemon = rig.mount.daemon()?;
    let before = daemon.resident_bytes()?;
    let open = File::open(&volume)?;
    let map = SeekMap::of(&open)?;
    let grown = daemon.resident_bytes()?.saturating_sub(before);
    ensure!(map == SeekMap::of_path(&original)?, "the maps differ");
    assert_eq!(u64::try_from(map.data().count())?, EXTENTS);
    ensure!(
        grown < EXTENTS * 64 + CONSTANT_BYTES,
        "the client grew by {grown} bytes"
    );
    command::tool(
        "cp",
        ["--sparse=auto".as_ref(), volume.as_os_str(), copy.as_os_str()],
    )?;
    compare::same_bytes(&original, copy, Reading::Data)?;
    map.ensure_within(&SeekMap::of_path(copy)?)?;
    compare::same_space(&original, copy, compare::Space::Same)
}
