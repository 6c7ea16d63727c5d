//! Decides the [`Generation`] of a volume from what `statx` says. Pure: time is an argument.
//!
//! **What it promises.** Two observations get equal generations only if nothing was written between
//! them, as far as the stamps (and reports of writes) can tell; a later content gets a larger number;
//! a server that restarts gives an unchanged volume the number it had.
//!
//! **How.** A change moves the change time (ctime), which nobody can set. The number of a stamp is its
//! change time in nanoseconds plus [`SETTLED`]. Where the clock of the file system is coarse, a change
//! can hide behind a stamp that was looked at within the same tick. Such a look is *racy*: it gets a
//! number below that, which no later look at the same stamp ever gets.
//!
//! | known of this stamp | seen within the tick (racy) | seen after the tick |
//! |---|---|---|
//! | nothing | number from now, racy | change time + SETTLED |
//! | racy, writes are reported | the same | change time + SETTLED, once |
//! | racy, writes are not reported | the next number | change time + SETTLED, once |
//! | settled | the same | the same |
//!
//! A reported write is always a change, even if the stamp stays: the kernel moves the change time when
//! a `write(2)` *begins* to copy, and reports it (inotify) when it is done.
//!
//! **Left out on purpose.** Stores through `mmap` that follow the first one to a page move no time and
//! are not reported by anything. After a restart, a long `write(2)` that the old process had looked
//! into, and of whose end no client was told, is not told apart: nothing of it is left to see.

use lacuna_transport::attr::{Attr, Timestamp};
use lacuna_transport::id::{Generation, NodeId};

/// Room below the number of a settled stamp for racy ones. At least the longest tick.
pub const SETTLED: u64 = 20_000_000;

/// What of a `statx` moves when content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    changed: Timestamp,
    modified: Timestamp,
    size: u64,
    id: NodeId,
    birth_ns: u64,
}

impl Stamp {
    pub fn of(attr: &Attr) -> Self {
        Self {
            changed: attr.changed,
            modified: attr.modified,
            size: attr.size,
            id: attr.id,
            birth_ns: attr.birth_ns,
        }
    }

    fn changed_ns(&self) -> u64 {
        let seconds = u64::try_from(self.changed.seconds).unwrap_or(0);
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(self.changed.nanos))
    }
}

/// When and how a stamp was taken.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Wall clock, the one that change times are taken from, in nanoseconds since 1970.
    pub now_ns: u64,
    /// See [`crate::backend::Backend::clock_tick`].
    pub tick_ns: u64,
    /// Writes are reported to us, if late.
    pub writes_reported: bool,
    /// One was reported since the last look.
    pub written: bool,
}

/// What is remembered of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    stamp: Stamp,
    generation: u64,
    racy: bool,
}

impl Known {
    /// Of a volume of which nothing is remembered.
    pub fn first(stamp: Stamp, look: &Look) -> Self {
        let racy = is_racy(&stamp, look);
        Self {
            stamp,
            generation: number(&stamp, look, racy),
            racy,
        }
    }

    /// After another look.
    #[must_use]
    pub fn then(self, stamp: Stamp, look: &Look) -> Self {
        let racy = is_racy(&stamp, look);
        let unchanged =
            self.stamp == stamp && !look.written && (!self.racy || (racy && look.writes_reported));
        if unchanged {
            return self;
        }
        let next = self.generation.saturating_add(1);
        Self {
            stamp,
            generation: number(&stamp, look, racy).max(next),
            racy,
        }
    }

    pub const fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// True if forgetting this loses nothing: [`Known::first`] would say the same again.
    pub fn follows_from_stamp(&self) -> bool {
        !self.racy && self.generation == self.stamp.changed_ns().saturating_add(SETTLED)
    }
}

/// Could a change after this look leave the stamp as it is? A change time in the future (the clock was
/// set back) is as good as one long ago: the next change gets another.
fn is_racy(stamp: &Stamp, look: &Look) -> bool {
    look.now_ns.abs_diff(stamp.changed_ns()) < look.tick_ns
}

fn number(stamp: &Stamp, look: &Look, racy: bool) -> u64 {
    let changed = stamp.changed_ns();
    let settled = changed.saturating_add(SETTLED);
    if racy {
        look.now_ns.clamp(changed, settled.saturating_sub(1))
    } else {
        settled
    }
}

#[cfg(test)]
mod tests;
