//! When to prefetch, and how much: one of these for each open handle. Pure.
//!
//! Distance is measured in data: a read that begins where the last one ended, or with nothing but
//! holes and zeros in between, goes on in order. So a copy that hops from extent to extent is as
//! sequential as one that reads every byte. A read anywhere else ends it: random reads prefetch nothing.

use std::time::Duration;

use lacuna_transport::limits::path_bytes;
use lacuna_transport::range::ByteRange;

use crate::cache::BLOCK_BYTES;

/// First window, once a second read follows the first.
pub const WINDOW_BYTES_MIN: u64 = 256 << 10;
/// Largest window on a short path, and before as much was read in order: a reader that stops soon wastes no more.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// Largest window on a long path: less than what the server may send ahead, by what else is asked for meanwhile.
pub const WINDOW_BYTES_MAX: u64 = 28 << 20;
/// So far behind a reader nothing is asked for again: requests of the kernel cross.
const CROSSING_BYTES: u64 = 1 << 20;

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
    /// Data read in order without a break.
    in_order_bytes: u64,
    /// Up to here the reader was told to have passed, see [`Self::passed`].
    passed_end: u64,
    started: bool,
}

impl Readahead {
    /// What is under way on a path of this round trip, twice, is prefetched: a window is filled again when half of it was read.
    /// It is `bytes_max` at most.
    pub fn new(bytes_max: u64, round_trip: Duration) -> Self {
        let window_bytes_max = (path_bytes(round_trip) * 2).clamp(WINDOW_BYTES, WINDOW_BYTES_MAX);
        Self {
            window_bytes_max: window_bytes_max.min(bytes_max),
            window_bytes: 0,
            next: 0,
            ahead_end: 0,
            ahead_bytes: 0,
            in_order_bytes: 0,
            passed_end: 0,
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
            self.in_order_bytes = data_bytes;
            self.passed_end = read.start().next_multiple_of(BLOCK_BYTES);
            self.ahead_end = read.end();
            self.next = read.end();
            self.started = true;
            return None;
        }
        self.in_order_bytes += data_bytes;
        self.window_bytes = (self.window_bytes * 2)
            .clamp(WINDOW_BYTES_MIN, self.in_order_bytes.max(WINDOW_BYTES))
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

    /// What the reader has left behind since this was asked last, in whole blocks.
    pub fn passed(&mut self) -> Option<ByteRange> {
        let end = self.next.saturating_sub(CROSSING_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let passed = ByteRange::new(self.passed_end, end).filter(|range| !range.is_empty())?;
        self.passed_end = end;
        Some(passed)
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
        let mut readahead = Readahead::new(CACHE, Duration::ZERO);
        for start in [0, 1 << 20, 8 << 20, 3 << 20, 900 << 20, 5 << 20] {
            assert_eq!(readahead.on_read(read(start, 4096), 4096, |_| true), None);
        }
    }

    #[test]
    fn the_window_doubles_while_reads_follow_each_other() {
        let mut readahead = Readahead::new(CACHE, Duration::ZERO);
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
        assert!(windows.iter().all(|bytes| *bytes <= WINDOW_BYTES));
        assert!(
            windows.iter().any(|bytes| *bytes > WINDOW_BYTES / 4),
            "{windows:?}"
        );
        // What is prefetched never lags behind, nor runs away.
        assert!(readahead.ahead_end >= at && readahead.ahead_end - at <= WINDOW_BYTES);
    }

    #[test]
    fn hops_over_holes_are_in_order_and_hops_over_data_are_not() {
        let mut readahead = Readahead::new(CACHE, Duration::ZERO);
        readahead.on_read(read(0, 4096), 4096, |_| true);
        assert!(readahead.on_read(read(1 << 30, 4096), 4096, |_| false).is_some());
        assert!(readahead.on_read(read(2 << 30, 4096), 4096, |_| true).is_none());
    }

    #[test]
    fn reading_holes_does_not_run_ahead_of_the_data() {
        // The kernel reads on into the holes between extents; that uses up nothing of what is prefetched.
        let mut readahead = Readahead::new(CACHE, Duration::ZERO);
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
                issued <= consumed + WINDOW_BYTES,
                "{issued} prefetched, {consumed} read"
            );
        }
    }

    /// Bytes that are ahead of a reader when it has read `bytes` in order.
    fn most_ahead(readahead: &mut Readahead, bytes: u64) -> u64 {
        let mut most = 0;
        for at in (0..bytes).step_by(65536) {
            if let Some(prefetch) = readahead.on_read(read(at, 65536), 65536, |_| true) {
                readahead.issued(prefetch.from + prefetch.data_bytes, prefetch.data_bytes);
            }
            most = most.max(readahead.ahead_bytes);
        }
        most
    }

    #[test]
    fn a_long_path_has_a_longer_window_once_as_much_was_read() {
        let far = || Readahead::new(CACHE, Duration::from_millis(100));
        assert!(most_ahead(&mut far(), 2 << 20) <= WINDOW_BYTES);
        let most = most_ahead(&mut far(), 256 << 20);
        assert!(most > WINDOW_BYTES_MAX / 2 && most <= WINDOW_BYTES_MAX, "{most}");
        let near = most_ahead(&mut Readahead::new(CACHE, Duration::from_micros(100)), 256 << 20);
        assert!(near <= WINDOW_BYTES, "{near}");
    }

    #[test]
    fn what_is_passed_is_told_once_in_whole_blocks_and_not_at_once() {
        let mut readahead = Readahead::new(CACHE, Duration::ZERO);
        let begin = 5 * BLOCK_BYTES + 4096;
        let mut passed: Vec<ByteRange> = Vec::new();
        for at in (begin..begin + (8 << 20)).step_by(65536) {
            readahead.on_read(read(at, 65536), 65536, |_| true);
            if let Some(range) = readahead.passed() {
                assert!(range.end() + CROSSING_BYTES <= at + 65536);
                passed.push(range);
            }
        }
        assert_eq!(
            passed[0].start(),
            6 * BLOCK_BYTES,
            "the first one was not read as a whole"
        );
        for pair in passed.windows(2) {
            assert_eq!(pair[0].end(), pair[1].start());
        }
        assert_eq!(
            passed.last().unwrap().end(),
            begin / BLOCK_BYTES * BLOCK_BYTES + (7 << 20)
        );
        // Elsewhere it begins anew.
        readahead.on_read(read(0, 4096), 4096, |_| true);
        assert_eq!(readahead.passed(), None);
    }

    #[test]
    fn a_small_cache_bounds_the_window() {
        let mut readahead = Readahead::new(256 << 10, Duration::ZERO);
        readahead.on_read(read(0, 4096), 4096, |_| true);
        for index in 1..100 {
            if let Some(prefetch) = readahead.on_read(read(index * 4096, 4096), 4096, |_| true) {
                assert!(prefetch.data_bytes <= 1 << 18);
            }
        }
    }
}
