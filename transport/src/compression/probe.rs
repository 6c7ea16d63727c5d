//! When to try packing again with data that did not shrink.
//!
//! Most volumes shrink nearly everywhere (text, programs, databases) or nearly nowhere (media, archives, encrypted
//! disks). After a payload that did not shrink one is sent without a try, after the next failure two, then four, up
//! to [`SKIPPED_MAX`]; one that shrinks resets that. So what cannot be packed costs a sample in every
//! [`SKIPPED_MAX`] payloads, and what can be packed is found after that many at the latest.
//!
//! Time plays no part: the same payloads give the same tries.

use parking_lot::Mutex;

/// Most payloads between two tries: 32 MiB of the largest.
pub const SKIPPED_MAX: u32 = 32;

/// Of one volume, in one direction; see the module.
#[derive(Debug, Default)]
pub struct Probe(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Payloads to send without a try, from now on.
    left: u32,
    /// How many those were after the last failure; 0 after a success.
    skipped: u32,
}

impl Probe {
    /// True if the next payload is to be tried; what came of it is then told to [`Self::tried`].
    pub fn is_due(&self) -> bool {
        let mut state = self.0.lock();
        if state.left == 0 {
            return true;
        }
        state.left -= 1;
        false
    }

    pub fn tried(&self, shrank: bool) {
        let mut state = self.0.lock();
        let skipped = if shrank {
            0
        } else {
            (state.skipped * 2).clamp(1, SKIPPED_MAX)
        };
        *state = State {
            left: skipped,
            skipped,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payloads, of the first `count`, that are tried when `shrinks` says what comes of it.
    fn tries(count: u32, shrinks: impl Fn(u32) -> bool) -> Vec<u32> {
        let probe = Probe::default();
        let due = |payload: &u32| {
            let due = probe.is_due();
            if due {
                probe.tried(shrinks(*payload));
            }
            due
        };
        (0..count).filter(due).collect()
    }

    #[test]
    fn what_shrinks_is_always_tried() {
        assert_eq!(tries(100, |_| true).len(), 100);
    }

    #[test]
    fn what_does_not_is_tried_less_and_less_but_never_given_up() {
        let tries = tries(1000, |_| false);
        assert_eq!(tries[..8], [0, 2, 5, 10, 19, 36, 69, 102]);
        assert!(
            tries
                .windows(2)
                .skip(5)
                .all(|pair| pair[1] - pair[0] == SKIPPED_MAX + 1)
        );
        assert!(tries.len() < 1000 / 25, "{} tries", tries.len());
    }

    #[test]
    fn what_shrinks_at_last_is_found_and_kept() {
        let tries = tries(300, |payload| payload >= 200);
        let found = tries.iter().position(|payload| *payload >= 200).unwrap();
        assert!(tries[found] <= 200 + SKIPPED_MAX);
        let after = u32::try_from(tries[found..].len()).unwrap();
        assert_eq!(after, 300 - tries[found], "one success and all are tried again");
    }
}
