//! qemu-img: info, map, convert and compare on volumes whose size 512 divides (raw images have no others).

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command;
use lacuna_tests::compare::{self, Space};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use serde_json::Value;

use crate::{copy_of, ensure_copy, require};

fn json(arguments: &[&str], path: &Path) -> Result<Value> {
    require("qemu-img")?;
    let words = arguments
        .iter()
        .map(OsStr::new)
        .chain(["--output=json".as_ref(), path.as_os_str()]);
    Ok(serde_json::from_slice(&command::tool("qemu-img", words)?.stdout)?)
}

fn info(rig: &Rig, name: &Path) -> Result<()> {
    let volume = json(&["info", "-f", "raw"], &rig.volume(name))?;
    let original = json(&["info", "-f", "raw"], &rig.original(name))?;
    for key in ["virtual-size", "actual-size", "format"] {
        ensure!(
            volume[key] == original[key],
            "{key}: {}, not {}",
            volume[key],
            original[key]
        );
    }
    Ok(())
}

/// The map that qemu-img prints is the one of lseek, in units of 512 bytes, and equals the original's.
fn map(rig: &Rig, name: &Path) -> Result<()> {
    let volume = json(&["map", "-f", "raw"], &rig.volume(name))?;
    ensure!(
        volume == json(&["map", "-f", "raw"], &rig.original(name))?,
        "the maps differ"
    );
    let extents = volume.as_array().context("no list")?;
    let data = extents
        .iter()
        .filter(|extent| extent["data"] == Value::Bool(true))
        .count();
    assert_eq!(data, SeekMap::of_path(&rig.original(name))?.data().count());
    Ok(())
}

fn convert(rig: &Rig, name: &Path) -> Result<()> {
    convert_by(rig, name, &[])
}

/// With O_DIRECT on the volume.
fn convert_uncached(rig: &Rig, name: &Path) -> Result<()> {
    convert_by(rig, name, &["-T", "none"])
}

fn convert_by(rig: &Rig, name: &Path, options: &[&str]) -> Result<()> {
    require("qemu-img")?;
    let (volume, copy) = (rig.volume(name), copy_of(rig, name));
    let words = ["convert", "-f", "raw", "-O", "raw"]
        .iter()
        .chain(options)
        .map(OsStr::new);
    command::tool("qemu-img", words.chain([volume.as_os_str(), copy.as_os_str()]))?;
    ensure_copy(&rig.original(name), &copy, Space::AtMost)
}

/// qcow2 knows holes too, and `compare` reads both through their maps.
fn convert_to_qcow2_and_compare(rig: &Rig, name: &Path) -> Result<()> {
    require("qemu-img")?;
    let (volume, copy) = (rig.volume(name), copy_of(rig, name));
    let convert = ["convert", "-f", "raw", "-O", "qcow2"].map(OsStr::new);
    command::tool(
        "qemu-img",
        convert.into_iter().chain([volume.as_os_str(), copy.as_os_str()]),
    )?;
    let compare = ["compare", "-f", "raw", "-F", "qcow2"].map(OsStr::new);
    let ended = command::tool(
        "qemu-img",
        compare.into_iter().chain([volume.as_os_str(), copy.as_os_str()]),
    )?;
    ensure!(ended.text()?.contains("identical"), "{ended:?}");
    Ok(())
}

fn compare_with_the_original(rig: &Rig, name: &Path) -> Result<()> {
    require("qemu-img")?;
    let words = ["compare", "-s", "-f", "raw", "-F", "raw"].map(OsStr::new);
    let (volume, original) = (rig.volume(name), rig.original(name));
    let ended = command::tool(
        "qemu-img",
        words
            .into_iter()
            .chain([volume.as_os_str(), original.as_os_str()]),
    )?;
    ensure!(ended.text()?.contains("identical"), "{ended:?}");
    ensure!(compare::allocated_bytes(&original)? > 0, "nothing to compare");
    Ok(())
}

mod information {
    crate::on_samples!(super::info: ext4_image random_extents many_extents huge);
}

mod mapping {
    crate::on_samples!(super::map: ext4_image random_extents many_extents huge);
}

mod converting {
    crate::on_samples!(super::convert: ext4_image random_extents many_extents huge);
}

mod converting_uncached {
    crate::on_samples!(super::convert_uncached: ext4_image random_extents);
}

mod converting_to_qcow2 {
    crate::on_samples!(super::convert_to_qcow2_and_compare: ext4_image random_extents huge);
}

mod comparing {
    crate::on_samples!(super::compare_with_the_original: ext4_image random_extents many_extents huge);
}
