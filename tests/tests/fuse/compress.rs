//! `-o compress=`: what is read, and how much of it crosses the network.

use std::fs;

use anyhow::{Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;

use crate::MIB;

const SIZE: u64 = 16 * MIB;

/// Reads all of a volume through a mount with `option`, and tells how many bytes were fetched and received.
fn read_all(option: &str, content: &[u8]) -> Result<(u64, u64)> {
    let rig = Rig::filled_with(&[option], |dir| Ok(fs::write(dir.join("volume"), content)?))?;
    let before = rig.mount.settled()?;
    ensure!(
        fs::read(rig.volume("volume"))? == content,
        "{option}: the volume differs"
    );
    let after = rig.mount.settled()?;
    Ok((
        after.fetched_bytes - before.fetched_bytes,
        after.bytes_received - before.bytes_received,
    ))
}

fn text() -> Result<Vec<u8>> {
    Ok(Random::new(61).text(usize::try_from(SIZE)?))
}

#[test]
fn text_crosses_the_network_packed() -> Result<()> {
    for option in ["compress=zstd", "compress=lz4"] {
        let (fetched, received) = read_all(option, &text()?)?;
        assert_eq!(fetched, SIZE, "{option}");
        ensure!(
            received < SIZE / 2,
            "{option}: {received} bytes received for {SIZE}"
        );
    }
    Ok(())
}

#[test]
fn random_data_costs_no_more_than_itself() -> Result<()> {
    let noise = Random::new(62).noise(usize::try_from(SIZE)?);
    for option in ["compress=zstd", "compress=lz4"] {
        let (fetched, received) = read_all(option, &noise)?;
        assert_eq!(fetched, SIZE, "{option}");
        ensure!(
            (SIZE..SIZE + SIZE / 100).contains(&received),
            "{option}: {received} bytes received for {SIZE}"
        );
    }
    Ok(())
}

/// Text and noise in turns, in pieces that no request ends with.
#[test]
fn a_mixture_is_read_right_with_every_choice() -> Result<()> {
    let mut random = Random::new(63);
    let mut content = Vec::new();
    while content.len() < 8 << 20 {
        let length = usize::try_from(random.between(1, 300_000))?;
        content.extend(random.text(length));
        content.extend(random.noise(length / 3));
    }
    for option in ["compress=zstd", "compress=lz4", "compress=auto", "compress=none"] {
        read_all(option, &content)?;
    }
    Ok(())
}

#[test]
fn none_sends_the_bytes_as_they_are() -> Result<()> {
    let (_, received) = read_all("compress=none", &text()?)?;
    ensure!(received >= SIZE, "{received} bytes received for {SIZE}");
    Ok(())
}
