//! What scripts/bench.sh measures with: makes its volumes, times what is done to them, prints the table, draws plots.
//!
//! Usage: `measure make FOLDER full|quick`, `measure port`, `measure cpu PROCESS...`, `measure memory MIB`, `measure table RAW FACTS JSON`,
//! `measure plot JSON FOLDER`, `measure walk|read FILE BOUND`, `measure write|dribble|punch FILE MIB BOUND`,
//! `measure random FILE THREADS SECONDS SEED`, `measure seeks|sync FILE SECONDS`, `measure inside SOURCE TARGET BOUND`,
//! `measure scribble FILE COUNT`.
//!
//! Bounds are in seconds; what takes longer is stopped and says how far it got.

use std::env;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lacuna_tests::measure::{self, Figure};
use lacuna_tests::random::Random;
use lacuna_tests::samples::{write_comb, write_sparse};
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::table;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How many times smaller the volumes of `--quick` are: a run has a minute.
const QUICK_PART: u64 = 16;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["make", folder, "full"] => make(Path::new(folder), 1),
        ["make", folder, "quick"] => make(Path::new(folder), QUICK_PART),
        ["port"] => port(),
        ["cpu", ref processes @ ..] => cpu(processes),
        ["memory", mib] => memory(mib.parse()?),
        ["table", raw, facts, json] => table::print(Path::new(raw), Path::new(facts), Path::new(json)),
        ["plot", json, folder] => table::plot(Path::new(json), Path::new(folder)),
        ["walk", file, bound] => walk(Path::new(file), bound.parse()?),
        ["read", file, bound] => figure(measure::read(Path::new(file), bound.parse()?)),
        ["write", file, mib, bound] => figure(measure::write(Path::new(file), mib.parse()?, bound.parse()?)),
        ["dribble", file, mib, bound] => {
            figure(measure::dribble(Path::new(file), mib.parse()?, bound.parse()?))
        }
        ["punch", file, mib, bound] => figure(measure::punch(Path::new(file), mib.parse()?, bound.parse()?)),
        ["random", file, threads, seconds, seed] => {
            random(Path::new(file), threads.parse()?, seconds.parse()?, seed.parse()?)
        }
        ["seeks", file, seconds] => figure(measure::seek::seeks(Path::new(file), seconds.parse()?)),
        ["sync", file, seconds] => figure(measure::sync(Path::new(file), seconds.parse()?)),
        ["scribble", file, count] => scribble(Path::new(file), count.parse()?),
        ["inside", source, target, bound] => figure(measure::inside(
            Path::new(source),
            Path::new(target),
            bound.parse()?,
        )),
        _ => bail!("see the head of measure.rs for the arguments"),
    }
}

fn figure(figure: Result<Figure>) -> Result<()> {
    println!("{}", figure?);
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
    // A million extents of one block, each beside a hole of one block.
    write_comb(&folder.join("million"), 1_000_000 / part, 4 * KIB)?;
    write_comb(&folder.join("thousand"), 1000, 4 * KIB)?;
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

/// Prints the figure of a walk, and then how many extents of data it found.
fn walk(path: &Path, bound: f64) -> Result<()> {
    let (figure, extents) = measure::seek::walk(path, bound)?;
    println!("{extents} {figure}");
    Ok(())
}

/// Prints the rate of random reads, and what half and 99 of 100 of them took at most, in microseconds.
fn random(path: &Path, threads: usize, seconds: f64, seed: u64) -> Result<()> {
    let reads = measure::random::read(path, threads, seconds, seed)?;
    let (half, most) = (reads.percentile_us(50), reads.percentile_us(99));
    println!("{:.1} {half:.1} {most:.1}", reads.rate);
    Ok(())
}

/// Prints the seconds that processes and their descendants have used so far.
fn cpu(processes: &[&str]) -> Result<()> {
    let processes: Result<Vec<_>, _> = processes.iter().map(|word| word.parse()).collect();
    println!("{:.2}", measure::cpu::seconds(&processes?));
    Ok(())
}

/// Touches memory, so that it is there for what is measured next, and prints the microseconds that a page took.
fn memory(mib: usize) -> Result<()> {
    println!("{:.1}", measure::memory::touch(mib)?.as_secs_f64() * 1e6);
    Ok(())
}

/// Prints a port of loopback that was free a moment ago, for servers that cannot choose one themselves.
fn port() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    println!("{}", listener.local_addr()?.port());
    Ok(())
}
