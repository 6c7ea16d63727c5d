//! Writers one after the other: the time of one process as the writer of a volume.
//!
//! | a turn is | from | what it writes |
//! |---|---|---|
//! | begun | its volume was opened for writing | nothing yet |
//! | established | it was found to have the lease, and what it found then is on the disk | comes after all of before |
//! | superseded | another one was found to have the lease | is late: seen by its own process alone, until that is told |
//! | over | its process was told that it lost the lease | nothing any more |
//!
//! What a writer found when its turn began is what the volume has: no change of an earlier turn comes after.

use super::{Floors, History, Outcome, Tag, Version, ZEROS, raise};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TurnId(pub(super) usize);

impl TurnId {
    /// Wrote what was there at the start.
    pub(super) const NOBODY: Self = Self(0);
}

#[derive(Clone, Debug)]
pub(super) struct Turn {
    process: u8,
    /// What it found.
    base: Floors,
    /// The power losses when it was told last that all is on the disk: what it is told of the server's memory may be of
    /// before another one.
    losses: usize,
    pub(super) is_superseded: bool,
    is_over: bool,
    /// It changed something since it was told that all is on the disk.
    pub(super) is_dirty: bool,
    /// Changes that began when it was superseded, each with its cell.
    pub(super) late: Vec<(usize, Version)>,
}

/// What a writer knows to be there, when it asks for it to be saved.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    turn: TurnId,
    floors: Floors,
    late: usize,
}

impl Turn {
    pub(super) fn new(process: u8, base: Floors, losses: usize) -> Self {
        Self {
            process,
            base,
            losses,
            is_superseded: false,
            is_over: false,
            is_dirty: false,
            late: Vec::new(),
        }
    }
}

impl History {
    /// A process has opened the volume for writing.
    pub(crate) fn begin_turn(&mut self, process: u8) -> TurnId {
        let mut turn = Turn::new(process, self.durable.clone(), self.losses());
        // What it could not save under the last one is still to be sent.
        turn.is_dirty = self.has_unsent(process);
        self.turns.push(turn);
        TurnId(self.turns.len() - 1)
    }

    /// The server has made a change under the lease of this turn: nothing that others begin from now on is made.
    pub(crate) fn claimed(&mut self, turn: TurnId) {
        for (at, other) in self.turns.iter_mut().enumerate() {
            other.is_superseded |= at != turn.0;
        }
    }

    /// A writer found this when its turn began, and it is on the disk: from now on it is what the volume has.
    pub(crate) fn established(&mut self, turn: TurnId, tags: &[Tag]) -> Result<(), String> {
        let mut base = Vec::with_capacity(tags.len());
        for (cell, tag) in tags.iter().enumerate() {
            let floor = self.at_server.0[cell];
            if self.find(cell, floor, *tag).is_none() {
                let why = self.unexplained(cell, *tag, floor);
                return Err(format!("at the start of a turn: {why}"));
            }
            let same = |version: &Version| version.tag == *tag && version.may_be();
            let versions = &mut self.cells[cell];
            base.push(versions.len());
            versions.push(Version {
                tag: *tag,
                turn,
                outcome: Outcome::Done,
                found_as: versions.iter().rposition(same),
            });
        }
        let its = &mut self.turns[turn.0];
        its.base = Floors(base);
        let found = self.sure(turn);
        self.reached_disk(&found)
    }

    /// What a writer knows to be there now.
    pub(crate) fn sure(&self, turn: TurnId) -> Saved {
        let its = &self.turns[turn.0];
        let last = |(versions, base): (&Vec<Version>, &usize)| {
            let sure = versions.iter().rposition(|v| v.turn == turn && v.is_sure());
            sure.unwrap_or(*base)
        };
        Saved {
            turn,
            floors: Floors(self.cells.iter().zip(&its.base.0).map(last).collect()),
            late: its.late.len(),
        }
    }

    /// A close, or what is as good, was answered: the server has what was sure when it began.
    pub(crate) fn reached_server(&mut self, then: &Saved) -> Result<(), String> {
        if self.turns[then.turn.0].losses == self.losses() {
            raise(&mut self.at_server, &then.floors);
        }
        self.check_saved(then, "the server")
    }

