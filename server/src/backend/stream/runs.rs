//! A set of bytes, as ranges that neither overlap nor touch.

use std::collections::BTreeMap;

use lacuna_transport::range::ByteRange;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// The end of each range, by its start.
    ends: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Runs {
    /// Bytes of all ranges.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the set within `range`.
    pub(super) fn bytes_in(&self, range: ByteRange) -> u64 {
        self.touching(range).map(|run| run.intersect(range).len()).sum()
    }

    /// How many ranges there are.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// A range of the set overlaps `range` or borders on it: taking it in makes no further one.
    pub(super) fn touches(&self, range: ByteRange) -> bool {
        let last = self.ends.range(..=range.end()).next_back();
        last.is_some_and(|(_, end)| *end >= range.start())
    }

    /// A range of the set goes on at both ends of `range`: taking it out makes one more.
    pub(super) fn surrounds(&self, range: ByteRange) -> bool {
        let before = self.ends.range(..range.start()).next_back();
        before.is_some_and(|(_, end)| *end > range.end())
    }

    pub(super) fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start(), range.end());
        // One that ends where this begins counts: neighbours become one.
        while let Some((before, before_end)) = self.ends.range(..=end).next_back() {
            if *before_end < start {
                break;
            }
            let before = *before;
            start = start.min(before);
            end = end.max(*before_end);
            self.bytes -= *before_end - before;
            self.ends.remove(&before);
        }
        self.bytes += end - start;
        self.ends.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<ByteRange> = self.touching(range).collect();
        for run in touched {
            self.ends.remove(&run.start());
            self.bytes -= run.len();
            let (before, rest) = run.split_at(range.start());
            let (_, after) = rest.split_at(range.end());
            for part in [before, after].into_iter().filter(|part| !part.is_empty()) {
                self.ends.insert(part.start(), part.end());
                self.bytes += part.len();
            }
        }
    }

    /// The range that `offset` is in, or else the next one.
    pub(super) fn at_or_after(&self, offset: u64) -> Option<ByteRange> {
        let within = self
            .ends
            .range(..=offset)
            .next_back()
            .filter(|(_, end)| **end > offset);
        let found = within.or_else(|| self.ends.range(offset..).next());
        found.map(|(start, end)| run(*start, *end))
    }

    /// All ranges in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = ByteRange> {
        self.ends.iter().map(|(start, end)| run(*start, *end))
    }

    fn touching(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> {
        let first = self
            .at_or_after(range.start())
            .map_or(range.end(), ByteRange::start);
        self.ends
            .range(first..range.end().max(first))
            .map(|(start, end)| run(*start, *end))
    }
}

/// As [`Runs`], but of no more than so many ranges. What is beyond is only counted, and each time that it comes.
#[derive(Clone, Debug)]
pub(super) struct BoundedRuns {
    runs: Runs,
    runs_max: usize,
    beyond_bytes: u64,
}

impl BoundedRuns {
    pub(super) fn new(runs_max: usize) -> Self {
        Self {
            runs: Runs::default(),
            runs_max,
            beyond_bytes: 0,
        }
    }

    pub(super) fn insert(&mut self, range: ByteRange) {
        if self.runs.count() < self.runs_max || self.runs.touches(range) {
            self.runs.insert(range);
        } else {
            self.beyond_bytes = self.beyond_bytes.saturating_add(range.len());
        }
    }

    /// Bytes of all, at most.
    pub(super) const fn bytes(&self) -> u64 {
        self.runs.bytes().saturating_add(self.beyond_bytes)
    }

    /// Bytes within `range`, at most.
    pub(super) fn bytes_in(&self, range: ByteRange) -> u64 {
        self.known_in(range).saturating_add(self.beyond_bytes)
    }

    /// Bytes that are certainly within `range`.
    pub(super) fn known_in(&self, range: ByteRange) -> u64 {
        self.runs.bytes_in(range)
    }
}

fn run(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).expect("ranges of the set are in order")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_list_of_flags(
            changes in prop::collection::vec((any::<bool>(), 0..64_u64, 0..20_u64), 0..40),
            asked in (0..64_u64, 0..64_u64),
        ) {
            let mut runs = Runs::default();
            let mut flags = [false; 96];
            for (insert, start, len) in changes {
                let range = ByteRange::at(start, len).unwrap();
                if insert { runs.insert(range) } else { runs.remove(range) }
                for offset in start..start + len {
                    flags[usize::try_from(offset).unwrap()] = insert;
                }
            }
            let is_in = |offset: u64| flags[usize::try_from(offset).unwrap()];
            let all: Vec<ByteRange> = runs.iter().collect();
            prop_assert!(all.iter().all(|run| !run.is_empty()));
            prop_assert!(all.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            for offset in 0..96 {
                prop_assert_eq!(all.iter().any(|run| run.contains(offset)), is_in(offset));
                let next = (offset..96).find(|offset| is_in(*offset));
                prop_assert_eq!(runs.at_or_after(offset).map(|run| run.start().max(offset)), next);
            }
            let range = ByteRange::new(asked.0.min(asked.1), asked.0.max(asked.1)).unwrap();
            let counted = (range.start()..range.end()).filter(|offset| is_in(*offset)).count();
            prop_assert_eq!(runs.bytes_in(range), u64::try_from(counted).unwrap());
            prop_assert_eq!(runs.bytes(), runs.bytes_in(ByteRange::up_to(96)));
            prop_assert_eq!(runs.count(), all.len());
            if !range.is_empty() {
                let (mut with, mut without) = (runs.clone(), runs.clone());
                with.insert(range);
                without.remove(range);
                prop_assert_eq!(runs.touches(range), with.count() <= runs.count());
                prop_assert_eq!(runs.surrounds(range), without.count() > runs.count());
            }
        }
    }
}
