//! Whether anything is heard of a server, while there is a session with it. Pure.
//!
//! A server that was killed says nothing, and QUIC gives a session up only after 15 s. Until then it sends again
//! what was not acknowledged, with pauses that double, so that a server that was started again might hear of
//! the old session, and could refuse it, much too late. So whoever hears nothing knocks: asks something, twice a
//! second. A server that was started again answers with a reset, one that is slow with an answer.
//!
//! | nothing came for | it is |
//! |---|---|
//! | less than `QUIET_TICKS` | heard |
//! | that | quiet: knock |
//! | `SILENT_TICKS` | silent: knock, and answer with what is known meanwhile |
//!
//! Counted in ticks, not in time: a process that was stopped itself has heard nothing either.

use std::time::Duration;

/// How often it is looked at.
pub const TICK: Duration = Duration::from_millis(500);
/// Longer than an idle session goes without a sign of life, with a loss and a long round trip.
const QUIET_TICKS: u32 = 3;
/// As long as it takes for several knocks to be lost, which hardly happens on a bad path.
const SILENT_TICKS: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Something,
    /// Nothing for a while.
    Quiet,
    /// Nothing for so long that the server cannot be asked now.
    Silent,
}

#[derive(Debug, Default)]
pub struct Hearing {
    datagrams: u64,
    ticks: u32,
}

impl Hearing {
    /// One tick later `datagrams` have come in all.
    pub fn tick(&mut self, datagrams: u64) -> Heard {
        self.ticks = if self.datagrams == datagrams {
            self.ticks.saturating_add(1)
        } else {
            0
        };
        self.datagrams = datagrams;
        match self.ticks {
            ticks if ticks >= SILENT_TICKS => Heard::Silent,
            ticks if ticks >= QUIET_TICKS => Heard::Quiet,
            _ => Heard::Something,
        }
    }
}

#[cfg(test)]
mod tests {
    use lacuna_transport::limits::{IDLE_TIMEOUT, KEEP_ALIVE};

    use super::*;

    #[test]
    fn silence_comes_after_knocks_and_ends_with_the_first_datagram() {
        let mut hearing = Hearing::default();
        let mut heard: Vec<Heard> = [7, 7, 7, 7, 7, 7].map(|sum| hearing.tick(sum)).into();
        heard.push(hearing.tick(8));
        use Heard::{Quiet, Silent, Something};
        let expected = [Something, Something, Something, Quiet, Quiet, Silent, Something];
        assert_eq!(heard, expected);
    }

    #[test]
    fn an_idle_session_is_heard_and_a_lost_one_is_noticed_before_it_times_out() {
        assert!(TICK * QUIET_TICKS > KEEP_ALIVE + TICK);
        assert!(TICK * SILENT_TICKS < IDLE_TIMEOUT / 2);
    }
}
