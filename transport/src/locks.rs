//! Locks on the ranges of one volume, as fcntl(2) knows them: who holds what; pure.
//!
//! The server decides with it, a client remembers with it what it was given, and decides with it where a server
//! keeps no locks.
//!
//! **Invariants**
//!
//! * The ranges of one owner do not overlap; neighbours of one kind and tag are one entry.
//! * An entry is never empty.
//!
//! Who may hold what beside whom is the caller's question: [`LockMap::set`] asks nobody, [`LockMap::conflict`] tells.

use crate::range::ByteRange;
use crate::wire::lock::LockKind;

/// One lock. The tag is what its keeper knows of it beside who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<O, T> {
    pub owner: O,
    pub kind: LockKind,
    pub range: ByteRange,
    pub tag: T,
}

/// See the module. The oldest entries come first.
#[derive(Clone, Debug)]
pub struct LockMap<O, T> {
    held: Vec<Held<O, T>>,
}

impl<O, T> Default for LockMap<O, T> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<O: Copy + Eq, T: Copy + Eq> LockMap<O, T> {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Held<O, T>> {
        self.held.iter()
    }

    /// The first lock, by offset, of another owner that a lock cannot be held beside.
    pub fn conflict(&self, owner: O, range: ByteRange, kind: LockKind) -> Option<&Held<O, T>> {
        let apart = |held: &&Held<O, T>| {
            let shares = held.kind == LockKind::Shared && kind == LockKind::Shared;
            held.owner != owner && !shares && held.range.overlaps(range)
        };
        self.held
            .iter()
            .filter(apart)
            .min_by_key(|held| held.range.start())
    }

    /// Replaces what the owner has of a range: by a lock, or by nothing.
    pub fn set(&mut self, owner: O, range: ByteRange, lock: Option<(LockKind, T)>) {
        let mut rests = Vec::new();
        self.held.retain(|held| {
            let is_cut = held.owner == owner && held.range.overlaps(range);
            if is_cut {
                let (before, _) = held.range.split_at(range.start());
                let (_, after) = held.range.split_at(range.end());
                let rest = [before, after].into_iter().filter(|rest| !rest.is_empty());
                rests.extend(rest.map(|range| Held { range, ..*held }));
            }
            !is_cut
        });
        self.held.append(&mut rests);
        let Some((kind, tag)) = lock.filter(|_| !range.is_empty()) else {
            return;
        };
        let mut joined = range;
        self.held.retain(|held| {
            let alike = held.owner == owner && held.kind == kind && held.tag == tag;
            let touches = held.range.end() == range.start() || range.end() == held.range.start();
            if alike && touches {
                let (start, end) = (joined.start(), joined.end());
                joined = ByteRange::new(start.min(held.range.start()), end.max(held.range.end()))
                    .expect("both are ranges");
            }
            !(alike && touches)
        });
        self.held.push(Held {
            owner,
            kind,
            range: joined,
            tag,
        });
    }

    /// As [`Self::set`], unless more than `held_max` entries were left then: false, and nothing is changed.
    pub fn set_within(
        &mut self,
        owner: O,
        range: ByteRange,
        lock: Option<(LockKind, T)>,
        held_max: usize,
    ) -> bool {
        // One entry more by each cut in two, and one for the lock itself.
        if self.held.len().saturating_add(2) <= held_max {
            self.set(owner, range, lock);
            return true;
        }
        let mut next = self.clone();
        next.set(owner, range, lock);
        let fits = next.len() <= held_max.max(self.len());
        if fits {
            *self = next;
        }
        fits
    }

    /// What the owner has of a range, in order and without gaps; `None` is nothing.
    pub fn pieces(&self, owner: O, range: ByteRange) -> Vec<(ByteRange, Option<(LockKind, T)>)> {
        let mut own: Vec<_> = self
            .held
            .iter()
            .filter(|held| held.owner == owner && held.range.overlaps(range))
            .collect();
        own.sort_by_key(|held| held.range.start());
        let (mut pieces, mut rest) = (Vec::new(), range);
        for held in own {
            let (gap, tail) = rest.split_at(held.range.start());
            let (part, tail) = tail.split_at(held.range.end());
            if !gap.is_empty() {
                pieces.push((gap, None));
            }
            pieces.push((part, Some((held.kind, held.tag))));
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push((rest, None));
        }
        pieces
    }

    /// Gives up the locks for which `goes` is true; tells how many they were.
    pub fn remove_if(&mut self, mut goes: impl FnMut(&Held<O, T>) -> bool) -> usize {
        let before = self.held.len();
        self.held.retain(|held| !goes(held));
        before - self.held.len()
    }
}

#[cfg(test)]
mod tests;
