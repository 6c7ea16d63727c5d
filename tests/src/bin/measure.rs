//! What scripts/bench.sh measures with: makes its volumes, times walks and reads, and prints the table.
//!
//! Usage: `measure make FOLDER full|quick`, `measure walk FILE`, `measure read FILE`, `measure port`,
//! `measure table RAW JSON`, `measure write|dribble|punch FILE MIB`, `measure sync FILE SECONDS`,
//! `measure inside SOURCE TARGET`, `measure scribble FILE COUNT`.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lacuna_tests::measure;
use lacuna_tests::random::Random;
use lacuna_tests::samples::write_sparse;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::table;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["make", folder, "full"] => make(Path::new(folder), 1),
        ["make", folder, "quick"] => make(Path::new(folder), 8),
        ["walk", file] => walk(Path::new(file)),
        ["read", file] => read(Path::new(file)),
        ["port"] => port(),
        ["table", raw, json] => table::print(Path::new(raw), Path::new(json)),
        ["write", file, mib] => figure(measure::write(Path::new(file), mib.parse()?)),
        ["dribble", file, mib] => figure(measure::dribble(Path::new(file), mib.parse()?)),
        ["punch", file, mib] => figure(measure::punch(Path::new(file), mib.parse()?)),
        ["sync", file, seconds] => figure(measure::sync(Path::new(file), seconds.parse()?)),
        ["scribble", file, count] => scribble(Path::new(file), count.parse()?),
        ["inside", source, target] => figure(measure::inside(Path::new(source), Path::new(target))),
        _ => bail!("see the head of measure.rs for the arguments"),
    }
}

fn figure(figure: Result<f64>) -> Result<()> {
    println!("{:.3}", figure?);
    Ok(())
}

/// The volumes of the benchmark, each `part` times smaller than the full ones.
fn make(folder: &Path, part: u64) -> Result<()> {
    let mut random = Random::new(91);
    // 16 GiB with 1 GiB of data in 1,900 extents.
    write_sparse(
        &folder.join("sparse"),
        16 * GIB / part,
        92,
        spread(&mut random, 1900 / part, 565 * KIB, 16 * GIB / part),
    )?;
    // 64 GiB with 65,153 extents of one block.
    let extents = spread(&mut random, 65_153 / part, 4 * KIB, 64 * GIB / part);
    write_sparse(&folder.join("extents"), 64 * GIB / part, 93, extents)?;
    write_sparse(
        &folder.join("dense"),
        GIB / part,
        94,
        (0..GIB / part / MIB).map(|i| (i * MIB, (i + 1) * MIB)),
    )?;
    write_sparse(&folder.join("hole"), 4 * GIB / part, 95, [])?;
    // 8 TiB with 1.5 GB of data.
    let extents = spread(&mut random, 1500 / part, 1000 * KIB, 8 << 40);
    write_sparse(&folder.join("huge"), 8 << 40, 96, extents)
}

/// Overwrites `count` blocks of 4 KiB at random places of a file's data, as a guest that ran for a while does.
fn scribble(path: &Path, count: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let runs: Vec<_> = SeekMap::of(&file)?.data().collect();
    let mut random = Random::new(97);
    for _ in 0..count {
        let run = &runs[usize::try_from(random.below(runs.len().try_into()?))?];
        let block = run.start + random.below((run.end - run.start).div_ceil(4 * KIB)) * 4 * KIB;
        file.write_all_at(&random.bytes(4096), block)?;
    }
    file.sync_all()?;
    Ok(())
}

/// `count` ranges of `length` bytes, one at a random block of each of `count` equal parts.
fn spread(random: &mut Random, count: u64, length: u64, size: u64) -> Vec<(u64, u64)> {
    let part = size / count;
    let length = length / (4 * KIB) * (4 * KIB);
    let place =
        |i: u64| (i * part).next_multiple_of(4 * KIB) + random.below((part - length) / (4 * KIB)) * 4 * KIB;
    (0..count)
        .map(place)
        .map(|start| (start, start + length))
        .collect()
}

/// Prints the seconds of a whole walk and how many extents of data it found.
fn walk(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let start = Instant::now();
    let map = SeekMap::of(&file)?;
    println!("{:.6} {}", start.elapsed().as_secs_f64(), map.data().count());
    Ok(())
}

/// Prints the seconds of reading a file from its start to its end, opening included, and its bytes.
fn read(path: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        total += count;
    }
    println!("{:.6} {total}", start.elapsed().as_secs_f64());
    Ok(())
}

/// Prints a port of loopback that was free a moment ago, for servers that cannot choose one themselves.
fn port() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    println!("{}", listener.local_addr()?.port());
    Ok(())
}
