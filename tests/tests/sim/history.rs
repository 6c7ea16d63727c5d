//! What may be read of one volume: every value each cell ever had, and how old a value may be. Pure.
//!
//! A volume has one writer at a time, so the values of a cell are in order. A value is *sure* once the writer was told
//! that it is there; a change whose outcome nobody knows is not. Two floors rise with what the writer is told: what the
//! server has (close), and what is on its disk (fsync). A power loss of the server takes the first back to the second,
//! until the writer has sent it again.

use std::ops::Range;

/// The unit of the model: a quarter of a block of the server's disk.
pub(crate) const CELL_BYTES: usize = 1024;
/// Cells of a unit that the server's disk keeps, loses or frees as one.
pub(crate) const BLOCK_CELLS: usize = 4;

/// Names one change; what it puts into a cell follows from it and the cell. 0 stands for zeros.
pub(crate) type Tag = u64;
/// The zeros of what was never written, or was punched.
pub(crate) const ZEROS: Tag = 0;

/// Bits of a word that hold the tag; the cell's number is above them.
const TAG_BITS: u32 = 40;

#[derive(Clone, Copy, Debug)]
struct Version {
    tag: Tag,
    sure: bool,
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
    floors: Floors,
    /// The power losses when it was opened: after another one it may see older values again.
    losses: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    cells: Vec<Vec<Version>>,
    at_server: Floors,
    durable: Floors,
    /// What was on the disk at each power loss.
    losses: Vec<Floors>,
    /// Since a power loss the writer was not told that all is on the disk: what it was told of the server's memory may be
    /// of before.
    unsettled: bool,
}

impl History {
    /// Of a volume that was never written.
    pub(crate) fn new(cells: usize) -> Self {
        let zeros = Version {
            tag: ZEROS,
            sure: true,
        };
        Self {
            cells: vec![vec![zeros]; cells],
            at_server: Floors(vec![0; cells]),
            durable: Floors(vec![0; cells]),
            losses: Vec::new(),
            unsettled: false,
        }
    }

    pub(crate) fn cells(&self) -> usize {
        self.cells.len()
    }

    /// A change begins.
    pub(crate) fn begin(&mut self, cells: Range<usize>, tag: Tag) {
        for cell in &mut self.cells[cells] {
            cell.push(Version { tag, sure: false });
        }
    }

    /// The change of these cells that began last has ended.
    pub(crate) fn end(&mut self, cells: Range<usize>, outcome: Outcome) {
        for cell in &mut self.cells[cells] {
            match (outcome, cell.last_mut()) {
                (Outcome::Done, Some(version)) => version.sure = true,
                (Outcome::Undone, _) => drop(cell.pop()),
                (Outcome::Unknown, _) | (_, None) => {}
            }
        }
    }

    /// What the writer knows to be there now.
    pub(crate) fn sure(&self) -> Floors {
        let last_sure = |versions: &Vec<Version>| versions.iter().rposition(|version| version.sure);
        Floors(
            self.cells
                .iter()
                .map(|cell| last_sure(cell).unwrap_or(0))
                .collect(),
        )
    }

    /// A close, or what is as good, was answered: the server has what was sure when it began.
    pub(crate) fn reached_server(&mut self, then: &Floors) {
        if !self.unsettled {
            raise(&mut self.at_server, then);
        }
    }

    /// An fsync was answered: what was sure when it began is on the disk.
    pub(crate) fn reached_disk(&mut self, then: &Floors) {
        raise(&mut self.durable, then);
        raise(&mut self.at_server, then);
        self.unsettled = false;
    }

    /// The server's host lost its power.
    pub(crate) fn lose_power(&mut self) {
        self.at_server = self.durable.clone();
        self.losses.push(self.durable.clone());
        self.unsettled = true;
    }

    pub(crate) fn losses(&self) -> usize {
        self.losses.len()
    }

