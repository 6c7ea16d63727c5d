//! Waiting for a state: polls with a deadline, and says what it waited for when the deadline passes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for a loaded two-core machine; a state that takes longer is a failure.
pub const LIMIT: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

/// Polls `reached` until it says true; fails with `what` after `limit`.
pub fn until(what: &str, limit: Duration, mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !reached()? {
        if Instant::now() >= deadline {
            bail!("{what}: not after {limit:?}");
        }
        pause();
    }
    Ok(())
}

/// Lets time pass up to `limit`, or until `done`.
pub fn at_most(limit: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() && Instant::now() < deadline {
        pause();
    }
}

/// Lets a fault last: for a length of time that is itself what is tested, never to wait for a state.
#[expect(clippy::disallowed_methods, reason = "the time is the input of a test")]
pub fn for_as_long_as(fault: Duration) {
    std::thread::sleep(fault);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two polls, not a wait for a state"
)]
pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}
