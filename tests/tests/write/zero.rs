//! FALLOC_FL_ZERO_RANGE: reads zero, keeps its space, one request of any size.

use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context, Result, ensure};
use lacuna_tests::samples;
use lacuna_tests::twin::Twin;
use lacuna_tests::{compare, reshape};

use crate::{KIB, MIB, bytes, empty};

#[test]
fn edges_are_exact() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 4 * MIB + 99, 5, [(0, 3 * MIB)])
    })?;
    let mut at = 0;
    for start in [0, 1, 4095, 4096, 4097] {
        for length in [1, 4095, 4096, 4097, 64 * KIB + 1, 150_000] {
            let start = at + start;
            twin.both(|file| reshape::zero(file, start, length))?;
            at = (start + length).next_multiple_of(4096) % (3 * MIB);
        }
        twin.ensure_same_now()
            .with_context(|| format!("zeroed {start} beside a block"))?;
    }
    twin.ensure_same()
}

#[test]
fn the_size_grows_or_is_kept() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    twin.write(0, &bytes(1, 10_000)?)?;
    twin.both(|file| reshape::zero_keep_size(file, 5000, MIB))?;
    assert_eq!(twin.volume.metadata()?.len(), 10_000);
    twin.ensure_same_now()?;
    twin.both(|file| reshape::zero(file, 8000, MIB + 1))?;
    assert_eq!(twin.volume.metadata()?.len(), MIB + 8001);
    twin.ensure_same()
}

#[test]
fn space_is_kept_and_one_request_is_sent() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::filled(&rig, "volume", |path| {
        samples::write_sparse(path, 64 * MIB, 6, [(0, 64 * MIB)])
    })?;
    // Opening, the map and the first block are asked for before.
    twin.volume.read_exact_at(&mut [0; 4096], 0)?;
    let before = rig.mount.settled()?;
    twin.both(|file| reshape::zero(file, 0, 64 * MIB))?;
    let after = rig.mount.settled()?;
    assert_eq!(
        after.requests_sent - before.requests_sent,
        1,
        "requests for one zero"
    );
    twin.ensure_same_now()?;
    ensure!(
        compare::allocated_bytes(twin.original_path())? >= 64 * MIB,
        "zeroing freed the space"
    );
    ensure!(
        twin.volume.metadata()?.blocks() * 512 >= 64 * MIB,
        "st_blocks lost the space"
    );
    twin.ensure_same()
}

#[test]
fn dirty_bytes_are_zeroed_too() -> Result<()> {
    let rig = empty()?;
    let twin = Twin::create(&rig, "volume")?;
    for round in 0..10 {
        twin.write(round * 70_001, &bytes(round, 200_000)?)?;
        twin.both(|file| reshape::zero(file, round * 70_001 + 12_345, 99_999))?;
        twin.write(round * 70_001 + 20_000, b"again")?;
    }
    twin.ensure_same()
}