    /// An fsync was answered: what was sure when it began is on the disk.
    pub(crate) fn reached_disk(&mut self, then: &Saved) -> Result<(), String> {
        raise(&mut self.durable, &then.floors);
        raise(&mut self.at_server, &then.floors);
        let losses = self.losses();
        let its = &mut self.turns[then.turn.0];
        its.losses = losses;
        its.is_dirty = false;
        self.check_saved(then, "the disk")?;
        // Who got the volume meanwhile has found it, or something newer.
        for (cell, (versions, saved)) in self.cells.iter().zip(&then.floors.0).enumerate() {
            let older = |version: &&Version| version.found_as.is_some_and(|found| found < *saved);
            if let Some(version) = versions[saved + 1..].iter().find(older) {
                let (tag, found) = (versions[*saved].tag, version.tag);
                return Err(format!(
                    "fsync says that cell {cell} has {tag}, but who got the volume found {found}, which is older"
                ));
            }
        }
        Ok(())
    }

    fn check_saved(&self, then: &Saved, place: &str) -> Result<(), String> {
        let late = &self.turns[then.turn.0].late[..then.late];
        // A hole where the writer knows of one is no change, and nothing that can be lost.
        let is_data = |version: &Version| version.is_sure() && version.tag != ZEROS;
        match late.iter().find(|(_, version)| is_data(version)) {
            Some((cell, version)) => Err(format!(
                "{place} is said to have {} in cell {cell}, which was written under a lease that had ended",
                version.tag
            )),
            None => Ok(()),
        }
    }

    /// A writer itself read this; `certain`: it has the lease, and nobody else can have had it since its turn began.
    pub(crate) fn own(&self, turn: TurnId, cell: usize, tag: Tag, certain: bool) -> Result<(), String> {
        let its = &self.turns[turn.0];
        let versions = &self.cells[cell];
        if certain {
            let own = |version: &Version| version.turn == turn;
            let sure = versions.iter().rposition(|v| own(v) && v.is_sure());
            let floor = sure.unwrap_or(its.base.0[cell]);
            let mut from = versions[floor..].iter();
            if from.any(|version| own(version) && version.tag == tag && version.may_be()) {
                return Ok(());
            }
            return Err(self.unexplained(cell, tag, floor));
        }
        let floor = its.base.0[cell];
        let late = || !its.is_over && its.is_late(cell, tag);
        if self.find(cell, floor, tag).is_some() || late() {
            return Ok(());
        }
        Err(self.unexplained(cell, tag, floor))
    }

    /// The process was told that it lost the lease.
    pub(crate) fn over(&mut self, turn: TurnId) {
        let its = &mut self.turns[turn.0];
        (its.is_over, its.is_superseded, its.is_dirty) = (true, true, false);
    }

    pub(crate) fn is_over(&self, turn: TurnId) -> bool {
        self.turns[turn.0].is_over
    }

    /// True while the process may have something of a turn that it still has to send.
    pub(crate) fn is_dirty(&self, turn: TurnId) -> bool {
        self.turns[turn.0].is_dirty
    }

    /// For each cell that was changed for sure after the lease had ended, what the process last put there: one of these.
    pub(crate) fn lost(&self, turn: TurnId) -> Vec<(usize, Vec<Tag>)> {
        let late = &self.turns[turn.0].late;
        let of = |cell: usize| {
            late.iter()
                .filter(move |(of, _)| *of == cell)
                .map(|(_, version)| version)
        };
        let tags = |cell: usize| {
            let versions: Vec<_> = of(cell).collect();
            let last = versions.iter().rposition(|version| version.is_sure())?;
            let from = versions[last..].iter().filter(|version| version.may_be());
            from.clone().find(|version| version.tag != ZEROS)?;
            Some((cell, from.map(|version| version.tag).collect()))
        };
        (0..self.cells()).filter_map(tags).collect()
    }

    fn has_unsent(&self, process: u8) -> bool {
        let mut its = self.turns.iter().rev().filter(|turn| turn.process == process);
        its.next().is_some_and(|last| last.is_dirty)
    }

    /// A process sees what it has to send, even if it cannot be sent any more.
    pub(super) fn is_unsent_of(&self, process: u8, cell: usize, tag: Tag) -> bool {
        if !self.has_unsent(process) {
            return false;
        }
        let its = self.turns.iter().enumerate();
        let mut its = its.filter(|(_, turn)| turn.process == process && !turn.is_over);
        its.any(|(at, turn)| {
            let mut versions = self.cells[cell][turn.base.0[cell]..].iter();
            versions.any(|v| v.turn == TurnId(at) && v.tag == tag && v.may_be()) || turn.is_late(cell, tag)
        })
    }
}

impl Turn {
    fn is_late(&self, cell: usize, tag: Tag) -> bool {
        let mut late = self.late.iter();
        late.any(|(of, version)| *of == cell && version.tag == tag && version.may_be())
    }
}
