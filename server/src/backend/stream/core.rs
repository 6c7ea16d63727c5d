//! What goes out of a stream next, and which changes are too late. Pure: no IO, no clock, no lock.
//!
//! ```text
//! 0 ····· gone ······· window ······· emitted ··· claimed ················· size
//!   not in the spool   out, readable       going out      may be changed
//! ```
//!
//! | phase | goes out | changes |
//! |---|---|---|
//! | open | as much as the bound of the spool forces | taken from `claimed` on |
//! | finishing | all | refused |
//! | finished | nothing any more | refused |
//! | failed | nothing any more | taken from `claimed` on, while the spool has room |
//!
//! **Invariants**
//!
//! * What goes out is claimed first. A change below that is refused whole, one above is taken whole.
//! * A change that was taken is waited for: nothing is claimed from its start on until it has landed, and no
//!   other change of the same bytes is taken.
//! * Changes that need room get it in the order they asked. Only the first forces anything out, and no further
//!   than to its own start; if that is not enough it is taken over the bound (one change), and goes out next.
//! * Without a bound nothing is claimed before the stream is finished.
//!
//! * What is held is in so many runs at most: a change that would make one more is refused, and a hole that would
//!   stays data, which reads the same.
//!
//! The spool is counted in blocks of [`BLOCK_BYTES`]. Beyond the same number of runs, what was ever written or
//! refused is counted without its place: then a spool that is named is enough, and more than enough.

use std::collections::{BTreeMap, VecDeque};

use lacuna_transport::range::ByteRange;

use super::runs::{BoundedRuns, Runs};

/// What a spool is counted in: the block of the file systems there are.
pub(super) const BLOCK_BYTES: u64 = 4 << 10;
/// Most data that goes out in one step: a record, and what the thread that emits holds in memory.
pub(super) const STEP_BYTES_MAX: u64 = 1 << 20;

/// Memory of one run in each of the three sets that are kept: held, written, late.
pub(super) const RUN_BYTES: u64 = 3 * 64;

/// A change that asked, until it has landed or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Make it, then say [`Core::landed`].
    Taken(Ticket),
    /// There is no room yet: ask [`Core::again`] when something has changed.
    Waits(Ticket),
    Refused(Refusal),
}

/// A change that was not taken yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    range: ByteRange,
    frees: bool,
}

/// Why a change can never be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Part of it is out; a spool of so many bytes would have held it back.
    Out { enough_bytes: u64 },
    /// The stream is finished, or about to be.
    Finished,
    /// There is no room, and nothing goes out any more that would make some.
    Failed,
    /// The spool is in as many runs as there may be, and this would be one more.
    Scattered,
}

/// What the one who emits has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The bytes of the spool, at most [`STEP_BYTES_MAX`].
    Data(ByteRange),
    /// Nothing was written here: zeros.
    Hole(ByteRange),
    /// All is out: end the stream, then say [`Core::finished`].
    End,
    /// Nothing now.
    Idle,
}

/// See the table of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Finishing,
    Finished,
    Failed,
}

/// What a stream is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    /// Most bytes in the spool.
    pub(super) spool_bytes_max: Option<u64>,
    /// Bytes that stay readable once they are out.
    pub(super) window_bytes: u64,
    /// Most runs of each set that is kept, see [`RUN_BYTES`].
    pub(super) runs_max: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Core {
    shape: Shape,
    phase: Phase,
    emitted: u64,
    claimed: u64,
    /// Nothing below is in the spool; a whole number of blocks.
    gone: u64,
    /// Blocks in the spool.
    held: Runs,
    /// Blocks that were ever written, or were to be: what a spool without a bound would hold.
    written: BoundedRuns,
    landing: BTreeMap<Ticket, ByteRange>,
    waiting: VecDeque<Waiting>,
    tickets: u64,
    /// Blocks of changes that came too late.
    late: BoundedRuns,
    enough_bytes: Option<u64>,
}

