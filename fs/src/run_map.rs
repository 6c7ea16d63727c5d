//! A total map from offsets to values, kept as runs.
//!
//! Owns nothing but a B-tree of the offsets where a run begins. Invariants: there is a run at 0; two
//! neighbouring runs differ in value; the last run reaches `u64::MAX`. So a run costs one key and one
//! value (about 20 bytes with the tree around it), and a lookup is O(log runs).

use std::collections::BTreeMap;
use std::fmt::Debug;

use lacuna_transport::range::ByteRange;

#[derive(Clone, Debug)]
pub struct RunMap<V> {
    starts: BTreeMap<u64, V>,
}

impl<V: Copy + Eq + Debug> RunMap<V> {
    /// Every offset has `value`.
    pub fn new(value: V) -> Self {
        Self {
            starts: BTreeMap::from([(0, value)]),
        }
    }

    /// Number of runs; at least 1.
    pub fn run_count(&self) -> usize {
        self.starts.len()
    }

    /// True if one value fills everything.
    pub fn is_uniform(&self) -> bool {
        self.starts.len() == 1
    }

    /// The whole run that holds `offset`, and its value.
    pub fn run_at(&self, offset: u64) -> (ByteRange, V) {
        let (start, value) = self
            .starts
            .range(..=offset)
            .next_back()
            .expect("there is a run at 0");
        let end = self.end_after(offset);
        (ByteRange::new(*start, end).expect("runs are in order"), *value)
    }

    /// The runs within `range`, in order, cut at its edges.
    pub fn runs(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, V)> + '_ {
        let mut at = range.start();
        std::iter::from_fn(move || {
            if at >= range.end() {
                return None;
            }
            let (run, value) = self.run_at(at);
            let run = run.intersect(range);
            at = run.end();
            Some((run, value))
        })
    }

    /// Gives every offset of `range` the value.
    pub fn set(&mut self, range: ByteRange, value: V) {
        if range.is_empty() {
            return;
        }
        let after = (range.end() < u64::MAX).then(|| self.run_at(range.end()).1);
        let before = range.start().checked_sub(1).map(|offset| self.run_at(offset).1);
        self.starts
            .extract_if(range.start()..range.end(), |_, _| true)
            .for_each(drop);
        if before != Some(value) {
            self.starts.insert(range.start(), value);
        }
        match after {
            Some(after) if after == value => {
                self.starts.remove(&range.end());
            }
            Some(after) => {
                self.starts.insert(range.end(), after);
            }
            None => {}
        }
    }

    fn end_after(&self, offset: u64) -> u64 {
        let next = offset
            .checked_add(1)
            .and_then(|from| self.starts.range(from..).next());
        next.map_or(u64::MAX, |(start, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: usize = 64;

    fn check(map: &RunMap<u8>, model: &[u8]) {
        let all = ByteRange::up_to(MODEL as u64);
        let mut at = 0;
        for (run, value) in map.runs(all) {
            assert_eq!(run.start(), at);
            assert!(!run.is_empty());
            for offset in run.start()..run.end() {
                assert_eq!(value, model[offset as usize]);
                let (whole, again) = map.run_at(offset);
                assert!(whole.covers(run) && again == value);
            }
            at = run.end();
        }
        assert_eq!(at, MODEL as u64);
        let values: Vec<u8> = map.starts.values().copied().collect();
        assert!(
            values.windows(2).all(|pair| pair[0] != pair[1]),
            "neighbours differ: {values:?}"
        );
        assert!(map.starts.contains_key(&0));
    }

    proptest! {
        #[test]
        fn equals_an_array(sets in prop::collection::vec((0..=MODEL, 0..=MODEL, 0..3_u8), 0..40)) {
            let mut map = RunMap::new(0);
            let mut model = vec![0; MODEL];
            for (a, b, value) in sets {
                let (start, end) = (a.min(b), a.max(b));
                map.set(ByteRange::new(start as u64, end as u64).unwrap(), value);
                model[start..end].fill(value);
                check(&map, &model);
            }
        }
    }

    #[test]
    fn the_very_last_offset_can_be_set() {
        let mut map = RunMap::new('a');
        map.set(ByteRange::new(u64::MAX - 1, u64::MAX).unwrap(), 'b');
        assert_eq!(map.run_at(u64::MAX - 1).1, 'b');
        map.set(ByteRange::ALL, 'c');
        assert!(map.is_uniform());
        assert_eq!(map.run_at(0), (ByteRange::ALL, 'c'));
    }
}
