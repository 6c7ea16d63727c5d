//! Random operations on a volume through a real mount, against the reference model: after each, all bytes and
//! the whole map are compared.
//!
//! A failure prints its seed and the last operations. `LACUNA_SEED=N` runs only that seed, and
//! `LACUNA_STEPS=N` makes so many operations of it:
//!
//!     LACUNA_SEED=7 cargo nextest run --cargo-profile test-fast -p lacuna-tests --test model -E 'test(name)'

use anyhow::{Context, Result, ensure};
use lacuna_tests::model::{CopiedHoles, LocalFile, Operation, Size, Subject, Weights, drive};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::variable;

mod mounted;

use mounted::Mounted;

const QUIET: Weights = Weights {
    reopen: 3,
    behind: 0,
    crash: 0,
    store: 8,
};
const SHARED: Weights = Weights { behind: 6, ..QUIET };
const KILLED: Weights = Weights { crash: 4, ..QUIET };
const STORMY: Weights = Weights {
    behind: 4,
    crash: 3,
    ..QUIET
};

/// The seeds of a test, or the one that was asked for.
fn seeds(usual: impl IntoIterator<Item = u64>) -> Result<Vec<u64>> {
    let asked_for = variable::number("LACUNA_SEED")?;
    Ok(asked_for.map_or_else(|| usual.into_iter().collect(), |seed| vec![seed]))
}

fn steps(usual: usize) -> Result<usize> {
    variable::number_or("LACUNA_STEPS", usual)
}

fn with_replay(test: &str, seed: u64, outcome: Result<()>) -> Result<()> {
    outcome.with_context(|| {
        format!(
            "replay: LACUNA_SEED={seed} cargo nextest run --cargo-profile test-fast -p lacuna-tests \
             --test model -E 'test(={test})'"
        )
    })
}

/// Drives one volume of a fresh mount for each seed, then compares the server's file too.
fn on_mounts(
    test: &str,
    options: &[&str],
    usual: impl IntoIterator<Item = u64>,
    count: usize,
    weights: &Weights,
) -> Result<()> {
    let count = steps(count)?;
    for seed in seeds(usual)? {
        let outcome = Mounted::new(options).and_then(|mut volume| {
            let model = drive(seed, count, weights, &mut volume)?;
            volume.ensure_at_the_server(&model)
        });
        with_replay(test, seed, outcome)?;
    }
    Ok(())
}

#[test]
fn every_change_equals_the_model() -> Result<()> {
    on_mounts("every_change_equals_the_model", &[], 1..=4, 400, &QUIET)
}

#[test]
fn a_small_buffer_equals_the_model() -> Result<()> {
    on_mounts(
        "a_small_buffer_equals_the_model",
        &["dirty=4M", "cache=8M"],
        11..=12,
        400,
        &QUIET,
    )
}

#[test]
fn detected_zeroes_equal_the_model() -> Result<()> {
    on_mounts(
        "detected_zeroes_equal_the_model",
        &["detect-zeroes=unmap"],
        [21],
        300,
        &QUIET,
    )
}

/// Other programs change the file at the server while it is closed.
#[test]
fn changes_of_other_programs_equal_the_model() -> Result<()> {
    on_mounts(
        "changes_of_other_programs_equal_the_model",
        &[],
        31..=32,
        250,
        &SHARED,
    )
}

/// The server is killed and comes back between the operations.
#[test]
fn a_killed_server_equals_the_model() -> Result<()> {
    on_mounts("a_killed_server_equals_the_model", &[], 41..=42, 250, &KILLED)
}

#[test]
fn other_programs_and_a_killed_server_equal_the_model() -> Result<()> {
    on_mounts(
        "other_programs_and_a_killed_server_equal_the_model",
        &[],
        51..=52,
        250,
        &STORMY,
    )
}

