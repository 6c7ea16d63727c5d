//! What may be read of one volume: every value each cell ever had, and how old a value may be. Pure.
//!
//! A volume has one writer at a time, so the values of a cell are in order: those of one *turn* after those of the one
//! before, see [`turn`]. A value is *sure* once its writer was told that it is there; a change whose outcome nobody knows
//! is not. Two floors rise with what writers are told: what the server has (close), and what is on its disk (fsync). A
//! power loss of the server takes the first back to the second, until the writer has sent it again.
//!
//! Who may write is not decided here but by `holders`: a writer that knows for certain that it has the lease sees its
//! own values and no others.

mod cell;
mod turn;

use std::ops::Range;

pub(crate) use self::cell::{BLOCK_CELLS, CELL_BYTES, Tag, ZEROS, fill, tag_of};
use self::turn::Turn;
pub(crate) use self::turn::TurnId;

#[derive(Clone, Copy, Debug)]
struct Version {
    tag: Tag,
    turn: TurnId,
    outcome: Outcome,
    /// It was found by who began to write, as this earlier version.
    found_as: Option<usize>,
}

/// How a change ended for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Refused before anything was done.
    Undone,
    Unknown,
}

/// For each cell, the oldest version that may still be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floors(Vec<usize>);

/// What one reader has seen through one handle.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Its process, which also sees what it wrote and could not send yet.
    process: u8,
    floors: Floors,
    /// The power losses when it was opened: after another one it may see older values again.
    losses: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    cells: Vec<Vec<Version>>,
    turns: Vec<Turn>,
    at_server: Floors,
    durable: Floors,
    /// What was on the disk at each power loss.
    losses: Vec<Floors>,
}

impl History {
    /// Of a volume that was never written.
    pub(crate) fn new(cells: usize) -> Self {
        let zeros = Version {
            tag: ZEROS,
            turn: TurnId::NOBODY,
            outcome: Outcome::Done,
            found_as: None,
        };
        let floors = Floors(vec![0; cells]);
        Self {
            cells: vec![vec![zeros]; cells],
            turns: vec![Turn::new(0, floors.clone(), 0)],
            at_server: floors.clone(),
            durable: floors,
            losses: Vec::new(),
        }
    }

    pub(crate) fn cells(&self) -> usize {
        self.cells.len()
    }

    /// A change begins.
    pub(crate) fn begin(&mut self, turn: TurnId, cells: Range<usize>, tag: Tag) {
        let version = Version {
            tag,
            turn,
            outcome: Outcome::Unknown,
            found_as: None,
        };
        let its = &mut self.turns[turn.0];
        its.is_dirty = true;
        for cell in cells {
            if its.is_superseded {
                its.late.push((cell, version));
            } else {
                self.cells[cell].push(version);
            }
        }
    }

    /// The change of these cells that a turn began last has ended.
    pub(crate) fn end(&mut self, turn: TurnId, cells: Range<usize>, outcome: Outcome) {
        for cell in cells {
            let late = self.turns[turn.0].late.iter_mut().rev();
            let mut late = late.filter(|(of, _)| *of == cell).map(|(_, version)| version);
            let mut own = self.cells[cell].iter_mut().rev();
            let last = late.next().or_else(|| own.find(|version| version.turn == turn));
            if let Some(version) = last {
                version.outcome = outcome;
            }
        }
    }

    /// The server's host lost its power.
    pub(crate) fn lose_power(&mut self) {
        self.at_server = self.durable.clone();
        self.losses.push(self.durable.clone());
    }

    pub(crate) fn losses(&self) -> usize {
        self.losses.len()
    }

    /// Of a handle of a process whose opening began when there had been `losses` power losses and the server had `floors`.
    pub(crate) fn view(&self, process: u8, (floors, losses): &(Floors, usize)) -> View {
        let mut view = View {
            process,
            floors: floors.clone(),
            losses: *losses,
        };
        self.lower(&mut view);
        view
    }

    /// What a handle that is opened now must see at least.
    pub(crate) fn opening(&self) -> (Floors, usize) {
        (self.at_server.clone(), self.losses())
    }

    /// A reader saw this. An error says why it cannot be.
    pub(crate) fn seen(&self, view: &mut View, cell: usize, tag: Tag) -> Result<(), String> {
        self.lower(view);
        let floor = view.floors.0[cell];
        let versions = &self.cells[cell];
        let Some(found) = self.find(cell, floor, tag) else {
            if self.is_unsent_of(view.process, cell, tag) {
                return Ok(());
            }
            return Err(self.unexplained(cell, tag, floor));
        };
        if view.losses == self.losses() && !self.is_unsent_of(view.process, cell, tag) {
            // A change that may fail can still be undone, by what is sent again to another run of the server.
            let settled = versions[..=found].iter().rposition(Version::is_sure);
            view.floors.0[cell] = settled.unwrap_or(0).max(floor);
        }
        Ok(())
    }

    /// All is over, and this is what the volume has.
    pub(crate) fn settled(&self, cell: usize, tag: Tag) -> Result<(), String> {
        let floor = self.cells[cell].iter().rposition(Version::is_sure).unwrap_or(0);
        match self.find(cell, floor, tag) {
            Some(_) => Ok(()),
            None => Err(self.unexplained(cell, tag, floor)),
        }
    }

    /// The first version from `floor` on that put this there.
    fn find(&self, cell: usize, floor: usize, tag: Tag) -> Option<usize> {
        let versions = self.cells[cell].iter().enumerate().skip(floor);
        let mut same = versions.filter(|(_, version)| version.tag == tag && version.may_be());
        same.next().map(|(at, _)| at)
    }

    /// After a power loss a view of before may see what was on the disk then.
    fn lower(&self, view: &mut View) {
        for durable in &self.losses[view.losses..] {
            for (floor, durable) in view.floors.0.iter_mut().zip(&durable.0) {
                *floor = (*floor).min(*durable);
            }
        }
    }

    fn unexplained(&self, cell: usize, tag: Tag, floor: usize) -> String {
        let versions = &self.cells[cell];
        let at = versions.iter().rposition(|version| version.tag == tag);
        let mut late = self.turns.iter().flat_map(|turn| &turn.late);
        let why = match at {
            Some(at) => format!("which is version {at}, older than {floor}, the oldest that may be seen"),
            None if late.any(|(of, version)| *of == cell && version.tag == tag) => {
                "which was written under a lease that had ended".to_owned()
            }
            None => "which was never written there".to_owned(),
        };
        let recent: Vec<_> = versions[floor..].iter().take(6).map(|v| v.tag).collect();
        format!(
            "cell {cell} has {tag}, {why}; at the server {}, on its disk {}, from {floor} on: {recent:?}",
            self.at_server.0[cell], self.durable.0[cell]
        )
    }
}

impl Version {
    fn is_sure(&self) -> bool {
        self.outcome == Outcome::Done
    }

    fn may_be(&self) -> bool {
        self.outcome != Outcome::Undone
    }
}

fn raise(floors: &mut Floors, then: &Floors) {
    for (floor, then) in floors.0.iter_mut().zip(&then.0) {
        *floor = (*floor).max(*then);
    }
}

#[cfg(test)]
mod tests;
