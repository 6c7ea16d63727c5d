//! Busy polling for requests while one caller asks in quick succession.
//!
//! A walk by lseek, or a copy out of holes, is a series of requests each of which is answered in a few
//! microseconds, and then the reader sleeps until the next. Waking a core that has gone idle costs more than
//! the request (tens of microseconds in a virtual machine). So while requests come that close together and
//! are answered on the spot, the reader asks the kernel again at once instead of sleeping.
//!
//! fuser reads in a loop that takes EAGAIN for "again", so polling is switched by O_NONBLOCK on the device.
//! It ends within `LOOK_PAUSE` of the last request, or as soon as requests have to wait for the server:
//! then the core is needed elsewhere.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::OFlags;

/// Requests in a row that must come close together before polling begins.
const ROW: u32 = 32;
/// How close: the time a core takes to wake up, and some.
const GAP_MAX: Duration = Duration::from_micros(200);
/// How often polling is reconsidered, and so the longest it goes on for nothing.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Requests between two looks that are worth polling for.
const WORTH: u64 = 5;

/// Decides when to begin. Pure: time is an argument.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    row: u32,
}

impl Pace {
    /// A request was answered on the spot; true if polling is worth beginning.
    fn answered(&mut self, now: Instant) -> bool {
        let close = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) <= GAP_MAX);
        self.row = if close { (self.row + 1).min(ROW) } else { 0 };
        self.last = Some(now);
        self.row == ROW
    }

    /// A request has to wait.
    fn waits(&mut self) {
        self.row = 0;
    }
}

/// Decides when to end: what was counted since the last look.
fn is_worth(answered: u64, waiting: u64) -> bool {
    answered >= WORTH && waiting == 0
}

/// Shared by the thread that answers and the one that looks.
#[derive(Debug)]
pub struct BusyPoll {
    device: OwnedFd,
    pace: Mutex<Pace>,
    answered: AtomicU64,
    waiting: AtomicU64,
    polling: AtomicBool,
    looker: Mutex<Option<Thread>>,
}

impl BusyPoll {
    /// `device` is a second descriptor of the open /dev/fuse that the reader reads.
    pub fn new(device: OwnedFd) -> std::io::Result<Arc<Self>> {
        let poll = Arc::new(Self {
            device,
            pace: Mutex::default(),
            answered: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            polling: AtomicBool::new(false),
            looker: Mutex::new(None),
        });
        let looking = Arc::downgrade(&poll);
        let looker = std::thread::Builder::new()
            .name("busy-poll".to_owned())
            .spawn(move || {
                while let Some(poll) = looking.upgrade() {
                    let pause = poll.look();
                    drop(poll);
                    match pause {
                        Some(pause) => std::thread::park_timeout(pause),
                        None => std::thread::park(),
                    }
                }
            })?;
        *poll.looker.lock() = Some(looker.thread().clone());
        Ok(poll)
    }

    /// A request was answered without waiting.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.polling.load(Ordering::Relaxed) || !self.pace.lock().answered(Instant::now()) {
            return;
        }
        if self.set_polling(true)
            && let Some(looker) = &*self.looker.lock()
        {
            looker.unpark();
        }
    }

    /// A request waits for the server.
    pub fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.polling.load(Ordering::Relaxed) {
            self.set_polling(false);
        }
        self.pace.lock().waits();
    }

    /// Ends polling that is not worth it; `None` if there is nothing to look at.
    fn look(&self) -> Option<Duration> {
        let answered = self.answered.swap(0, Ordering::Relaxed);
        let waiting = self.waiting.swap(0, Ordering::Relaxed);
        if !self.polling.load(Ordering::Relaxed) {
            return None;
        }
        if is_worth(answered, waiting) {
            return Some(LOOK_PAUSE);
        }
        self.set_polling(false);
        self.pace.lock().waits();
        None
    }

    /// True if the kernel took it.
    fn set_polling(&self, polling: bool) -> bool {
        let set = || {
            let flags = rustix::fs::fcntl_getfl(&self.device)?;
            let flags = if polling {
                flags | OFlags::NONBLOCK
            } else {
                flags - OFlags::NONBLOCK
            };
            rustix::fs::fcntl_setfl(&self.device, flags)
        };
        let done = set().is_ok();
        self.polling.store(polling && done, Ordering::Relaxed);
        done
    }
}

impl Drop for BusyPoll {
    fn drop(&mut self) {
        self.set_polling(false);
        if let Some(looker) = self.looker.lock().take() {
            looker.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_close_requests_begins_it_and_a_gap_does_not() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let mut at = begin;
        for _ in 0..ROW {
            assert!(!pace.answered(at));
            at += GAP_MAX;
        }
        assert!(pace.answered(at));
        at += GAP_MAX * 2;
        assert!(!pace.answered(at), "after a gap the row begins anew");
        for _ in 1..ROW {
            at += GAP_MAX;
            assert!(!pace.answered(at));
        }
        pace.waits();
        assert!(!pace.answered(at + GAP_MAX), "one that waits breaks the row");
    }

    #[test]
    fn it_ends_when_requests_are_few_or_wait() {
        assert!(is_worth(WORTH, 0));
        assert!(!is_worth(WORTH - 1, 0));
        assert!(!is_worth(1000, 1));
    }

    #[test]
    fn the_flag_follows_the_pace() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let other = read.try_clone().unwrap();
        let nonblocking = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK);
        let poll = BusyPoll::new(other).unwrap();
        assert!(poll.set_polling(true));
        assert!(nonblocking(&read), "both descriptors are of one open file");
        poll.waits();
        assert!(!nonblocking(&read));
        assert!(poll.set_polling(true));
        drop(poll);
        assert!(!nonblocking(&read));
    }
}
