//! The client dies: after a new mount everything that was flushed is there, and nothing is half a name.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::reshape;
use lacuna_tests::rig::Rig;
use lacuna_tests::variable;

const LENGTH: usize = 2 << 20;

/// Bytes that were written after the last fsync may be of any of these writes; all others are exact.
#[test]
fn what_was_flushed_is_there() -> Result<()> {
    let seed = variable::number_or("LACUNA_SEED", 3)?;
    let mut random = Random::new(seed);
    let rig = Rig::filled(|_| Ok(()))?;
    let mut flushed = vec![0; LENGTH];
    rig.mount.create("volume")?.set_len(2 << 20)?;
    for round in 0..4 {
        let volume = rig.mount.open_for_writing("volume")?;
        let write = |random: &mut Random| -> Result<(usize, Vec<u8>)> {
            let length = usize::try_from(random.between(1, 60_000))?;
            let at = usize::try_from(random.below(2 << 20))?.min(LENGTH - length);
            let content = random.bytes(length);
            volume.write_all_at(&content, u64::try_from(at)?)?;
            Ok((at, content))
        };
        for _ in 0..random.between(5, 40) {
            let (at, content) = write(&mut random)?;
            flushed[at..at + content.len()].copy_from_slice(&content);
        }
        let (start, length) = (random.below(1 << 20), random.between(1, 1 << 19));
        reshape::punch(&volume, start, length)?;
        flushed[usize::try_from(start)?..usize::try_from(start + length)?].fill(0);
        volume.sync_all()?;
        fs::rename(rig.volume("volume"), rig.volume("other"))?;
        fs::rename(rig.volume("other"), rig.volume("volume"))?;
        // These may or may not arrive.
        let mut later = Vec::new();
        for _ in 0..random.between(0, 20) {
            later.push(write(&mut random)?);
        }
        rig.kill_and_remount()?;
        drop(volume);
        for path in [rig.volume("volume"), rig.original("volume")] {
            let found = fs::read(&path)?;
            ensure!(found.len() == LENGTH, "{}: {} bytes", path.display(), found.len());
            let came_later = |place: usize, byte: u8| {
                later.iter().any(|(at, content): &(usize, Vec<u8>)| {
                    place.checked_sub(*at).and_then(|inside| content.get(inside)) == Some(&byte)
                })
            };
            let wrong = (0..LENGTH).find(|at| found[*at] != flushed[*at] && !came_later(*at, found[*at]));
            ensure!(
                wrong.is_none(),
                "{}: byte {wrong:?} is neither what was flushed nor what came after, round {round}, seed {seed}",
                path.display()
            );
        }
        // What is there now is the start of the next round.
        flushed = fs::read(rig.volume("volume"))?;
    }
    Ok(())
}

/// Names are changed at the server when the call returns: no fsync is needed for them to outlive the client.
#[test]
fn names_that_were_changed_stay_changed() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    for round in 0..5 {
        fs::create_dir_all(rig.volume(format!("folder-{round}/inner")))?;
        fs::write(rig.volume(format!("folder-{round}/inner/volume")), [1; 10_000])?;
        fs::rename(
            rig.volume(format!("folder-{round}/inner/volume")),
            rig.volume(format!("volume-{round}")),
        )?;
        fs::remove_dir(rig.volume(format!("folder-{round}/inner")))?;
    }
    rig.kill_and_remount()?;
    for dir in [rig.mount.path(), &rig.dir] {
        assert_eq!(fs::read_dir(dir)?.count(), 10, "{}", dir.display());
        for round in 0..5 {
            let path = dir.join(format!("volume-{round}"));
            let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
            ensure!(bytes == [1; 10_000], "{} differs", path.display());
        }
    }
    Ok(())
}

/// A client that is killed leaves a server that serves others and the next mount.
#[test]
fn the_server_goes_on() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    for round in 0_u8..5 {
        let file = rig.mount.create(format!("volume-{round}"))?;
        file.write_all_at(&[round; 100_000], 0)?;
        file.sync_all()?;
        file.write_all_at(&[9; 100_000], 0)?;
        rig.kill_and_remount()?;
    }
    let again = rig.mount.create("again")?;
    again.write_all_at(b"again", 0)?;
    again.sync_all()?;
    assert_eq!(fs::read(rig.original("again"))?, b"again");
    Ok(())
}
