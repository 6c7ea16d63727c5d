//! `-o compress=`: what arrives at the server, and how much of it crosses the network.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;

use crate::MIB;

const SIZE: u64 = 16 * MIB;

/// Writes all of a volume through a mount with `option`, and tells how many bytes were sent.
fn write_all(option: &str, content: &[u8]) -> Result<u64> {
    let rig = Rig::filled_with(&[option], |_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    let before = rig.mount.settled()?;
    volume.write_all_at(content, 0)?;
    volume.sync_all()?;
    let after = rig.mount.settled()?;
    ensure!(
        fs::read(rig.original("volume"))? == content,
        "{option}: the server's file differs"
    );
    Ok(after.bytes_sent - before.bytes_sent)
}

#[test]
fn text_crosses_the_network_packed() -> Result<()> {
    let text = Random::new(71).text(usize::try_from(SIZE)?);
    for option in ["compress=zstd", "compress=lz4"] {
        let sent = write_all(option, &text)?;
        ensure!(sent < SIZE / 2, "{option}: {sent} bytes sent for {SIZE}");
    }
    Ok(())
}

#[test]
fn random_data_costs_no_more_than_itself() -> Result<()> {
    let noise = Random::new(72).noise(usize::try_from(SIZE)?);
    for option in ["compress=zstd", "compress=lz4"] {
        let sent = write_all(option, &noise)?;
        ensure!(
            (SIZE..SIZE + SIZE / 100).contains(&sent),
            "{option}: {sent} bytes sent for {SIZE}"
        );
    }
    Ok(())
}

#[test]
fn none_sends_the_bytes_as_they_are() -> Result<()> {
    let sent = write_all("compress=none", &Random::new(73).text(usize::try_from(SIZE)?))?;
    ensure!(sent >= SIZE, "{sent} bytes sent for {SIZE}");
    Ok(())
}
