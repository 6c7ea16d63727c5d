//! qemu-img and qemu-io on volumes: create, convert, resize, compare, discard and write of zeros.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{compare, host, samples};

use super::{ensure_arrived, ensure_shown, into_mount, taken};

const MIB: u64 = 1 << 20;

fn qemu(program: &str, options: &[&str], paths: &[&Path]) -> Result<String> {
    host::require_programs(&[program])?;
    let words = options.iter().copied().map(AsRef::as_ref);
    let paths = paths.iter().map(|path| path.as_os_str());
    let ended = lacuna_tests::command::tool(program, words.chain(paths))?;
    Ok(ended.text()?.to_owned())
}

fn convert(options: &[&str], sample: &Path) -> Result<()> {
    into_mount(sample, Space::AtMost, |source, target| {
        let words: Vec<_> = ["convert", "-f", "raw", "-O", "raw"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        qemu("qemu-img", &words, &[source, target])?;
        let compare = ["compare", "-f", "raw", "-F", "raw"];
        let said = qemu("qemu-img", &compare, &[source, target])?;
        ensure!(said.contains("identical"), "{said}");
        Ok(())
    })
}

#[test]
fn convert_an_image() -> Result<()> {
    convert(&[], &samples::ext4_image()?)
}

#[test]
fn convert_a_huge_volume() -> Result<()> {
    convert(&[], &samples::huge()?)
}

/// O_DIRECT on the target, and out of order.
#[test]
fn convert_uncached() -> Result<()> {
    convert(&["-t", "none", "-W"], &samples::ext4_image()?)
}

/// `-C` copies by copy_file_range: inside the mount nothing of the data crosses the network.
#[test]
fn convert_inside_the_mount_by_copy_offloading() -> Result<()> {
    let sample = samples::ext4_image()?;
    let rig = Rig::filled(|dir| {
        let copy = dir.join("first");
        lacuna_tests::command::tool("cp", [sample.as_os_str(), copy.as_os_str()]).map(drop)
    })?;
    let before = rig.mount.settled()?;
    let words = ["convert", "-C", "-f", "raw", "-O", "raw"];
    qemu(
        "qemu-img",
        &words,
        &[&rig.volume("first"), &rig.volume("written")],
    )?;
    let after = rig.mount.settled()?;
    let crossed = after.bytes_sent - before.bytes_sent + after.bytes_received - before.bytes_received;
    ensure!(crossed < 2 * MIB, "{crossed} bytes crossed the network");
    ensure_arrived(&rig, &sample, "written", Space::AtMost)
}

#[test]
fn qcow2_inside_the_mount() -> Result<()> {
    let sample = samples::ext4_image()?;
    let rig = Rig::filled(|_| Ok(()))?;
    let (packed, raw) = (rig.volume("image.qcow2"), rig.volume("written"));
    qemu(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2"],
        &[&sample, &packed],
    )?;
    qemu("qemu-img", &["check", "-f", "qcow2"], &[&packed])?;
    qemu(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw"],
        &[&packed, &raw],
    )?;
    ensure_arrived(&rig, &sample, "written", Space::AtMost)?;
    ensure_shown(&packed, &rig.original("image.qcow2"))
}

#[test]
fn create_and_resize() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let volume = rig.volume("volume");
    let image = |words: &[&str], size: &str| -> Result<()> {
        let path = volume.to_str().unwrap_or_default();
        let words: Vec<_> = words.iter().copied().chain([path, size]).collect();
        qemu("qemu-img", &words, &[]).map(drop)
    };
    image(&["create", "-q", "-f", "raw"], "10G")?;
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 10 << 30);
    ensure!(taken(&rig, "volume")? <= 64 << 10, "a new image takes space");
    image(&["resize", "-q", "-f", "raw"], "12G")?;
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 12 << 30);
    image(&["resize", "-q", "-f", "raw", "--shrink"], "64M")?;
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 64 << 20);
    image(&["resize", "-q", "-f", "raw", "--preallocation=falloc"], "80M")?;
    ensure!(taken(&rig, "volume")? >= 16 * MIB, "nothing was reserved");
    ensure_shown(&volume, &rig.original("volume"))
}

fn discard_and_zeros(options: &[&str]) -> Result<()> {
    let rig = Rig::filled(|dir| Ok(File::create(dir.join("volume"))?.set_len(64 * MIB)?))?;
    let commands = [
        "-c",
        "write -P 0x11 0 16M",
        "-c",
        "discard 1M 4M",
        "-c",
        "write -z 8M 1M",
        "-c",
        "write -z -u 10M 1M",
        "-c",
        "write -P 0x22 2M 64k",
        "-c",
        "flush",
    ];
    let words: Vec<_> = ["-f", "raw", "-d", "unmap"]
        .into_iter()
        .chain(options.iter().copied())
        .chain(commands)
        .collect();
    qemu("qemu-io", &words, &[&rig.volume("volume")])?;
    let mut expected = vec![0x11; 16 << 20];
    for (start, end) in [(1, 5), (8, 9), (10, 11)] {
        expected[start << 20..end << 20].fill(0);
    }
    expected[2 << 20..][..64 << 10].fill(0x22);
    expected.resize(64 << 20, 0);
    for path in [rig.volume("volume"), rig.original("volume")] {
        ensure!(fs::read(&path)? == expected, "{} differs", path.display());
    }
    ensure_shown(&rig.volume("volume"), &rig.original("volume"))?;
    SeekMap::of_path(&rig.volume("volume"))?.ensure_hole(3 * MIB, 5 * MIB)?;
    let taken = compare::allocated_bytes(&rig.original("volume"))?;
    // 16 less the 4 that were discarded and the 1 that was unmapped.
    let expected = 11 * MIB..=11 * MIB + (192 << 10);
    ensure!(
        expected.contains(&taken),
        "{taken} bytes are taken, not {expected:?}"
    );
    Ok(())
}

#[test]
fn qemu_io_discards_and_writes_zeros() -> Result<()> {
    discard_and_zeros(&[])
}

#[test]
fn qemu_io_does_so_uncached() -> Result<()> {
    discard_and_zeros(&["-t", "none"])
}