    /// Of a handle whose opening began when there had been `losses` power losses and the server had `floors`.
    pub(crate) fn view(&self, (floors, losses): &(Floors, usize)) -> View {
        let mut view = View {
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
        let found = versions[floor..].iter().position(|version| version.tag == tag);
        let Some(found) = found else {
            return Err(self.unexplained(cell, tag, floor));
        };
        if view.losses == self.losses() {
            // A change that may fail can still be undone, by what is sent again to another run of the server.
            let settled = versions[..=floor + found]
                .iter()
                .rposition(|version| version.sure);
            view.floors.0[cell] = settled.unwrap_or(0).max(floor);
        }
        Ok(())
    }

    /// The writer itself read this.
    pub(crate) fn own(&self, cell: usize, tag: Tag) -> Result<(), String> {
        let floor = self.sure_floor(cell);
        let allowed = self.cells[cell][floor..].iter().any(|version| version.tag == tag);
        if allowed {
            Ok(())
        } else {
            Err(self.unexplained(cell, tag, floor))
        }
    }

    /// May a reader find a hole here?
    pub(crate) fn may_be_zero(&self, view: &View, cell: usize) -> bool {
        let mut view = view.clone();
        self.seen(&mut view, cell, ZEROS).is_ok()
    }

    /// A writer that was started anew after a crash found this: from now on it is what the volume has.
    pub(crate) fn recovered(&mut self, tags: &[Tag]) -> Result<(), String> {
        for (cell, tag) in tags.iter().enumerate() {
            let floor = self.at_server.0[cell];
            if !self.cells[cell][floor..]
                .iter()
                .any(|version| version.tag == *tag)
            {
                return Err(format!("after a crash: {}", self.unexplained(cell, *tag, floor)));
            }
            self.cells[cell].push(Version {
                tag: *tag,
                sure: true,
            });
        }
        Ok(())
    }

    fn sure_floor(&self, cell: usize) -> usize {
        let versions = &self.cells[cell];
        versions.iter().rposition(|version| version.sure).unwrap_or(0)
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
        let why = match at {
            Some(at) => format!("which is version {at}, older than {floor}, the oldest that may be seen"),
            None => "which was never written there".to_owned(),
        };
        let recent: Vec<_> = versions[floor..].iter().take(6).map(|v| v.tag).collect();
        format!(
            "cell {cell} has {tag}, {why}; at the server {}, on its disk {}, from {floor} on: {recent:?}",
            self.at_server.0[cell], self.durable.0[cell]
        )
    }
}

fn raise(floors: &mut Floors, then: &Floors) {
    for (floor, then) in floors.0.iter_mut().zip(&then.0) {
        *floor = (*floor).max(*then);
    }
}

/// The bytes that a change puts into a cell.
pub(crate) fn fill(cell: usize, tag: Tag, bytes: &mut [u8]) {
    let word = match tag {
        ZEROS => 0,
        _ => ((u64::try_from(cell).unwrap_or(0) + 1) << TAG_BITS) | tag,
    };
    for place in bytes.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Which change the bytes of a cell are of.
pub(crate) fn tag_of(cell: usize, bytes: &[u8]) -> Result<Tag, String> {
    let words = || {
        bytes
            .chunks_exact(8)
            .map(|word| word.iter().rfold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let first = words().next().unwrap_or(0);
    if let Some(at) = words().position(|word| word != first) {
        return Err(format!("cell {cell} is torn at byte {}", at * 8));
    }
    if first == 0 {
        return Ok(ZEROS);
    }
    let of_cell = (first >> TAG_BITS).checked_sub(1);
    if of_cell != u64::try_from(cell).ok() {
        return Err(format!("cell {cell} has bytes of cell {of_cell:?}"));
    }
    Ok(first & ((1 << TAG_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(history: &mut History, tag: Tag, outcome: Outcome) {
        history.begin(0..1, tag);
        history.end(0..1, outcome);
    }

    #[test]
    fn bytes_come_back_as_their_tag() {
        let mut bytes = vec![7; CELL_BYTES];
        fill(3, 99, &mut bytes);
        assert_eq!(tag_of(3, &bytes), Ok(99));
        assert!(tag_of(4, &bytes).unwrap_err().contains("of cell"));
        bytes[100] ^= 1;
        assert!(tag_of(3, &bytes).unwrap_err().contains("torn"));
        fill(3, ZEROS, &mut bytes);
        assert_eq!(tag_of(3, &bytes), Ok(ZEROS));
    }

    #[test]
    fn a_reader_never_goes_back_and_sees_what_was_closed_before_it_opened() {
        let mut history = History::new(2);
        write(&mut history, 1, Outcome::Done);
        write(&mut history, 2, Outcome::Done);
        let mut early = history.view(&history.opening());
        assert!(history.seen(&mut early, 0, 3).is_err(), "never written");
        assert!(history.may_be_zero(&early, 0));
        assert_eq!(history.seen(&mut early, 0, 2), Ok(()));
        assert!(history.seen(&mut early, 0, 1).is_err(), "older than what it saw");
        assert!(!history.may_be_zero(&early, 0));
        assert!(history.may_be_zero(&early, 1));
        let then = history.sure();
        write(&mut history, 4, Outcome::Unknown);
        history.reached_server(&then);
        let mut late = history.view(&history.opening());
        assert!(history.seen(&mut late, 0, 1).is_err());
        assert_eq!(history.seen(&mut late, 0, 2), Ok(()));
        assert_eq!(history.seen(&mut late, 0, 4), Ok(()));
    }

    #[test]
    fn the_writer_sees_its_last_write_and_what_may_have_come_after() {
        let mut history = History::new(1);
        write(&mut history, 1, Outcome::Done);
        assert!(history.own(0, ZEROS).is_err());
        write(&mut history, 2, Outcome::Undone);
        assert!(history.own(0, 2).is_err());
        write(&mut history, 3, Outcome::Unknown);
        assert_eq!((history.own(0, 1), history.own(0, 3)), (Ok(()), Ok(())));
        write(&mut history, 4, Outcome::Done);
        assert!(history.own(0, 3).is_err());
    }

    #[test]
    fn a_change_that_failed_may_come_and_go() {
        let mut history = History::new(1);
        write(&mut history, 1, Outcome::Done);
        write(&mut history, ZEROS, Outcome::Unknown);
        let mut view = history.view(&history.opening());
        for tag in [1, ZEROS, 1, ZEROS] {
            assert_eq!(history.seen(&mut view, 0, tag), Ok(()));
        }
        write(&mut history, 2, Outcome::Done);
        assert_eq!(history.seen(&mut view, 0, 2), Ok(()));
        assert!(history.seen(&mut view, 0, 1).is_err());
    }

    #[test]
    fn a_power_loss_takes_back_what_was_not_on_the_disk_and_no_more() {
        let mut history = History::new(1);
        write(&mut history, 1, Outcome::Done);
        history.reached_disk(&history.sure());
        write(&mut history, 2, Outcome::Done);
        history.reached_server(&history.sure());
        let mut view = history.view(&history.opening());
        assert_eq!(history.seen(&mut view, 0, 2), Ok(()));
        history.lose_power();
        assert_eq!(history.seen(&mut view, 0, 1), Ok(()));
        assert!(history.seen(&mut view, 0, ZEROS).is_err());
        history.reached_server(&history.sure());
        assert!(
            history.recovered(&[ZEROS]).is_err(),
            "what was fsynced survives every crash"
        );
        assert_eq!(history.recovered(&[1]), Ok(()));
        assert!(history.own(0, 2).is_err());
    }
}
