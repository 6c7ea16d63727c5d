//! Lines of the log that clients and strangers cause: so few that nobody fills a disk with them. Pure: time is an argument.
//!
//! A cause (a key, an address) is told once in [`PERIOD`], and at most [`CAUSES_MAX`] of them; the next line says how
//! many were left out.

use std::time::Duration;

use tokio::time::Instant;

/// A client that was revoked and tries on, four times a second, is one line in this time.
const PERIOD: Duration = Duration::from_secs(60);
/// Enough for who looks for the key to admit; what is more is an attack, and 5 MB a day.
const CAUSES_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Told<K> {
    latest: Vec<(K, Instant)>,
    left_out: u64,
}

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self {
            latest: Vec::new(),
            left_out: 0,
        }
    }
}

impl<K: PartialEq> Told<K> {
    /// Whether a line is due, and how many were left out since the last one.
    pub(crate) fn line(&mut self, cause: K, now: Instant) -> Option<u64> {
        self.latest.retain(|(_, at)| now < *at + PERIOD);
        let is_told = self.latest.iter().any(|(told, _)| *told == cause);
        if is_told || self.latest.len() >= CAUSES_MAX {
            self.left_out += 1;
            return None;
        }
        self.latest.push((cause, now));
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cause_is_told_now_and_then_and_many_are_counted() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert_eq!(told.line(0, now), Some(0));
        for _ in 0..100 {
            assert_eq!(told.line(0, now), None, "it was told just now");
        }
        assert_eq!(told.line(1, now), Some(100), "another one is told");
        let strangers: Vec<_> = (2..1000).filter_map(|cause| told.line(cause, now)).collect();
        assert_eq!(strangers.len(), CAUSES_MAX - 2);
        let later = now + PERIOD;
        assert_eq!(told.line(0, later), Some(1000 - 16));
    }
}
