//! open and read: edges, random places, many readers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::at_once::at_once;
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::seek_map::SeekMap;

use crate::{KIB, MIB};

#[test]
fn small_volumes_read_whole() -> Result<()> {
    let edges = samples::edges()?;
    let rig = Rig::over(&edges[0])?;
    for path in &edges {
        let name = path.file_name().context("no name")?;
        assert_eq!(fs::read(rig.volume(name))?, fs::read(path)?, "{name:?}");
        compare::same_bytes(path, &rig.volume(name), Reading::Everything)?;
    }
    Ok(())
}

/// Reads that start and end around each edge give what the original gives, short ones at the end too.
#[test]
fn reads_around_every_edge() -> Result<()> {
    let path = samples::random_extents()?;
    let rig = Rig::over(&path)?;
    let name = path.file_name().context("no name")?;
    let (original, volume) = (File::open(&path)?, rig.mount.open(name)?);
    let map = SeekMap::of(&original)?;
    let mut edges: Vec<_> = map.runs.iter().flat_map(|run| [run.start, run.end]).collect();
    edges.extend([map.size - 1, map.size + 1, map.size + 5000]);
    for edge in edges {
        for start in [edge.saturating_sub(4097), edge.saturating_sub(1), edge, edge + 1] {
            for length in [1, 2, 4096, 10_000] {
                let (mut ours, mut theirs) = (vec![1; length], vec![1; length]);
                let read = (
                    volume.read_at(&mut ours, start)?,
                    original.read_at(&mut theirs, start)?,
                );
                ensure!(
                    read.0 == read.1 && ours == theirs,
                    "{length} bytes at {start}: read {read:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn random_reads_by_many_threads() -> Result<()> {
    let path = samples::many_extents()?;
    let rig = Rig::over_with(&["cache=16M"], &path)?;
    let name = path.file_name().context("no name")?;
    let check = |seed: u64| -> Result<()> {
        let (original, volume) = (File::open(&path)?, rig.mount.open(name)?);
        let size = original.metadata()?.len();
        let mut random = Random::new(seed);
        for _ in 0..400 {
            let start = random.below(size);
            let end = (start + random.between(1, 300 * KIB)).min(size);
            compare::same_range(&original, &volume, start, end)?;
        }
        Ok(())
    };
    at_once(8, check)
}

#[test]
fn a_volume_stays_readable_after_its_name_is_gone() -> Result<()> {
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 4 * MIB, 1, [(0, 2 * MIB)]))?;
    let expected = fs::read(rig.original("volume"))?;
    let volume = rig.mount.open("volume")?;
    fs::remove_file(rig.original("volume"))?;
    let mut bytes = vec![0; expected.len()];
    volume.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == expected, "bytes changed");
    Ok(())
}
