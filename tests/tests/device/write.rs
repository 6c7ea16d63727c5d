//! Writing to a device: what arrives, what frees, and what its fixed size refuses.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::loop_device::{LoopDevice, Mounted};
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, host, reshape, wait};

use crate::{DISK, MIB, Served, bytes};

fn kind(result: std::io::Result<()>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn ensure_on_the_device(served: &Served, expected: &[u8]) -> Result<()> {
    ensure!(fs::read(served.volume())? == expected, "the volume differs");
    ensure!(fs::read(&served.image)? == expected, "the device differs");
    Ok(())
}

#[test]
fn what_was_flushed_is_on_the_device() -> Result<()> {
    let served = Served::empty(4 * MIB)?;
    let file = served.open_for_writing()?;
    let mut expected = vec![0; usize::try_from(4 * MIB)?];
    for (seed, (start, length)) in
        (0..).zip([(0, 1), (511, 3), (4095, 70_000), (MIB + 9, MIB), (4 * MIB - 5, 5)])
    {
        let bytes = bytes(seed, length)?;
        file.write_all_at(&bytes, start)?;
        let start = usize::try_from(start)?;
        expected[start..start + bytes.len()].copy_from_slice(&bytes);
    }
    file.sync_all()?;
    ensure_on_the_device(&served, &expected)
}

#[test]
fn punching_frees_the_space_and_zeroing_reads_zero() -> Result<()> {
    let served = Served::filled(16 * MIB, |image| Ok(image.write_all_at(&bytes(1, 16 * MIB)?, 0)?))?;
    let mut expected = bytes(1, 16 * MIB)?;
    ensure!(served.taken()? >= 16 * MIB, "the image is not full");
    let file = served.open_for_writing()?;
    reshape::punch(&file, MIB + 5, 12 * MIB)?;
    reshape::zero(&file, 14 * MIB + 1, MIB)?;
    file.sync_all()?;
    for (start, length) in [(MIB + 5, 12 * MIB), (14 * MIB + 1, MIB)] {
        let start = usize::try_from(start)?;
        expected[start..start + usize::try_from(length)?].fill(0);
    }
    ensure_on_the_device(&served, &expected)?;
    let taken = served.taken()?;
    ensure!(taken <= 5 * MIB, "the device still takes {taken} bytes");
    drop(file);
    SeekMap::of_path(&served.volume())?.ensure_hole(2 * MIB, 13 * MIB)
}

/// As a device does: written up to its end, then ENOSPC; nothing is left that could never be sent.
#[test]
fn the_end_of_a_device_is_enospc_at_once() -> Result<()> {
    let served = Served::empty(3 * MIB + 512)?;
    let mut file = served.open_for_writing()?;
    let mut written = 0;
    let piece = vec![7; usize::try_from(MIB)?];
    let error = loop {
        match file.write(&piece) {
            Ok(count) => written += u64::try_from(count)?,
            Err(error) => break error,
        }
    };
    assert_eq!((written, error.kind()), (3 * MIB + 512, ErrorKind::StorageFull));
    assert_eq!(
        kind(file.write_all_at(b"x", 4 * MIB)),
        Some(ErrorKind::StorageFull)
    );
    file.sync_all()?;
    ensure!(
        reshape::allocate(&file, 3 * MIB, MIB).is_err(),
        "space beyond the end"
    );
    reshape::allocate(&file, 0, 3 * MIB)?;
    let size = file.metadata()?.len();
    drop(file);
    assert_eq!(size, 3 * MIB + 512);
    ensure_on_the_device(&served, &vec![7; usize::try_from(size)?])?;
    let ended = served.rig.mount.try_unmount(&[])?;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}

/// Refused, not ignored: who truncates a regular file takes it for empty, and writes no zeros of a sparse source.
#[test]
fn the_size_cannot_be_changed() -> Result<()> {
    let content = bytes(1, MIB)?;
    let served = Served::filled(MIB, |image| Ok(image.write_all_at(&content, 0)?))?;
    let file = served.open_for_writing()?;
    file.set_len(MIB)?;
    for size in [0, 512, MIB - 1, MIB + 1] {
        assert_eq!(kind(file.set_len(size)), Some(ErrorKind::InvalidInput), "{size}");
    }
    let truncating = File::create(served.volume()).map(drop);
    assert_eq!(kind(truncating), Some(ErrorKind::InvalidInput));
    drop(file);
    ensure_on_the_device(&served, &content)
}

fn tool(words: &[&str], paths: &[&Path]) -> Result<()> {
    host::require_programs(&words[..1])?;
    let arguments = words[1..].iter().map(AsRef::as_ref);
    command::tool(
        words[0],
        arguments.chain(paths.iter().map(|path| path.as_os_str())),
    )
    .map(drop)
}

#[test]
fn images_are_written_by_qemu_img_and_dd() -> Result<()> {
    // What is there before must be gone where the image has holes.
    let served = Served::filled(16 * MIB, |image| Ok(image.write_all_at(&bytes(1, 16 * MIB)?, 0)?))?;
    let source = served.rig.sandbox.join("source");
    let file = File::create_new(&source)?;
    file.set_len(16 * MIB)?;
    file.write_all_at(&bytes(2, 3 * MIB)?, 5 * MIB)?;
    tool(
        &["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"],
        &[&source, &served.volume()],
    )?;
    compare::same_bytes(&source, &served.volume(), Reading::Data)?;
    // qemu-img does not flush what it converts.
    served.open_for_writing()?.sync_all()?;
    compare::same_bytes(&source, &served.image, Reading::Data)?;
    file.write_all_at(&bytes(3, 3 * MIB)?, 9 * MIB)?;
    let (input, output) = (
        format!("if={}", source.display()),
        format!("of={}", served.volume().display()),
    );
    tool(
        &[
            "dd",
            &input,
            &output,
            "bs=1M",
            "conv=notrunc,fsync",
            "status=none",
        ],
        &[],
    )?;
    compare::same_bytes(&source, &served.image, Reading::Data)
}

#[test]
fn copies_between_a_file_and_a_device_are_made_by_the_server() -> Result<()> {
    let served = Served::filled(8 * MIB, |image| Ok(image.write_all_at(&bytes(1, 8 * MIB)?, 0)?))?;
    let (file, disk) = (served.rig.mount.create("copy")?, served.open_for_writing()?);
    let before = served.rig.mount.settled()?;
    reshape::copy_range(&disk, 0, &file, 0, 8 * MIB)?;
    file.sync_all()?;
    file.write_all_at(&bytes(2, MIB)?, 3 * MIB)?;
    reshape::copy_range(&file, 2 * MIB, &disk, 2 * MIB, 3 * MIB)?;
    let after = served.rig.mount.settled()?;
    let received = after.bytes_received - before.bytes_received;
    ensure!(
        received < MIB,
        "{received} bytes were received for copies at the server"
    );
    compare::same_bytes(&served.image, &served.rig.original("copy"), Reading::Data)?;
    compare::same_bytes(&served.image, &served.volume(), Reading::Data)
}

#[test]
fn a_file_system_lives_on_it() -> Result<()> {
    let served = Served::empty(64 * MIB)?;
    let device = LoopDevice::read_write(&served.volume())?;
    tool(&["mkfs.ext4", "-q"], &[device.path()])?;
    let inside = Mounted::mount(device.path(), served.rig.sandbox.join("inside"), "noatime")?;
    let content = bytes(1, 20 * MIB)?;
    fs::write(inside.path().join("gone"), &content)?;
    fs::write(inside.path().join("kept"), b"kept")?;
    tool(&["sync", "--file-system"], &[inside.path()])?;
    let full = served.taken()?;
    fs::remove_file(inside.path().join("gone"))?;
    tool(&["sync", "--file-system"], &[inside.path()])?;
    tool(&["fstrim"], &[inside.path()])?;
    // A hole is acknowledged at once, and sent within moments.
    wait::until("the space to be freed", wait::LIMIT, || {
        Ok(full.saturating_sub(served.taken()?) >= 18 * MIB)
    })?;
    inside.unmount()?;
    device.detach()?;
    // The device's own file is that file system.
    tool(&["e2fsck", "-f", "-n"], &[&served.image])?;
    compare::same_bytes(&served.image, &served.volume(), Reading::Data)
}

#[test]
fn a_killed_server_loses_nothing() -> Result<()> {
    let mut served = Served::empty(8 * MIB)?;
    let file = served.open_for_writing()?;
    let content = bytes(1, 8 * MIB)?;
    file.write_all_at(&content[..4 << 20], 0)?;
    served.rig.restart_server()?;
    file.write_all_at(&content[4 << 20..], 4 * MIB)?;
    file.sync_all()?;
    assert_eq!(file.metadata()?.size(), 8 * MIB);
    ensure_on_the_device(&served, &content)?;
    let fresh = served.rig.mount.open(DISK).context("again")?;
    SeekMap::of(&fresh)?.ensure_data(0, 8 * MIB)
}
