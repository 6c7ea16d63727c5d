//! When to try again to reach a server: soon at first, then with growing pauses. Pure.
//!
//! | who waits for a session | longest pause |
//! |---|---|
//! | nobody | [`PAUSE_MAX`] |
//! | somebody | [`PAUSE_WANTED`] |
//!
//! An attempt that hears nothing ends after [`ATTEMPT_MAX`], and QUIC sends its first packet again 1 and 3 s after
//! the first time. So a packet leaves at least every 5 s, however long the server was away.

use std::time::Duration;

/// First pause.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: with the 3 s in which an attempt sends nothing more, 5 s.
pub const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest pause while a request waits for the session: a host that refuses each attempt at once is not
/// flooded.
pub const PAUSE_WANTED: Duration = Duration::from_millis(250);
/// How long the handshake of one attempt may take: three round trips of the slowest path.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(6);

/// The pauses between the attempts to reach one server.
#[derive(Debug)]
pub struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: PAUSE_MIN }
    }
}

impl Backoff {
    /// The next pause: between half of it and all of it, so that many clients do not come back at one moment.
    /// `spread` is random, from 0 to 1.
    pub fn next_pause(&mut self, spread: f64) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause / 2 + (pause / 2).mul_f64(spread.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_spread() {
        let (mut shortest, mut longest) = (Backoff::default(), Backoff::default());
        let mut before = Duration::ZERO;
        for _ in 0..20 {
            let (short, long) = (shortest.next_pause(0.0), longest.next_pause(1.0));
            assert_eq!(short * 2, long);
            assert!(
                long >= before && long >= PAUSE_MIN && long <= PAUSE_MAX,
                "{long:?}"
            );
            before = long;
        }
        assert_eq!(before, PAUSE_MAX);
    }

    #[test]
    fn a_server_that_comes_back_is_found_within_five_seconds() {
        // After its packet of second 3 an attempt is silent until it ends; then comes a pause.
        let silent = ATTEMPT_MAX - Duration::from_secs(3) + PAUSE_MAX;
        assert!(silent <= Duration::from_secs(5));
    }
}
