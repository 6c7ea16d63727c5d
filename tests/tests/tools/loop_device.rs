//! A volume as a loop device, and the file system inside mounted from it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, samples};

fn files_inside(rig: &Rig, name: &Path, options: &[&str]) -> Result<()> {
    let original = LoopDevice::read_only(&rig.original(name))?;
    let expected = {
        let inside = Mounted::mount(original.path(), rig.sandbox.join("inside-original"), "ro,noload")?;
        let manifest = samples::ext4_manifest(inside.path())?;
        inside.unmount()?;
        manifest
    };
    ensure!(
        expected.len() > 200,
        "only {} files in the sample",
        expected.len()
    );
    let device = LoopDevice::attach(&rig.volume(name), options)?;
    let inside = Mounted::mount(device.path(), rig.sandbox.join("inside"), "ro,noload")?;
    let found = samples::ext4_manifest(inside.path())?;
    ensure!(
        found == expected,
        "files differ: {} found, {} expected",
        found.len(),
        expected.len()
    );
    ensure!(
        fs::read_link(inside.path().join("link"))? == Path::new("folder-0"),
        "the link differs"
    );
    inside.unmount()
}

#[test]
fn the_file_system_inside_is_the_same() -> Result<()> {
    crate::on(&samples::ext4_image()?, |rig, name| {
        files_inside(rig, name, &["--read-only"])
    })
}

#[test]
fn the_file_system_inside_is_the_same_with_direct_io() -> Result<()> {
    crate::on(&samples::ext4_image()?, |rig, name| {
        files_inside(rig, name, &["--read-only", "--direct-io=on"])
    })
}

#[test]
fn the_device_has_the_bytes_of_the_volume() -> Result<()> {
    crate::on(&samples::random_extents()?, |rig, name| {
        let device = LoopDevice::read_only(&rig.volume(name))?;
        let size = command::tool("blockdev", ["--getsize64".as_ref(), device.path().as_os_str()])?;
        let size: u64 = size.text()?.trim().parse().context("not a size")?;
        assert_eq!(size, fs::metadata(rig.original(name))?.len() / 512 * 512);
        let (original, device) = (File::open(rig.original(name))?, File::open(device.path())?);
        lacuna_tests::compare::same_range(&original, &device, 0, size)?;
        // A device that is attached read-only refuses writes.
        ensure!(device.write_at(b"x", 0).is_err(), "the device can be written");
        Ok(())
    })
}
