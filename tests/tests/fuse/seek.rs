//! lseek: SEEK_DATA and SEEK_HOLE through the mount against the same calls on the original.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::loop_device::Mounted;
use lacuna_tests::rig::Rig;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::seek_map::{SeekMap, answers};
use lacuna_tests::{command, host, samples};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::{KIB, MIB};

/// Runs whose edges are tried, about.
const RUNS_TRIED: usize = 16_000;

/// The maps are the same, and both calls give the same answer at every edge, one before, one after, and around both ends.
fn same_answers(original: &Path, volume: &Path) -> Result<()> {
    let (original, volume) = (File::open(original)?, File::open(volume)?);
    let map = SeekMap::of(&original)?;
    ensure!(SeekMap::of(&volume)? == map, "the maps differ");
    let mut places = vec![
        0,
        1,
        map.size.saturating_sub(1),
        map.size,
        map.size + 1,
        map.size + MIB,
        u64::MAX / 2,
    ];
    // Of tens of thousands of extents some: each place is four calls.
    for run in map.runs.iter().step_by(1 + map.runs.len() / RUNS_TRIED) {
        places.extend([
            run.start.saturating_sub(1),
            run.start,
            run.start + 1,
            (run.start + run.end) / 2,
        ]);
    }
    for place in places {
        let (ours, theirs) = (answers(&volume, place), answers(&original, place));
        ensure!(
            ours == theirs,
            "(SEEK_DATA, SEEK_HOLE) at {place} of {}: {ours:?}, not {theirs:?}",
            map.size
        );
    }
    Ok(())
}

fn of_sample(path: &Path) -> Result<()> {
    let rig = Rig::over(path)?;
    same_answers(path, &rig.volume(path.file_name().context("no name")?))
}

#[test]
fn small_volumes() -> Result<()> {
    let edges = samples::edges()?;
    let rig = Rig::over(&edges[0])?;
    edges.iter().try_for_each(|path| {
        let name = path.file_name().context("no name")?;
        same_answers(path, &rig.volume(name)).with_context(|| format!("{name:?}"))
    })
}

#[test]
fn ext4_image() -> Result<()> {
    of_sample(&samples::ext4_image()?)
}

#[test]
fn random_extents() -> Result<()> {
    of_sample(&samples::random_extents()?)
}

#[test]
fn many_extents() -> Result<()> {
    of_sample(&samples::many_extents()?)
}

#[test]
fn huge() -> Result<()> {
    of_sample(&samples::huge()?)
}

/// The same with other file systems below the server, which round and report in their own way.
fn on_file_system(make: &str, arguments: &[&str]) -> Result<()> {
    host::require_programs(&[make])?;
    let sandbox = Sandbox::new()?;
    let image = sandbox.join("backing.img");
    File::create_new(&image)?.set_len(512 * MIB)?;
    command::tool(
        make,
        arguments
            .iter()
            .copied()
            .map(AsRef::as_ref)
            .chain([image.as_os_str()]),
    )?;
    let backing = Mounted::mount(&image, sandbox.join("backing"), "loop")?;
    let dir = backing.path().join("served");
    fs::create_dir(&dir)?;
    let extents = (0..40).map(|i| (i * 3 * MIB + i * 700, i * 3 * MIB + i * 700 + 1 + i * 9 * KIB));
    samples::write_sparse(&dir.join("volume"), 200 * MIB + 777, 12, extents)?;
    let rig = Rig::start(sandbox, dir, &[])?;
    let outcome = same_answers(&rig.original("volume"), &rig.volume("volume"));
    drop(rig.mount);
    drop(rig.server);
    backing.unmount()?;
    outcome
}

#[test]
fn on_xfs() -> Result<()> {
    on_file_system("mkfs.xfs", &["-q"])
}

#[test]
fn on_btrfs() -> Result<()> {
    on_file_system("mkfs.btrfs", &["-q"])
}

/// A preallocated, never written range may be data or hole by the original's own answer; never less data.
#[test]
fn preallocated_space() -> Result<()> {
    let rig = Rig::filled(|dir| {
        let path = dir.join("volume");
        samples::write_sparse(&path, 16 * MIB, 13, [(0, MIB), (8 * MIB, 9 * MIB)])?;
        let file = File::options().write(true).open(path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 4 * MIB, 2 * MIB)?;
        file.write_all_at(b"in it", 5 * MIB)?;
        Ok(file.sync_all()?)
    })?;
    let (original, volume) = (
        SeekMap::of_path(&rig.original("volume"))?,
        SeekMap::of_path(&rig.volume("volume"))?,
    );
    original.ensure_within(&volume)
}

/// SEEK_SET, SEEK_CUR and SEEK_END work beside the two others, and errors leave the position alone.
#[test]
fn the_file_position() -> Result<()> {
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 3 * MIB, 14, [(MIB, 2 * MIB)]))?;
    let file = rig.mount.open("volume")?;
    assert_eq!(seek(&file, SeekFrom::End(-5)), Ok(3 * MIB - 5));
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(MIB));
    assert_eq!(seek(&file, SeekFrom::Current(0)), Ok(MIB));
    assert_eq!(seek(&file, SeekFrom::Data(2 * MIB)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Current(0)), Ok(MIB));
    assert_eq!(seek(&file, SeekFrom::Hole(MIB)), Ok(2 * MIB));
    assert_eq!(seek(&file, SeekFrom::Current(0)), Ok(2 * MIB));
    assert_eq!(seek(&file, SeekFrom::Start(7)), Ok(7));
    Ok(())
}
