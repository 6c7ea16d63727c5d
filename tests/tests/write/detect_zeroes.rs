//! `-o detect-zeroes=`: what becomes of zeros that an application writes, with the words of QEMU.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::{compare, random::Random};

use crate::{KIB, MIB, bytes};

const ZEROS: usize = 1 << 20;

/// Writes 1 MiB of zeros over data and 1 MiB into a hole, and gives the bytes of space that the server's file
/// takes then, of 2 MiB of data before, and the bytes that were sent.
fn space_after_zeros(option: &[&str]) -> Result<(u64, u64)> {
    let rig = Rig::filled_with(option, |_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    volume.set_len(8 * MIB)?;
    volume.write_all_at(&bytes(1, 2 * MIB)?, 0)?;
    volume.sync_all()?;
    let before = rig.mount.settled()?;
    volume.write_all_at(&vec![0; ZEROS], MIB)?;
    volume.write_all_at(&vec![0; ZEROS], 4 * MIB)?;
    volume.sync_all()?;
    let after = rig.mount.settled()?;
    let mut expected = bytes(1, MIB)?;
    expected.resize(8 << 20, 0);
    for path in [rig.volume("volume"), rig.original("volume")] {
        ensure!(fs::read(&path)? == expected, "{} differs", path.display());
    }
    let taken = compare::allocated_bytes(&rig.original("volume"))?;
    let shown = fs::metadata(rig.volume("volume"))?.blocks() * 512;
    ensure!(
        shown.abs_diff(taken) <= 128 * KIB,
        "st_blocks shows {shown} bytes of {taken}"
    );
    Ok((taken, after.bytes_sent - before.bytes_sent))
}

#[test]
fn off_writes_zeros_as_data() -> Result<()> {
    for option in [&[][..], &["detect-zeroes=off"]] {
        let (taken, _) = space_after_zeros(option)?;
        ensure!(taken >= 3 * MIB, "{taken} bytes are taken with {option:?}");
    }
    Ok(())
}

#[test]
fn on_keeps_the_space_and_sends_no_zeros() -> Result<()> {
    let (taken, sent) = space_after_zeros(&["detect-zeroes=on"])?;
    ensure!(taken >= 2 * MIB, "{taken} bytes are taken: space was freed");
    ensure!(sent < 128 * KIB, "{sent} bytes sent for zeros");
    Ok(())
}

#[test]
fn unmap_makes_holes_and_sends_no_zeros() -> Result<()> {
    let (taken, sent) = space_after_zeros(&["detect-zeroes=unmap"])?;
    ensure!(
        taken <= MIB + 128 * KIB,
        "{taken} bytes are taken: zeros were kept"
    );
    ensure!(sent < 128 * KIB, "{sent} bytes sent for zeros");
    Ok(())
}

/// Zeros and data in turn, aligned and not: every byte is right, whatever was found.
#[test]
fn mixed_writes_are_right_in_every_mode() -> Result<()> {
    for option in ["detect-zeroes=off", "detect-zeroes=on", "detect-zeroes=unmap"] {
        let rig = Rig::filled_with(&[option], |_| Ok(()))?;
        let volume = rig.mount.create("volume")?;
        let mut expected = bytes(5, 2 * MIB)?;
        volume.write_all_at(&expected, 0)?;
        let mut random = Random::new(51);
        for _ in 0..100 {
            let length = usize::try_from(random.between(1, 60_000))?;
            let start = random.below(2 * MIB - 60_000);
            let mut content = random.bytes(length);
            let zeros = usize::try_from(random.below(60_000))?.min(length);
            content[length - zeros..].fill(0);
            volume.write_all_at(&content, start)?;
            expected[usize::try_from(start)?..][..length].copy_from_slice(&content);
        }
        ensure!(
            fs::read(rig.volume("volume"))? == expected,
            "{option}: the volume differs"
        );
        volume.sync_all()?;
        ensure!(
            fs::read(rig.original("volume"))? == expected,
            "{option}: the server's file differs"
        );
    }
    Ok(())
}

#[test]
fn another_word_is_refused() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let other = rig.sandbox.folder("other")?;
    let spec = rig.server.address().to_string();
    let ended = rig
        .mount
        .client()
        .try_mount(spec.as_ref(), &other, &["detect-zeroes=maybe"])?;
    ensure!(!ended.success(), "detect-zeroes=maybe was taken");
    ensure!(ended.stderr.contains("detect-zeroes"), "{}", ended.stderr);
    Ok(())
}
