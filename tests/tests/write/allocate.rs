//! fallocate with mode 0 and KEEP_SIZE: the space is really there, or ENOSPC at once. Other modes are EOPNOTSUPP.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use lacuna_tests::backing::Backing;
use lacuna_tests::host;
use lacuna_tests::reshape;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::twin::Twin;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::{KIB, MIB, bytes, empty};

#[test]
fn space_is_reserved_at_the_server_when_it_returns() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    let taken = || fs::metadata(twin.original_path()).map(|found| found.blocks() * 512);
    twin.both(|file| reshape::allocate(file, MIB, 8 * MIB))?;
    assert_eq!(twin.volume.metadata()?.len(), 9 * MIB);
    ensure!(taken()? >= 8 * MIB, "{} bytes reserved", taken()?);
    twin.ensure_same_now()?;
    twin.both(|file| reshape::allocate_keep_size(file, 0, 16 * MIB))?;
    assert_eq!(twin.volume.metadata()?.len(), 9 * MIB);
    ensure!(taken()? >= 16 * MIB, "{} bytes reserved", taken()?);
    ensure!(
        twin.volume.metadata()?.blocks() * 512 >= 16 * MIB,
        "st_blocks does not know"
    );
    twin.write(10 * MIB, b"into the reserve")?;
    twin.ensure_same()
}

#[test]
fn allocation_changes_no_byte() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(4096, &bytes(1, 300_000)?)?;
    twin.both(|file| reshape::allocate(file, 0, 2 * MIB))?;
    twin.write(600_000, &bytes(2, 100_000)?)?;
    twin.both(|file| reshape::allocate(file, 100, 1_000_000))?;
    twin.ensure_same()
}

#[test]
fn too_much_is_refused_at_once() -> Result<()> {
    host::require_fuse()?;
    let sandbox = Sandbox::new()?;
    let backing = Backing::tmpfs(&sandbox, 32 * MIB)?;
    let rig = Rig::start(sandbox, backing.served().to_owned(), &[])?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&bytes(1, 100_000)?, 0)?;
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        assert_eq!(fallocate(&volume, flags, 0, 64 * MIB).err(), Some(Errno::NOSPC));
    }
    reshape::allocate(&volume, 0, 8 * MIB)?;
    let free = backing.free_bytes()?;
    ensure!(
        free <= 24 * MIB,
        "{free} bytes are free after 8 MiB were reserved"
    );
    volume.write_all_at(&bytes(2, MIB)?, MIB)?;
    volume.sync_all()?;
    let found = fs::read(rig.original("volume"))?;
    assert_eq!(found[..100_000], bytes(1, 100_000)?);
    assert_eq!(found[1 << 20..2 << 20], bytes(2, MIB)?);
    ensure!(found.len() <= 64 << 20, "{} bytes long", found.len());
    Ok(())
}

#[test]
fn other_modes_are_not_supported() -> Result<()> {
    let rig = empty()?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&bytes(1, 64 * KIB)?, 0)?;
    // Twice: an ENOSYS would switch fallocate off.
    for _ in 0..2 {
        for flags in [
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
            FallocateFlags::UNSHARE_RANGE,
        ] {
            let error = fallocate(&volume, flags, 0, 4096).err();
            assert_eq!(error, Some(Errno::OPNOTSUPP), "{flags:?}");
        }
        reshape::punch(&volume, 0, 4096)?;
    }
    volume.sync_all()?;
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 64 * KIB);
    Ok(())
}