impl Core {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            phase: Phase::Open,
            emitted: 0,
            claimed: 0,
            gone: 0,
            held: Runs::default(),
            written: BoundedRuns::new(shape.runs_max),
            landing: BTreeMap::new(),
            waiting: VecDeque::new(),
            tickets: 0,
            late: BoundedRuns::new(shape.runs_max),
            enough_bytes: None,
        }
    }

    /// The spool of an earlier run has data in `range`; in as many runs as were taken then.
    pub(super) fn found(&mut self, range: ByteRange) {
        let blocks = range.align_out(BLOCK_BYTES);
        self.held.insert(blocks);
        self.written.insert(blocks);
    }

    /// An earlier run put bytes into the pipe, up to some place before `below` that nobody knows.
    pub(super) fn lost_track(&mut self, below: u64) {
        let below = below.min(self.shape.size);
        (self.emitted, self.claimed) = (below, below);
        self.gone = below / BLOCK_BYTES * BLOCK_BYTES;
        self.held.remove(ByteRange::up_to(self.gone));
        self.phase = Phase::Failed;
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// All below is out.
    pub(super) const fn position(&self) -> u64 {
        self.emitted
    }

    /// All below cannot be read any more.
    pub(super) const fn gone(&self) -> u64 {
        self.gone
    }

    pub(super) const fn held_bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// Bytes, in blocks, of changes that were refused because they came too late; each once,
    /// as long as they are in few runs.
    pub(super) const fn refused_bytes(&self) -> u64 {
        self.late.bytes()
    }

    /// A spool of so many bytes would have taken all of those.
    pub(super) const fn enough_bytes(&self) -> Option<u64> {
        self.enough_bytes
    }

    /// A change of `range`, within the size and not empty, wants to be made. One that `frees` needs no room.
    pub(super) fn ask(&mut self, range: ByteRange, frees: bool) -> Verdict {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match self.judge(range, frees, self.waiting.is_empty()) {
            Judged::Taken => self.take(ticket, range, frees),
            Judged::Waits => {
                self.waiting.push_back(Waiting { ticket, range, frees });
                Verdict::Waits(ticket)
            }
            Judged::Refused(refusal) => self.refuse(range, refusal),
        }
    }

    /// As [`Self::ask`], for one that waits.
    pub(super) fn again(&mut self, ticket: Ticket) -> Verdict {
        let found = self.waiting.iter().enumerate();
        let mut found = found.filter(|(_, waiting)| waiting.ticket == ticket);
        let Some((place, Waiting { range, frees, .. })) = found.next().map(|(place, found)| (place, *found))
        else {
            return Verdict::Waits(ticket);
        };
        match self.judge(range, frees, place == 0) {
            Judged::Waits => Verdict::Waits(ticket),
            Judged::Taken => {
                self.waiting.remove(place);
                self.take(ticket, range, frees)
            }
            Judged::Refused(refusal) => {
                self.waiting.remove(place);
                self.refuse(range, refusal)
            }
        }
    }

    /// One that waits does so no longer.
    pub(super) fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
    }

    /// A change that was taken is in the spool, or has failed in part or in whole.
    pub(super) fn landed(&mut self, ticket: Ticket) {
        self.landing.remove(&ticket);
    }

    /// All is to go out.
    pub(super) fn finish(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Finishing;
        }
    }

    /// The end is out.
    pub(super) fn finished(&mut self) {
        self.phase = Phase::Finished;
    }

    /// Nothing can go out any more.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::Failed;
    }

    /// Claims what goes out next. Everything claimed before has been [`Self::emitted`].
    pub(super) fn next(&mut self) -> Step {
        let landing = self.landing.values().map(|range| range.start()).min();
        let target = self.target().min(landing.unwrap_or(u64::MAX));
        let at = self.claimed;
        if at >= target {
            let all = self.phase == Phase::Finishing && at == self.shape.size && self.landing.is_empty();
            return if all { Step::End } else { Step::Idle };
        }
        let (is_data, end) = match self.held.at_or_after(at) {
            Some(run) if run.contains(at) => (true, run.end().min(at.saturating_add(STEP_BYTES_MAX))),
            Some(run) => (false, run.start()),
            None => (false, self.shape.size),
        };
        self.claimed = end.min(target);
        let range = ByteRange::new(at, self.claimed).unwrap_or(ByteRange::EMPTY);
        if is_data {
            Step::Data(range)
        } else {
            Step::Hole(range)
        }
    }

    /// All that was claimed up to `position` is out. What it returns is to leave the spool: it cannot be read
    /// any more, and once it is punched it is to be [`Self::freed`].
    pub(super) fn emitted(&mut self, position: u64) -> ByteRange {
        debug_assert!(self.emitted <= position && position <= self.claimed);
        self.emitted = position;
        let before = self.gone;
        self.gone = self.gone_at(position);
        ByteRange::new(before, self.gone).unwrap_or(ByteRange::EMPTY)
    }

    /// Takes no room in the spool any more.
    pub(super) fn freed(&mut self, range: ByteRange) {
        self.held.remove(range);
    }

    fn judge(&self, range: ByteRange, frees: bool, is_first: bool) -> Judged {
        if matches!(self.phase, Phase::Finishing | Phase::Finished) {
            return Judged::Refused(Refusal::Finished);
        }
        if range.start() < self.claimed {
            let enough_bytes = self.enough_for(range);
            return Judged::Refused(Refusal::Out { enough_bytes });
        }
        if self.landing.values().any(|landing| landing.overlaps(range)) {
            return Judged::Waits;
        }
        if !frees && !self.has_place(range) {
            return Judged::Refused(Refusal::Scattered);
        }
        if frees || self.excess_with(range) == 0 {
            return Judged::Taken;
        }
        if self.phase == Phase::Failed {
            return Judged::Refused(Refusal::Failed);
        }
        // Nothing below its start is left that could go out: over the bound, and out with it next.
        let no_help = self.claimed >= self.target_for(range) && self.emitted == self.claimed;
        if is_first && no_help && self.is_settled() {
            return Judged::Taken;
        }
        Judged::Waits
    }

    /// Taking it in makes no more runs than there may be.
    fn has_place(&self, range: ByteRange) -> bool {
        self.held.count() < self.shape.runs_max || self.held.touches(range.align_out(BLOCK_BYTES))
    }

    /// What left the window has left the spool too.
    fn is_settled(&self) -> bool {
        self.held.bytes_in(ByteRange::up_to(self.gone)) == 0
    }

    fn take(&mut self, ticket: Ticket, range: ByteRange, frees: bool) -> Verdict {
        self.landing.insert(ticket, range);
        if frees {
            let blocks = whole_blocks(range, self.shape.size);
            if self.held.count() < self.shape.runs_max || !self.held.surrounds(blocks) {
                self.held.remove(blocks);
            }
        } else {
            let blocks = range.align_out(BLOCK_BYTES);
            self.held.insert(blocks);
            self.written.insert(blocks);
        }
        Verdict::Taken(ticket)
    }

    fn refuse(&mut self, range: ByteRange, refusal: Refusal) -> Verdict {
        if let Refusal::Out { enough_bytes } = refusal {
            let (late, _) = range.split_at(self.claimed);
            self.late.insert(late.align_out(BLOCK_BYTES));
            self.enough_bytes = self.enough_bytes.max(Some(enough_bytes));
            self.written.insert(range.align_out(BLOCK_BYTES));
        }
        Verdict::Refused(refusal)
    }

    /// The spool with which nothing would have gone out from the start of `range` on: all that was ever written
    /// from its window on, and `range`.
    fn enough_for(&self, range: ByteRange) -> u64 {
        let from = self.gone_at(range.start());
        let rest = ByteRange::new(from, u64::MAX).unwrap_or(ByteRange::EMPTY);
        let blocks = range.align_out(BLOCK_BYTES);
        let new = blocks.len() - self.written.known_in(blocks);
        self.written.bytes_in(rest).saturating_add(new)
    }

    /// Where the spool begins when `position` is the position.
    const fn gone_at(&self, position: u64) -> u64 {
        position.saturating_sub(self.shape.window_bytes) / BLOCK_BYTES * BLOCK_BYTES
    }

    /// How far out everything has to be.
    fn target(&self) -> u64 {
        match self.phase {
            Phase::Open => {
                let first = self.waiting.front().filter(|waiting| !waiting.frees);
                let first = first.map(|waiting| self.target_for(waiting.range));
                let held = self.forced_by(self.excess(self.held.bytes()));
                held.max(first.unwrap_or(0))
            }
            Phase::Finishing => self.shape.size,
            Phase::Finished | Phase::Failed => self.claimed,
        }
    }

    /// How far for `range` to have room: no further than to its start.
    fn target_for(&self, range: ByteRange) -> u64 {
        self.forced_by(self.excess_with(range)).min(range.start())
    }

    fn excess_with(&self, range: ByteRange) -> u64 {
        let blocks = range.align_out(BLOCK_BYTES);
        let new = blocks.len() - self.held.bytes_in(blocks);
        if new == 0 {
            return 0;
        }
        self.excess(self.held.bytes().saturating_add(new))
    }

    fn excess(&self, bytes: u64) -> u64 {
        self.shape
            .spool_bytes_max
            .map_or(0, |bytes_max| bytes.saturating_sub(bytes_max))
    }

    /// The lowest position at which so many bytes have left the spool.
    fn forced_by(&self, excess: u64) -> u64 {
        let mut left = excess;
        for run in self.held.iter() {
            if left == 0 {
                break;
            }
            if run.len() >= left {
                let end = run.start().saturating_add(left).next_multiple_of(BLOCK_BYTES);
                return end.saturating_add(self.shape.window_bytes).min(self.shape.size);
            }
            left -= run.len();
        }
        if left == 0 { 0 } else { self.shape.size }
    }
}

/// What [`Core::judge`] finds.
enum Judged {
    Taken,
    Waits,
    Refused(Refusal),
}

/// The blocks that are free when `range` is punched; the end of the volume ends a block.
fn whole_blocks(range: ByteRange, size: u64) -> ByteRange {
    let start = range.start().next_multiple_of(BLOCK_BYTES);
    let end = match range.end() == size {
        true => size.next_multiple_of(BLOCK_BYTES),
        false => range.end() / BLOCK_BYTES * BLOCK_BYTES,
    };
    ByteRange::new(start, end).unwrap_or(ByteRange::EMPTY)
}

#[cfg(test)]
mod tests;
