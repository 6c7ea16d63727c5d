//! A link between two hosts that are not there, for scripts: two network namespaces and what lies between them.
//!
//! Usage: `link [rtt=20ms] [jitter=1ms] [loss=1%] [duplicate=1%] [reorder=1%] [rate=1gbit] [queue=BYTES] [seed=N]`
//!
//! Prints `server ADDRESS NAMESPACE` and `client ADDRESS NAMESPACE`, then `ready`; run commands on a side with
//! `nsenter --net=NAMESPACE COMMAND`. Lines on standard input change the conditions while it runs (`loss=5%`, `cut`,
//! `mend`). It ends on SIGTERM, or with whoever started it, and leaves nothing behind.

use std::env;
use std::io::{self, BufRead};
use std::thread;

use anyhow::{Context, Result};
use lacuna_tests::link::{Conditions, Link};
use rustix::process::{Signal, set_parent_process_death_signal};

fn main() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let mut seed = 1;
    let mut conditions = Conditions::default();
    for word in env::args().skip(1) {
        match word.strip_prefix("seed=") {
            Some(number) => seed = number.parse().context("seed is not a number")?,
            None => conditions = conditions.with(&word)?,
        }
    }
    let link = Link::new(conditions, seed)?;
    for (name, side) in [("server", link.server()), ("client", link.client())] {
        println!("{name} {} {}", side.address(), side.namespace().path().display());
    }
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        match line
            .split_whitespace()
            .try_fold(link.conditions(), Conditions::with)
        {
            Ok(conditions) => link.set(conditions),
            Err(error) => eprintln!("link: {error:#}"),
        }
    }
    // Nothing more to hear; a signal ends it.
    loop {
        thread::park();
    }
}
