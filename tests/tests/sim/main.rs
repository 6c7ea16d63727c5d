//! The simulation: clients, a server and a network on one thread, in virtual time, with faults, all from one seed.
//!
//! The client and the server are the real ones, over real QUIC; what is simulated is UDP, the disk, and the clock. A
//! failing seed says how to run it again.

#![allow(clippy::unwrap_used, reason = "a test")]

mod actor;
mod baton;
mod client;
mod history;
mod holders;
mod host;
mod ledger;
mod nemesis;
mod network;
mod storage;
mod world;

use anyhow::{Result, ensure};
use lacuna_tests::variable;

use self::storage::{BUGS, Bug};
use self::world::Report;

/// Seeds of one test; there are two, so that two processors have something to do.
const SEEDS: u64 = 500;
/// An injected bug is found in so many seeds at most.
const BUG_SEEDS_MAX: u64 = 100;

fn explain(seed: u64, report: &Report) -> String {
    format!(
        "seed {seed}:\n{}\n\nwhat happened:\n{}\n\nagain: LACUNA_SIM_SEED={seed} cargo nextest run -p lacuna-tests --test sim replay --no-capture",
        report.violations.join("\n"),
        report.trace.join("\n"),
    )
}

/// Runs every second one of the seeds from `first` on.
fn seeds(first: u64) -> Result<()> {
    let count = variable::number("LACUNA_SIM_SEEDS")?.map_or(SEEDS, |all: u64| all / 2);
    let start = variable::number_or("LACUNA_SIM_START", 0)?;
    let mut sum = Report::default();
    for seed in (0..count).map(|index| start + first + 2 * index) {
        let report = world::run(seed, None)?;
        ensure!(report.violations.is_empty(), "{}", explain(seed, &report));
        sum.operations += report.operations;
        sum.failed_operations += report.failed_operations;
        sum.faults += report.faults;
        sum.takeovers += report.takeovers;
        sum.fenced += report.fenced;
        sum.rescued += report.rescued;
        sum.datagrams += report.datagrams;
        sum.datagrams_lost += report.datagrams_lost;
        sum.overtime = sum.overtime.max(report.overtime);
    }
    println!(
        "{count} seeds: {} faults; {} calls, {} of them failed; {} leases taken over, {} writers fenced, {} with losses; {} datagrams, {} of them lost; at most {:?} beyond a deadline ({})",
        sum.faults,
        sum.operations,
        sum.failed_operations,
        sum.takeovers,
        sum.fenced,
        sum.rescued,
        sum.datagrams,
        sum.datagrams_lost,
        sum.overtime.0,
        sum.overtime.1,
    );
    Ok(())
}

#[test]
fn nothing_is_lost_stale_or_hanging_in_even_seeds() -> Result<()> {
    seeds(0)
}

#[test]
fn nothing_is_lost_stale_or_hanging_in_odd_seeds() -> Result<()> {
    seeds(1)
}

/// The seed of LACUNA_SIM_SEED, or the first one, with all that happened.
#[test]
fn replay() -> Result<()> {
    if std::env::var_os("LACUNA_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("LACUNA_LOG"))
            .without_time()
            .init();
    }
    let seed = variable::number_or("LACUNA_SIM_SEED", 0)?;
    let report = world::run(seed, None)?;
    for line in &report.trace {
        println!("{line}");
    }
    println!("trace {:016x}", report.trace_hash);
    ensure!(report.violations.is_empty(), "{}", explain(seed, &report));
    Ok(())
}

/// What no seed reaches (TLS, connection ids, the order of hash tables) does not make a difference in many.
#[test]
fn many_seeds_make_the_same_run_again() -> Result<()> {
    const RUNS: u64 = 20;
    let mut same = 0;
    for seed in 0..RUNS {
        let hash = || anyhow::Ok(world::run(seed, None)?.trace_hash);
        same += u64::from(hash()? == hash()?);
    }
    println!("{same} of {RUNS} seeds made the same run again");
    ensure!(same > RUNS / 4, "{same} of {RUNS} seeds made the same run again");
    Ok(())
}

fn is_found(bug: Bug) -> Result<()> {
    for seed in 0..BUG_SEEDS_MAX {
        let report = world::run(seed, Some(bug))?;
        if let Some(first) = report.violations.first() {
            println!("{bug:?} is found with seed {seed}: {first}");
            return Ok(());
        }
    }
    anyhow::bail!("{bug:?} is not found in {BUG_SEEDS_MAX} seeds")
}

#[test]
fn every_bug_is_found() -> Result<()> {
    BUGS.into_iter().try_for_each(is_found)
}
