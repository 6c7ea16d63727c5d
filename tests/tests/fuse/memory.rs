//! `-o memory=`: whatever is done through a mount, its daemon stays within it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;

use super::MIB;

const MEMORY_BYTES: u64 = 96 * MIB;
/// The program itself: its text, its threads, what the allocator keeps.
const BEYOND_BYTES: u64 = 64 * MIB;
const DATA_BYTES: u64 = 192 * MIB;
const EXTENTS: u64 = 20_000;
/// Threads that read, and as many that write.
const THREADS: u64 = 6;
/// What each of them reads or writes.
const EACH_BYTES: u64 = 48 * MIB;

fn fill(dir: &Path) -> Result<()> {
    let data = File::create(dir.join("data"))?;
    let mut random = Random::new(5);
    for mebibyte in 0..DATA_BYTES / MIB {
        data.write_all_at(&random.noise(1 << 20), mebibyte * MIB)?;
    }
    let holes = File::create(dir.join("holes"))?;
    for extent in 0..EXTENTS {
        holes.write_all_at(b"data", extent << 13)?;
    }
    Ok(())
}

/// Mebibytes from anywhere.
fn read(path: &Path, seed: u64) -> Result<()> {
    let file = File::open(path)?;
    let mut random = Random::new(seed);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..EACH_BYTES / MIB {
        file.read_exact_at(&mut buffer, random.below(DATA_BYTES / MIB) * MIB)?;
    }
    Ok(())
}

fn write(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let buffer = vec![3; 1 << 20];
    for mebibyte in 0..EACH_BYTES / MIB {
        file.write_all_at(&buffer, mebibyte * MIB)?;
    }
    Ok(file.sync_all()?)
}

#[test]
fn the_budget_of_a_mount_holds_under_load() -> Result<()> {
    let rig = Rig::filled_with(&["memory=96M"], fill)?;
    let mut loads: Vec<thread::JoinHandle<Result<()>>> = Vec::new();
    for number in 0..THREADS {
        let (data, new): (PathBuf, PathBuf) = (rig.volume("data"), rig.volume(format!("new-{number}")));
        loads.push(thread::spawn(move || read(&data, number)));
        loads.push(thread::spawn(move || write(&new)));
    }
    let map = SeekMap::of_path(&rig.volume("holes"))?;
    for load in loads {
        load.join().map_err(|_| anyhow!("a load panicked"))??;
    }
    ensure!(
        map.short() == SeekMap::of_path(&rig.original("holes"))?.short(),
        "another map"
    );
    ensure!(fs::metadata(rig.original("new-0"))?.len() == EACH_BYTES);
    let peak = rig.mount.daemon()?.peak_bytes()?;
    println!("memory=96M: at most {} MiB", peak / MIB);
    ensure!(
        peak < MEMORY_BYTES + BEYOND_BYTES,
        "the client had {} MiB",
        peak / MIB
    );
    Ok(())
}
