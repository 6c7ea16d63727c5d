//! A server that is far away and a link that loses packets: bytes, holes, seeks and copies are right, and the
//! session is not lost.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::compare::{self, Reading, Space};
use lacuna_tests::link::{Conditions, LinkedRig};
use lacuna_tests::random::Random;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, reshape, samples};

use crate::{KIB, MIB};

/// One test for each round trip in ms and each loss in percent.
macro_rules! at {
    ($($name:ident: $rtt_ms:literal $loss_percent:literal)*) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                super::all_is_right(Conditions::of($rtt_ms, $loss_percent))
            }
        )*
    };
}

mod rtt {
    use super::Conditions;

    at! {
        of_1_ms: 1 0
        of_1_ms_and_1_percent_is_lost: 1 1
        of_1_ms_and_5_percent_is_lost: 1 5
        of_20_ms: 20 0
        of_20_ms_and_1_percent_is_lost: 20 1
        of_20_ms_and_5_percent_is_lost: 20 5
        of_100_ms: 100 0
        of_100_ms_and_1_percent_is_lost: 100 1
        of_100_ms_and_5_percent_is_lost: 100 5
    }
}

/// Packets that come late, twice, and after later ones are as good as any.
#[test]
fn jitter_duplicates_and_reordering() -> Result<()> {
    let words = "rtt=10ms jitter=20ms loss=1% duplicate=5% reorder=5% rate=50mbit";
    all_is_right(
        words
            .split(' ')
            .try_fold(Conditions::default(), Conditions::with)?,
    )
}

fn all_is_right(conditions: Conditions) -> Result<()> {
    let linked = LinkedRig::filled(conditions, &[], |dir| {
        let data = [
            (0, 5000),
            (3 * MIB, 3 * MIB + 200 * KIB),
            (40 * MIB + 7, 40 * MIB + 100_000),
        ];
        samples::write_sparse(&dir.join("volume"), 64 * MIB + 513, 61, data)
    })?;
    reads_are_right(&linked)?;
    writes_are_right(&linked)?;
    let status = linked.rig.mount.status()?;
    ensure!(status.reconnects == 0, "the session was lost: {status:?}");
    Ok(())
}

fn reads_are_right(linked: &LinkedRig) -> Result<()> {
    let rig = &linked.rig;
    let (original, volume) = (rig.original("volume"), rig.volume("volume"));
    compare::same_bytes(&original, &volume, Reading::Everything)?;
    assert_eq!(SeekMap::of_path(&volume)?, SeekMap::of_path(&original)?);
    let copy = rig.sandbox.join("copy");
    command::tool("cp", [&volume, &copy])?;
    compare::same_bytes(&original, &copy, Reading::Data)?;
    compare::same_space(&original, &copy, Space::Same)
}

/// Overlapping writes, a punch and an fsync: then the server's file is as a local one would be.
fn writes_are_right(linked: &LinkedRig) -> Result<()> {
    let rig = &linked.rig;
    let (volume, model) = (
        rig.mount.create("written")?,
        fs::File::create_new(rig.sandbox.join("model"))?,
    );
    let mut random = Random::new(62);
    for file in [&volume, &model] {
        file.set_len(4 * MIB)?;
    }
    for _ in 0..12 {
        let content = random.bytes(usize::try_from(random.clone().between(1, 40_000))?);
        let at = random.below(4 * MIB - 40_000);
        for file in [&volume, &model] {
            file.write_all_at(&content, at)?;
        }
    }
    for file in [&volume, &model] {
        reshape::punch(file, MIB, MIB)?;
    }
    // Not flushed yet: what is dirty is data, what was punched is a hole.
    assert_eq!(SeekMap::of(&volume)?, SeekMap::of(&model)?);
    volume.sync_all()?;
    model.sync_all()?;
    for path in [rig.original("written"), rig.volume("written")] {
        compare::same_bytes(&rig.sandbox.join("model"), &path, Reading::Everything)?;
        assert_eq!(SeekMap::of_path(&path)?, SeekMap::of(&model)?);
    }
    Ok(())
}
