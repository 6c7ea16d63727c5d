//! Processes of a sandbox, found by the mark in their environment and ended by their number.
//!
//! A daemon is no child of the test that caused it, but it inherits the environment; so the mark finds
//! it whatever it calls itself, and finds nothing that another sandbox started.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// The variable that marks the processes of a sandbox with its folder.
pub const MARK: &str = "LACUNA_SANDBOX";

/// A live process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(Pid);

/// A process that does not run; it goes on when this is dropped.
#[derive(Debug)]
pub struct Suspended(Process);

impl Drop for Suspended {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.send(Signal::CONT);
    }
}

impl Process {
    pub fn new(pid: i32) -> Option<Self> {
        Pid::from_raw(pid).map(Self)
    }

    pub fn number(self) -> i32 {
        self.0.as_raw_pid()
    }

    /// Whether it still runs; a zombie does not.
    pub fn lives(self) -> bool {
        match fs::read_to_string(self.file("stat")) {
            Ok(stat) => !stat
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) => false,
        }
    }

    pub fn send(self, signal: Signal) -> Result<()> {
        kill_process(self.0, signal).with_context(|| format!("cannot signal process {}", self.0.as_raw_pid()))
    }

    /// Stops it until what is returned is dropped. When this returns, none of its threads runs any more: one that does
    /// answers what it has in hand.
    pub fn suspend(self) -> Result<Suspended> {
        self.send(Signal::STOP)?;
        let suspended = Suspended(self);
        wait::until("all threads to stop", wait::LIMIT, || {
            Ok(self.facts("State")?.iter().all(|state| state.starts_with('T')))
        })?;
        Ok(suspended)
    }

    /// Memory in use now, in bytes (VmRSS).
    pub fn resident_bytes(self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that was ever in use, in bytes (VmHWM).
    pub fn peak_bytes(self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(self.file("status")).context("the process has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .with_context(|| format!("{name} is not a number"))?;
        Ok(kib * 1024)
    }

    /// What `/proc/PID/status` says of `name`, of all its threads: one value if they are alike.
    pub fn facts(self, name: &str) -> Result<BTreeSet<String>> {
        let mut facts = BTreeSet::new();
        for thread in fs::read_dir(self.file("task")).context("the process has ended")? {
            // A thread may end meanwhile.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("no {name}"))?;
            facts.insert(value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        Ok(facts)
    }

    fn has_argument(self, argument: &OsStr) -> bool {
        if self.is_becoming() {
            return false;
        }
        fs::read(self.file("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|part| part == argument.as_bytes())
        })
    }

    /// A child of a test, between fork and exec. If it closes a file of a mount whose server is away, exec waits for
    /// that, and whoever reads its environment waits too.
    fn is_becoming(self) -> bool {
        // A thread of a test has the name of the test.
        fs::read_to_string(self.file("comm")).is_ok_and(|name| name.contains("::"))
    }

    fn is_marked(self, sandbox: &Path) -> bool {
        if self.is_becoming() {
            return false;
        }
        let mark = [MARK.as_bytes(), b"=", sandbox.as_os_str().as_bytes()].concat();
        fs::read(self.file("environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark))
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.as_raw_pid()))
    }
}

/// Every live process marked with `sandbox`.
pub fn of_sandbox(sandbox: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Process::new(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .filter(|process| process.is_marked(sandbox) && process.lives())
        .collect()
}

/// The daemon of `sandbox` that serves `mountpoint`.
pub fn daemon_of(sandbox: &Path, mountpoint: &Path) -> Option<Process> {
    of_sandbox(sandbox)
        .into_iter()
        .find(|process| process.has_argument(mountpoint.as_os_str()))
}
