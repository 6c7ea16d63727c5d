//! Reading a device: its zeros are found once, and from then on skipped like holes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, host, wait};
use serde_json::Value;

use crate::{DISK, MIB, Served, bytes};

const SIZE: u64 = 256 * MIB;
const DATA: u64 = 3 * MIB;

/// Two pieces of data; the device below has no holes that anybody could ask for.
fn sparse() -> Result<Served> {
    let served = Served::filled(SIZE, |image| {
        image.write_all_at(&vec![0; usize::try_from(32 * MIB)?], 0)?;
        image.write_all_at(&bytes(1, 2 * MIB)?, 16 * MIB)?;
        image.write_all_at(&bytes(2, MIB)?, 200 * MIB)?;
        Ok(())
    })?;
    served.wait_for_data(DATA)?;
    Ok(served)
}

#[test]
fn zeros_are_found_and_skipped() -> Result<()> {
    let served = sparse()?;
    let before = served.rig.mount.settled()?;
    let map = SeekMap::of_path(&served.volume())?;
    map.ensure_data(16 * MIB, 18 * MIB)?;
    map.ensure_data(200 * MIB, 201 * MIB)?;
    assert_eq!(map.data_bytes(), DATA, "{}", map.short());
    compare::same_bytes(&served.image, &served.volume(), Reading::Data)?;
    assert_eq!(
        compare::digest(&served.volume())?,
        compare::digest(&served.image)?
    );
    let fetched = served.rig.mount.settled()?.fetched_bytes - before.fetched_bytes;
    ensure!(fetched <= DATA + MIB, "{fetched} bytes were fetched of {DATA}");
    Ok(())
}

#[test]
fn cp_makes_a_sparse_copy() -> Result<()> {
    let served = sparse()?;
    let copy = served.rig.sandbox.join("copy");
    command::tool(
        "cp",
        [
            "--sparse=auto".as_ref(),
            served.volume().as_os_str(),
            copy.as_os_str(),
        ],
    )?;
    compare::same_bytes(&served.image, &copy, Reading::Data)?;
    let taken = compare::allocated_bytes(&copy)?;
    ensure!(
        (DATA..=DATA + MIB).contains(&taken),
        "the copy takes {taken} bytes"
    );
    Ok(())
}

#[test]
fn qemu_img_sees_the_zeros() -> Result<()> {
    host::require_programs(&["qemu-img"])?;
    let served = sparse()?;
    let volume = served.volume();
    let words = ["map", "-f", "raw", "--output=json"].map(AsRef::as_ref);
    let ended = command::tool("qemu-img", words.into_iter().chain([volume.as_os_str()]))?;
    let map: Value = serde_json::from_slice(&ended.stdout)?;
    let data: u64 = map
        .as_array()
        .context("no list")?
        .iter()
        .filter(|extent| extent["data"] == Value::Bool(true))
        .filter_map(|extent| extent["length"].as_u64())
        .sum();
    assert_eq!(data, DATA);
    let copy = served.rig.sandbox.join("copy.qcow2");
    let words = ["convert", "-f", "raw", "-O", "qcow2"].map(AsRef::as_ref);
    command::tool(
        "qemu-img",
        words.into_iter().chain([volume.as_os_str(), copy.as_os_str()]),
    )?;
    let words = ["compare", "-f", "qcow2", "-F", "raw"].map(AsRef::as_ref);
    command::tool(
        "qemu-img",
        words
            .into_iter()
            .chain([copy.as_os_str(), served.image.as_os_str()]),
    )?;
    Ok(())
}

/// Who has looked before the search was at its end sees the zeros at the next open.
#[test]
fn zeros_found_later_are_seen_at_the_next_open() -> Result<()> {
    let served = Served::filled(SIZE, |image| Ok(image.write_all_at(&bytes(1, MIB)?, 16 * MIB)?))?;
    let early = served.rig.mount.open(DISK)?;
    SeekMap::of(&early)?.ensure_data(16 * MIB, 17 * MIB)?;
    wait::until("zeros found later to be seen", wait::LIMIT, || {
        Ok(SeekMap::of_path(&served.volume())?.data_bytes() == MIB)
    })?;
    compare::same_bytes(&served.image, &served.volume(), Reading::Data)
}

/// Data written into what was found to be zero is data from that moment on.
#[test]
fn what_is_written_into_zeros_is_data() -> Result<()> {
    let served = sparse()?;
    let file = File::options().read(true).write(true).open(served.volume())?;
    file.write_all_at(b"x", 100 * MIB + 5)?;
    let map = SeekMap::of(&file)?;
    map.ensure_data(100 * MIB, 100 * MIB + 4096)?;
    file.sync_all()?;
    drop(file);
    served.wait_for_data(DATA + 4096)?;
    let map = SeekMap::of(&served.rig.mount.open(DISK)?)?;
    map.ensure_data(100 * MIB, 100 * MIB + 4096)?;
    assert_eq!(map.data_bytes(), DATA + 4096, "{}", map.short());
    Ok(())
}
