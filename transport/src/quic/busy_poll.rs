//! Busy polling of the network while requests and replies come and go in quick succession.
//!
//! A request that is made alone, as by a program that reads one block after the other, wakes a thread on each side, and each of
//! them a core that has gone idle: tens of microseconds in a virtual machine, several times what the work takes. So while one
//! exchange follows the other that closely, the thread of the runtime asks the kernel again at once instead of
//! sleeping. Each time it lets others have the core first.
//!
//! It ends `GAP_MAX` after the last request or reply, or when exchanges overlap: then the thread finds work by itself.
//! Over a path with a longer round trip it never begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Begins and ends of exchanges that must come quickly, one exchange at a time, before polling begins.
const ROW: u32 = 64;
/// How quickly: two cores that wake up, and the work.
const GAP_MAX: Duration = Duration::from_millis(1);

/// Decides. Pure: time is an argument.
#[derive(Debug)]
struct Pace {
    /// When an exchange began or ended last.
    last: Instant,
    row: u32,
    under_way: u32,
    polling: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            last: now,
            row: 0,
            under_way: 0,
            polling: false,
        }
    }

    fn is_quick(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) <= GAP_MAX
    }

    fn note(&mut self, now: Instant) {
        let alone = self.under_way <= 1;
        let goes_on = alone && self.is_quick(now);
        self.row = if goes_on { (self.row + 1).min(ROW) } else { 0 };
        self.last = now;
    }

    /// True if polling is to begin.
    fn begin(&mut self, now: Instant) -> bool {
        self.under_way += 1;
        self.note(now);
        let begins = self.row == ROW && !self.polling;
        self.polling |= begins;
        begins
    }

    fn end(&mut self, now: Instant) {
        self.note(now);
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// True while polling is to go on.
    fn goes_on(&mut self, now: Instant) -> bool {
        self.polling = self.row > 0 && self.is_quick(now);
        self.polling
    }
}

#[derive(Debug)]
struct Shared {
    allowed: AtomicBool,
    pace: Mutex<Pace>,
}

/// For all exchanges that one thread has. It does nothing until it is [allowed](Self::allow): simulated time stands still
/// while a thread polls, and who has other things to do should not.
#[derive(Clone, Debug)]
pub struct BusyPoll(Arc<Shared>);

/// An exchange under way; it ends when this is dropped.
#[derive(Debug)]
pub struct UnderWay(Option<BusyPoll>);

impl Default for BusyPoll {
    fn default() -> Self {
        Self(Arc::new(Shared {
            allowed: AtomicBool::new(false),
            pace: Mutex::new(Pace::new(Instant::now())),
        }))
    }
}

impl BusyPoll {
    pub fn allow(&self) {
        self.0.allowed.store(true, Ordering::Relaxed);
    }

    /// An exchange begins. Needs the runtime whose thread is to poll.
    pub fn begin(&self) -> UnderWay {
        if !self.0.allowed.load(Ordering::Relaxed) {
            return UnderWay(None);
        }
        if self.0.pace.lock().begin(Instant::now()) {
            tokio::spawn(self.clone().poll());
        }
        UnderWay(Some(self.clone()))
    }

    async fn poll(self) {
        while self.0.pace.lock().goes_on(Instant::now()) {
            std::thread::yield_now();
            // Once nothing else is to be done, the runtime looks at the network and comes back.
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(BusyPoll(shared)) = &self.0 {
            shared.pace.lock().end(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(100);

    /// Polling after as many quick exchanges as it takes.
    fn polling() -> (Pace, Instant) {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for count in 0.. {
            now += QUICK;
            if pace.begin(now) {
                assert_eq!(count, ROW / 2, "two events an exchange");
                break;
            }
            now += QUICK;
            pace.end(now);
        }
        (pace, now)
    }

    #[test]
    fn quick_exchanges_in_a_row_begin_it_once() {
        let (mut pace, now) = polling();
        assert!(pace.goes_on(now + GAP_MAX));
        pace.end(now + QUICK);
        assert!(!pace.begin(now + QUICK * 2), "it has begun");
        assert!(pace.goes_on(now + QUICK * 2));
    }

    #[test]
    fn a_pause_ends_it_and_the_row_begins_anew() {
        let (mut pace, now) = polling();
        assert!(!pace.goes_on(now + GAP_MAX + QUICK));
        pace.end(now + GAP_MAX + QUICK);
        assert_eq!(pace.row, 0, "a reply that took long");
        assert!(!pace.begin(now + GAP_MAX + QUICK * 2));
    }

    #[test]
    fn exchanges_that_overlap_end_it() {
        let (mut pace, now) = polling();
        assert!(!pace.begin(now + QUICK));
        assert!(!pace.goes_on(now + QUICK));
    }

    #[tokio::test]
    async fn a_thread_that_polls_does_its_work_and_comes_to_rest() {
        let poll = BusyPoll::default();
        poll.allow();
        // Not quick enough on a machine that is busy: then again.
        while !poll.0.pace.lock().polling {
            for _ in 0..=ROW {
                drop(poll.begin());
            }
        }
        let other = tokio::spawn(async { tokio::task::yield_now().await });
        other.await.unwrap();
        while poll.0.pace.lock().polling {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn nothing_polls_unless_it_is_allowed() {
        let poll = BusyPoll::default();
        // Without a runtime: it would panic.
        for _ in 0..=ROW {
            drop(poll.begin());
        }
    }
}