/// The model is right about Linux itself: a local file, which knows nothing of lacuna, passes. Without stores
/// through a mapping: there ext4 allocates as much as its page cache took at once, up to 2 MiB.
#[test]
fn a_local_file_equals_the_model() -> Result<()> {
    let weights = Weights { store: 0, ..STORMY };
    for seed in seeds(1..=6)? {
        let sandbox = Sandbox::new()?;
        let mut file = LocalFile::create(sandbox.join("file"))?;
        let outcome = drive(seed, steps(400)?, &weights, &mut file).map(drop);
        with_replay("a_local_file_equals_the_model", seed, outcome)?;
    }
    Ok(())
}

/// A subject with a bug: every fifth call of one kind does nothing, or does too much.
struct Broken {
    inner: LocalFile,
    bug: Bug,
    calls: u32,
}

#[derive(Clone, Copy, Debug)]
enum Bug {
    LostWrite,
    LostPunch,
    ShortZero,
    OldBytesAfterResize,
    HolesFilledByCopy,
    ForgottenChange,
    DirtyPageInHole,
}

impl Broken {
    fn now(&mut self) -> bool {
        self.calls += 1;
        self.calls.is_multiple_of(5)
    }
}

impl Subject for Broken {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if matches!(self.bug, Bug::LostWrite) && self.now() && bytes.len() > 1 {
            return self.inner.write(at, &bytes[..bytes.len() - 1]);
        }
        self.inner.write(at, bytes)
    }

    fn punch(&mut self, start: u64, length: u64) -> Result<()> {
        if matches!(self.bug, Bug::LostPunch) && self.now() {
            // The bytes are right; the space is not freed.
            return self.inner.zero(start, length, Size::Keep);
        }
        self.inner.punch(start, length)
    }

    fn zero(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        let lost = u64::from(matches!(self.bug, Bug::ShortZero) && self.now() && length > 1);
        self.inner.zero(start, length - lost, size)
    }

    fn allocate(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        self.inner.allocate(start, length, size)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        let old = self.inner.read()?;
        self.inner.resize(size)?;
        if matches!(self.bug, Bug::OldBytesAfterResize) && u64::try_from(old.len())? < size && self.now() {
            self.inner.write(size - 1, b"x")?;
        }
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<()> {
        self.inner.copy(from, to, length)
    }

    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.inner.store(at, bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }

    fn reopen(&mut self) -> Result<()> {
        self.inner.reopen()
    }

    fn behind(&mut self, change: &Operation) -> Result<()> {
        if matches!(self.bug, Bug::ForgottenChange) {
            return self.inner.reopen();
        }
        self.inner.behind(change)
    }

    fn crash(&mut self) -> Result<()> {
        self.inner.crash()
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        self.inner.read()
    }

    fn map(&mut self) -> Result<SeekMap> {
        let mut map = self.inner.map()?;
        if matches!(self.bug, Bug::DirtyPageInHole) && self.now() {
            for run in &mut map.runs {
                run.is_data = false;
            }
        }
        Ok(map)
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.inner.seek(position)
    }

    /// A local file does not keep them.
    fn copied_holes(&self) -> CopiedHoles {
        match self.bug {
            Bug::HolesFilledByCopy => CopiedHoles::Kept,
            _ => CopiedHoles::Lost,
        }
    }
}

/// The checker itself: each of these bugs is found.
#[test]
fn a_bug_is_found() -> Result<()> {
    for bug in [
        Bug::LostWrite,
        Bug::LostPunch,
        Bug::ShortZero,
        Bug::OldBytesAfterResize,
        Bug::HolesFilledByCopy,
        Bug::ForgottenChange,
        Bug::DirtyPageInHole,
    ] {
        let found = (1..=4).any(|seed| {
            let outcome = Sandbox::new().and_then(|sandbox| {
                let inner = LocalFile::create(sandbox.join("file"))?;
                let mut broken = Broken { inner, bug, calls: 0 };
                Ok(drive(seed, 300, &STORMY, &mut broken).is_err())
            });
            outcome.unwrap_or(false)
        });
        ensure!(found, "{bug:?} was not found by any seed");
    }
    Ok(())
}
