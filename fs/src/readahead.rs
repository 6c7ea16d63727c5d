//! When to prefetch, and how much: one of these for each open handle. Pure.
//!
//! Distance is measured in data: a read that begins where the last one ended, or with nothing but
//! holes and zeros in between, goes on in order. So a copy that hops from extent to extent is as
//! sequential as one that reads every byte. A read anywhere else ends it: random reads prefetch nothing.

use lacuna_transport::range::ByteRange;

/// First window, once a second read follows the first.
pub const WINDOW_BYTES_MIN: u64 = 256 << 10;
/// Largest window: bandwidth times delay of 2.5 Gbit/s at 50 ms.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// What to prefetch: up to `data_bytes` bytes of data found from `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    pub from: u64,
    pub data_bytes: u64,
}

#[derive(Debug)]
pub struct Readahead {
    window_bytes_max: u64,
    window_bytes: u64,
    /// Where a read in order begins at the latest.
    next: u64,
    /// End of what was prefetched.
    ahead_end: u64,
    /// Data prefetched and not read yet.
    ahead_bytes: u64,
    started: bool,
}

impl Readahead {
    /// `budget_bytes` is the whole cache: one handle prefetches a quarter of it at most.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            window_bytes_max: WINDOW_BYTES_MAX.min(budget_bytes / 4),
            window_bytes: 0,
            next: 0,
            ahead_end: 0,
            ahead_bytes: 0,
            started: false,
        }
    }

    /// Takes note of a read, of which `data_bytes` were data: only those use up what was prefetched.
    /// `data_between` tells if there is data between two offsets.
    pub fn on_read(
        &mut self,
        read: ByteRange,
        data_bytes: u64,
        data_between: impl FnOnce(ByteRange) -> bool,
    ) -> Option<Prefetch> {
        if !self.goes_on(read, data_between) {
            self.window_bytes = 0;
            self.ahead_bytes = 0;
            self.ahead_end = read.end();
            self.next = read.end();
            self.started = true;
            return None;
        }
        self.window_bytes = (self.window_bytes * 2)
            .clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
            .min(self.window_bytes_max);
        self.ahead_bytes = self.ahead_bytes.saturating_sub(data_bytes);
        self.next = self.next.max(read.end());
        if self.ahead_bytes > self.window_bytes / 2 {
            return None;
        }
        let from = self.ahead_end.max(self.next);
        Some(Prefetch {
            from,
            data_bytes: self.window_bytes - self.ahead_bytes,
        })
    }

    /// The last answer was carried out up to `end`, with `data_bytes` of data.
    pub fn issued(&mut self, end: u64, data_bytes: u64) {
        self.ahead_end = self.ahead_end.max(end);
        self.ahead_bytes += data_bytes;
    }

    fn goes_on(&self, read: ByteRange, data_between: impl FnOnce(ByteRange) -> bool) -> bool {
        if !self.started {
            return false;
        }
        match ByteRange::new(self.next, read.start()) {
            // The kernel's own readahead may overtake: inside of our window is in order.
            Some(gap) if gap.len() <= self.window_bytes => true,
            Some(gap) => !data_between(gap),
            // A little back: requests of one reader that crossed.
            None => self.next - read.start() <= self.window_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 1 << 30;

    fn read(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn random_reads_prefetch_nothing() {
        let mut readahead = Readahead::new(CACHE);
        for start in [0, 1 << 20, 8 << 20, 3 << 20, 900 << 20, 5 << 20] {
            assert_eq!(readahead.on_read(read(start, 4096), 4096, |_| true), None);
        }
    }

    #[test]
    fn the_window_doubles_while_reads_follow_each_other() {
        let mut readahead = Readahead::new(CACHE);
        assert_eq!(readahead.on_read(read(0, 4096), 4096, |_| true), None);
        let first = readahead.on_read(read(4096, 4096), 4096, |_| true).unwrap();
        assert_eq!(
            first,
            Prefetch {
                from: 8192,
                data_bytes: WINDOW_BYTES_MIN
            }
        );
        readahead.issued(8192 + WINDOW_BYTES_MIN, WINDOW_BYTES_MIN);
        let mut at = 8192;
        let mut windows = Vec::new();
        for _ in 0..4000 {
            if let Some(prefetch) = readahead.on_read(read(at, 65536), 65536, |_| true) {
                windows.push(prefetch.data_bytes);
                readahead.issued(prefetch.from + prefetch.data_bytes, prefetch.data_bytes);
            }
            at += 65536;
        }
        assert!(windows.iter().all(|bytes| *bytes <= WINDOW_BYTES_MAX));
        assert!(
            windows.iter().any(|bytes| *bytes > WINDOW_BYTES_MAX / 4),
            "{windows:?}"
        );
        // What is prefetched never lags behind, nor runs away.
        assert!(readahead.ahead_end >= at && readahead.ahead_end - at <= WINDOW_BYTES_MAX);
    }

    #[test]
    fn hops_over_holes_are_in_order_and_hops_over_data_are_not() {
        let mut readahead = Readahead::new(CACHE);
        readahead.on_read(read(0, 4096), 4096, |_| true);
        assert!(readahead.on_read(read(1 << 30, 4096), 4096, |_| false).is_some());
        assert!(readahead.on_read(read(2 << 30, 4096), 4096, |_| true).is_none());
    }

    #[test]
    fn reading_holes_does_not_run_ahead_of_the_data() {
        // The kernel reads on into the holes between extents; that uses up nothing of what is prefetched.
        let mut readahead = Readahead::new(CACHE);
        readahead.on_read(read(0, 4096), 4096, |_| false);
        let (mut issued, mut consumed) = (0, 0);
        for index in 1..2000 {
            let at = index << 20;
            for (start, len, data_bytes) in [(at, 65536, 65536), (at + 65536, (1 << 20) - 65536, 0)] {
                consumed += data_bytes;
                if let Some(prefetch) = readahead.on_read(read(start, len), data_bytes, |_| false) {
                    issued += prefetch.data_bytes;
                    readahead.issued(prefetch.from + prefetch.data_bytes * 16, prefetch.data_bytes);
                }
            }
            assert!(
                issued <= consumed + WINDOW_BYTES_MAX,
                "{issued} prefetched, {consumed} read"
            );
        }
    }

    #[test]
    fn a_small_cache_bounds_the_window() {
        let mut readahead = Readahead::new(1 << 20);
        readahead.on_read(read(0, 4096), 4096, |_| true);
        for index in 1..100 {
            if let Some(prefetch) = readahead.on_read(read(index * 4096, 4096), 4096, |_| true) {
                assert!(prefetch.data_bytes <= 1 << 18);
            }
        }
    }
}
