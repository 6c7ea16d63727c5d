//! Block devices as targets and sources.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::compare::{self, Reading, allocated_bytes};
use lacuna_tests::loop_device::{LoopDevice, Mounted};

use crate::{MIB, SAMPLE_BYTES, Stage, TALK_BYTES, moved, refused, write_data, write_sample};

/// What a device has in front is the volume, and what is behind it stays.
#[test]
fn a_hole_on_old_data_of_a_device_reads_zero() -> Result<()> {
    let stage = Stage::with_sample()?;
    let expected = fs::read(stage.original("v"))?;
    let file = stage.local("disk");
    write_data(&file, 70 * MIB)?;
    let behind = fs::read(&file)?.split_off(usize::try_from(SAMPLE_BYTES)?);
    for options in [&["--sparse=auto"][..], &["--sparse=never"], &["--delta"]] {
        let device = LoopDevice::read_write(&file)?;
        let moved = moved(&mut stage.pull("v", device.path(), options)?)?;
        ensure!(moved.bytes == SAMPLE_BYTES, "{moved:?}");
        let found = fs::read(device.path())?;
        ensure!(found.starts_with(&expected), "{options:?}: the device differs");
        ensure!(
            found.ends_with(&behind),
            "{options:?}: what is behind the volume changed"
        );
        device.detach()?;
        if options == ["--sparse=auto"] {
            let taken = allocated_bytes(&file)?;
            ensure!(taken < 15 * MIB, "{taken} bytes are taken behind the device");
        }
        File::options()
            .write(true)
            .open(&file)?
            .write_all_at(&vec![0xaa; 9 << 20], 4 * MIB)?;
    }
    Ok(())
}

#[test]
fn a_device_in_use_or_too_small_is_refused_and_unchanged() -> Result<()> {
    let stage = Stage::with_sample()?;
    let small = stage.local("small");
    write_data(&small, MIB)?;
    let before = fs::read(&small)?;
    let device = LoopDevice::read_write(&small)?;
    let (has, wants) = (MIB.to_string(), SAMPLE_BYTES.to_string());
    refused(&mut stage.pull("v", device.path(), &[])?, &[&has, &wants])?;
    refused(
        &mut stage.pull("v", device.path(), &["--format=lacuna"])?,
        &["block device"],
    )?;
    device.detach()?;
    ensure!(fs::read(&small)? == before, "the device changed");

    let disk = stage.local("disk");
    File::create_new(&disk)?.set_len(100 * MIB)?;
    command::tool("mkfs.ext4", [OsStr::new("-q"), disk.as_os_str()])?;
    let device = LoopDevice::read_write(&disk)?;
    let mounted = Mounted::mount(device.path(), stage.local("inside"), "rw")?;
    fs::write(mounted.path().join("file"), "kept")?;
    refused(&mut stage.pull("v", device.path(), &[])?, &["in use", "mounted"])?;
    ensure!(
        fs::read_to_string(mounted.path().join("file"))? == "kept",
        "the file is gone"
    );
    mounted.unmount()?;
    command::tool("e2fsck", [OsStr::new("-fn"), disk.as_os_str()])?;
    Ok(())
}

/// A device has no map: zeros are found while it is read.
#[test]
fn zeros_of_a_device_become_holes() -> Result<()> {
    let stage = Stage::new()?;
    let disk = stage.local("disk");
    write_sample(&disk, 4)?;
    // Devices are of whole sectors.
    File::options().write(true).open(&disk)?.set_len(65 * MIB)?;
    let device = LoopDevice::read_only(&disk)?;
    let pushed = moved(&mut stage.push(device.path(), "v", &["--verify"])?)?;
    ensure!(
        pushed.bytes == 65 * MIB && pushed.hole_bytes > 55 * MIB,
        "{pushed:?}"
    );
    ensure!(pushed.wire_bytes <= pushed.data_bytes + TALK_BYTES, "{pushed:?}");
    compare::same_bytes(&disk, &stage.original("v"), Reading::Everything)?;
    ensure!(
        allocated_bytes(&stage.original("v"))? < 6 * MIB,
        "zeros took space"
    );
    let part = ["--length", "2M", "--offset", "1M"];
    moved(&mut stage.push(device.path(), "part", &part)?)?;
    ensure!(
        fs::metadata(stage.original("part"))?.len() == 3 * MIB,
        "not the length"
    );
    moved(&mut stage.push(device.path(), "full", &["--sparse=never"])?)?;
    ensure!(
        allocated_bytes(&stage.original("full"))? >= 65 * MIB,
        "a hole was left"
    );
    Ok(())
}
