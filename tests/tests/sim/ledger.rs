//! What all of a run know of it: the histories of the volumes, who won which name, what was seen that cannot be, and a
//! trace of everything that happened.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::history::{History, Tag};
use crate::holders::Holders;

/// Lines of the trace that are shown with a failure.
const TRACE_LINES_KEPT: usize = 400;
/// What cannot be is told so often; the first ones say most.
const VIOLATIONS_MAX: usize = 16;

/// A name that all clients try to make.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contest {
    /// Those who were told that they made it.
    pub(crate) winners: u64,
    /// Tries that were not answered, or are under way.
    pub(crate) open: u64,
    /// Those who were told that it exists.
    pub(crate) losers: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    begun: Instant,
    pub(crate) volumes: Vec<History>,
    /// Of each volume, who may write to it.
    pub(crate) holders: Vec<Holders>,
    pub(crate) contests: BTreeMap<u64, Contest>,
    last_number: u64,
    violations: Vec<String>,
    trace: VecDeque<String>,
    trace_hash: u64,
    pub(crate) operations: u64,
    pub(crate) failed_operations: u64,
    /// Writers that were told that they had lost the lease, and those of them that had something to lose.
    pub(crate) fenced: u64,
    pub(crate) rescued: u64,
    /// The longest time that a call took beyond its deadline, and which it was.
    pub(crate) overtime: (Duration, String),
}

impl Ledger {
    pub(crate) fn new(volumes: Vec<History>, holders: Vec<Holders>) -> Self {
        Self {
            begun: Instant::now(),
            volumes,
            holders,
            contests: BTreeMap::new(),
            last_number: 0,
            violations: Vec::new(),
            trace: VecDeque::new(),
            trace_hash: 0xcbf2_9ce4_8422_2325,
            operations: 0,
            failed_operations: 0,
            fenced: 0,
            rescued: 0,
            overtime: (Duration::ZERO, String::new()),
        }
    }

    /// A number that no change and no name had before.
    pub(crate) fn number(&mut self) -> Tag {
        self.last_number += 1;
        self.last_number
    }

    pub(crate) fn note(&mut self, what: &str) {
        let line = format!("{:>7} ms  {what}", self.begun.elapsed().as_millis());
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.trace.len() == TRACE_LINES_KEPT {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Something that cannot be.
    pub(crate) fn violation(&mut self, what: String) {
        self.note(&format!("VIOLATION: {what}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    pub(crate) fn expect(&mut self, who: &str, checked: Result<(), String>) {
        if let Err(error) = checked {
            self.violation(format!("{who}: {error}"));
        }
    }

    /// No name was made twice, and none is there that nobody made.
    pub(crate) fn settle_contests(&mut self) {
        for (round, contest) in std::mem::take(&mut self.contests) {
            if contest.winners > 1 {
                self.violation(format!("contest {round}: made {} times", contest.winners));
            }
            if contest.losers > 0 && contest.winners + contest.open == 0 {
                self.violation(format!("contest {round}: it exists and nobody made it"));
            }
        }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace_hash
    }
}
