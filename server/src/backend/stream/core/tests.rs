//! Against the definition, and in any order.

use proptest::prelude::*;

use super::*;

const BLOCK: usize = 4096;
const BLOCKS: usize = 40;
/// Not a whole number of blocks.
const SIZE: usize = BLOCKS * BLOCK - 1000;

fn number(value: usize) -> u64 {
    value.try_into().unwrap()
}

fn index(value: u64) -> usize {
    value.try_into().unwrap()
}

fn range(start: usize, end: usize) -> ByteRange {
    ByteRange::new(number(start), number(end)).unwrap()
}

fn core(spool_blocks: Option<usize>, window_bytes: usize) -> Core {
    Core::new(Shape {
        size: number(SIZE),
        spool_bytes_max: spool_blocks.map(|blocks| number(blocks * BLOCK)),
        window_bytes: number(window_bytes),
        runs_max: BLOCKS,
    })
}

/// A core with its spool and its pipe.
struct Bed {
    core: Core,
    spool: Vec<u8>,
    out: Vec<u8>,
    ended: bool,
}

impl Bed {
    fn new(core: Core) -> Self {
        let spool = vec![0; SIZE];
        Self {
            core,
            spool,
            out: Vec::new(),
            ended: false,
        }
    }

    /// Puts what was claimed out.
    fn put_out(&mut self, claimed: ByteRange) {
        let (start, end) = (index(claimed.start()), index(claimed.end()));
        assert_eq!(self.out.len(), start, "in order, and nothing twice");
        self.out.extend_from_slice(&self.spool[start..end]);
    }

    fn pump(&mut self) {
        loop {
            match self.core.next() {
                Step::Data(claimed) => {
                    assert!(claimed.len() <= STEP_BYTES_MAX);
                    self.put_out(claimed);
                }
                Step::Hole(claimed) => {
                    let (start, end) = (index(claimed.start()), index(claimed.end()));
                    assert!(self.spool[start..end].iter().all(|byte| *byte == 0));
                    self.put_out(claimed);
                }
                Step::End => {
                    self.core.finished();
                    self.ended = true;
                }
                Step::Idle => return,
            }
            let gone = self.core.emitted(number(self.out.len()));
            self.core.freed(gone);
        }
    }

    /// `None` if it was refused.
    fn change(&mut self, range: ByteRange, byte: Option<u8>) -> Option<()> {
        let mut verdict = self.core.ask(range, byte.is_none());
        for _ in 0..2 {
            if let Verdict::Waits(ticket) = verdict {
                self.pump();
                verdict = self.core.again(ticket);
            }
        }
        match verdict {
            Verdict::Taken(ticket) => {
                self.spool[index(range.start())..index(range.end())].fill(byte.unwrap_or(0));
                self.core.landed(ticket);
                self.pump();
                Some(())
            }
            Verdict::Waits(_) => panic!("all that could go out is out, and {range} still waits"),
            Verdict::Refused(_) => None,
        }
    }
}

/// The same by the definition: after each change the position is the lowest one at which what lies from its
/// window on fits into the spool.
struct Model {
    spool_blocks: usize,
    window_bytes: usize,
    held: [bool; BLOCKS],
    content: Vec<u8>,
    position: usize,
}

impl Model {
    fn change(&mut self, range: ByteRange, byte: Option<u8>) -> Option<()> {
        let (start, end) = (index(range.start()), index(range.end()));
        if start < self.position {
            return None;
        }
        for block in 0..BLOCKS {
            let (first, last) = (block * BLOCK, ((block + 1) * BLOCK).min(SIZE));
            if byte.is_some() && start < last && first < end {
                self.held[block] = true;
            } else if byte.is_none() && start <= first && last <= end {
                self.held[block] = false;
            }
        }
        self.content[start..end].fill(byte.unwrap_or(0));
        let from = (self.position.saturating_sub(self.window_bytes)) / BLOCK;
        let fits = |from: usize| self.held[from..].iter().filter(|held| **held).count() <= self.spool_blocks;
        if !fits(from) {
            let from = (from..=BLOCKS).find(|from| fits(*from)).unwrap();
            self.position = self.position.max((from * BLOCK + self.window_bytes).min(SIZE));
        }
        Some(())
    }
}

type Change = (ByteRange, Option<u8>);

fn any_change() -> impl Strategy<Value = Change> {
    let range = (0..SIZE, 1..3 * BLOCK).prop_map(|(start, len)| range(start, (start + len).min(SIZE)));
    (range, prop::option::weighted(0.8, 1..=255_u8))
}

proptest! {
    #[test]
    fn equals_the_definition(
        spool_blocks in 8..BLOCKS,
        window_bytes in prop_oneof![Just(0), 1..3 * BLOCK],
        changes in prop::collection::vec(any_change(), 0..60),
    ) {
        let mut bed = Bed::new(core(Some(spool_blocks), window_bytes));
        let mut model = Model {
            spool_blocks,
            window_bytes,
            held: [false; BLOCKS],
            content: vec![0; SIZE],
            position: 0,
        };
        let mut late = [false; BLOCKS];
        for (range, byte) in &changes {
            let expected = model.change(*range, *byte);
            if expected.is_none() {
                let end = index(range.end()).min(model.position);
                late[index(range.start()) / BLOCK..end.div_ceil(BLOCK)].fill(true);
            }
            prop_assert_eq!(bed.change(*range, *byte), expected, "{} at {}", range, model.position);
            prop_assert_eq!(bed.core.position(), number(model.position));
            prop_assert!(bed.core.held_bytes() <= number(spool_blocks * BLOCK));
            let readable_from = index(bed.core.gone());
            prop_assert!(readable_from <= model.position.saturating_sub(window_bytes));
        }
        let late = late.iter().filter(|late| **late).count();
        prop_assert_eq!(bed.core.refused_bytes(), number(late * BLOCK));
        bed.core.finish();
        bed.pump();
        prop_assert!(bed.ended);
        prop_assert_eq!(bed.out, model.content);
        prop_assert_eq!(bed.core.next(), Step::Idle);
    }

    #[test]
    fn without_a_bound_all_is_taken_and_nothing_goes_out_before_the_end(
        window_bytes in 0..3 * BLOCK,
        changes in prop::collection::vec(any_change(), 0..60),
    ) {
        let mut bed = Bed::new(core(None, window_bytes));
        let mut content = vec![0; SIZE];
        for (range, byte) in changes {
            prop_assert_eq!(bed.change(range, byte), Some(()));
            content[index(range.start())..index(range.end())].fill(byte.unwrap_or(0));
            prop_assert!(bed.out.is_empty());
        }
        bed.core.finish();
        bed.pump();
        prop_assert_eq!(bed.out, content);
    }

    #[test]
    fn the_spool_that_is_called_enough_refuses_nothing(
        spool_blocks in 8..16_usize,
        window_bytes in prop_oneof![Just(0), 1..3 * BLOCK],
        changes in prop::collection::vec(any_change(), 0..60),
    ) {
        let mut tight = Bed::new(core(Some(spool_blocks), window_bytes));
        for (range, byte) in &changes {
            let _ = tight.change(*range, *byte);
        }
        let enough = tight.core.enough_bytes().map_or(spool_blocks, |bytes| index(bytes) / BLOCK);
        prop_assert!(tight.core.refused_bytes() == 0 || enough > spool_blocks);
        let mut again = Bed::new(core(Some(enough), window_bytes));
        for (range, byte) in &changes {
            prop_assert_eq!(again.change(*range, *byte), Some(()), "{} with {} blocks", range, enough);
        }
    }

    /// Changes that land later, waits that are given up, and emission that is slow, in any order.
    #[test]
    fn what_goes_out_is_what_was_taken_whatever_the_order(
        spool_blocks in prop::option::of(8..16_usize),
        window_bytes in 0..3 * BLOCK,
        actions in prop::collection::vec((0..6_u8, any_change(), any::<prop::sample::Index>()), 0..150),
    ) {
        let mut bed = Bed::new(core(spool_blocks, window_bytes));
        let mut landing: Vec<(Ticket, Change)> = Vec::new();
        let mut waiting: Vec<(Ticket, Change)> = Vec::new();
        let mut going_out: Option<ByteRange> = None;
        for (action, change, which) in actions {
            match action {
                0 | 1 => match bed.core.ask(change.0, change.1.is_none()) {
                    Verdict::Taken(ticket) => landing.push((ticket, change)),
                    Verdict::Waits(ticket) => waiting.push((ticket, change)),
                    Verdict::Refused(_) => {}
                },
                2 if !landing.is_empty() => {
                    let (ticket, (range, byte)) = landing.swap_remove(which.index(landing.len()));
                    bed.spool[index(range.start())..index(range.end())].fill(byte.unwrap_or(0));
                    bed.core.landed(ticket);
                }
                3 if !waiting.is_empty() => {
                    let (ticket, change) = waiting.swap_remove(which.index(waiting.len()));
                    match bed.core.again(ticket) {
                        Verdict::Taken(ticket) => landing.push((ticket, change)),
                        Verdict::Waits(_) if which.index(3) == 0 => bed.core.withdraw(ticket),
                        Verdict::Waits(_) => waiting.push((ticket, change)),
                        Verdict::Refused(_) => {}
                    }
                }
                4 if going_out.is_none() => match bed.core.next() {
                    Step::Data(claimed) | Step::Hole(claimed) => {
                        bed.put_out(claimed);
                        let late = landing.iter().find(|(_, (range, _))| range.start() < claimed.end());
                        prop_assert!(late.is_none(), "{:?} goes out before it has landed", late);
                        going_out = Some(claimed);
                    }
                    Step::End => prop_assert!(false, "an end without a finish"),
                    Step::Idle => {}
                },
                5 => if let Some(claimed) = going_out.take() {
                    let gone = bed.core.emitted(claimed.end());
                    bed.core.freed(gone);
                },
                _ => {}
            }
        }
        for (ticket, _) in waiting {
            bed.core.withdraw(ticket);
        }
        bed.core.finish();
        for (ticket, (range, byte)) in landing {
            prop_assert_ne!(bed.core.next_end(), Some(()), "an end before all has landed");
            bed.spool[index(range.start())..index(range.end())].fill(byte.unwrap_or(0));
            bed.core.landed(ticket);
        }
        if let Some(claimed) = going_out {
            let gone = bed.core.emitted(claimed.end());
            bed.core.freed(gone);
        }
        bed.pump();
        prop_assert!(bed.ended);
        prop_assert_eq!(bed.out, bed.spool, "a change that was taken is not in it");
    }
}

impl Core {
    /// `Some` if the end would be next; nothing is claimed.
    fn next_end(&self) -> Option<()> {
        (self.clone().next() == Step::End).then_some(())
    }
}

#[test]
fn what_is_straddling_the_position_is_refused_whole() {
    let mut bed = Bed::new(core(Some(8), 0));
    for block in 0..10 {
        bed.change(range(block * BLOCK, (block + 1) * BLOCK), Some(1))
            .unwrap();
    }
    assert_eq!(bed.core.position(), number(2 * BLOCK));
    for start in [0, BLOCK, 2 * BLOCK - 1] {
        assert_eq!(bed.change(range(start, 3 * BLOCK), Some(2)), None);
        assert_eq!(bed.change(range(start, 3 * BLOCK), None), None, "a punch");
    }
    assert_eq!(bed.change(range(2 * BLOCK, 3 * BLOCK), Some(2)), Some(()));
    assert_eq!(bed.core.refused_bytes(), number(2 * BLOCK), "each once");
    assert_eq!(bed.core.enough_bytes(), Some(number(10 * BLOCK)));
}

#[test]
fn a_failed_stream_takes_what_its_spool_has_room_for() {
    let mut bed = Bed::new(core(Some(8), 0));
    bed.core.fail();
    for block in 0..8 {
        bed.change(range(block * BLOCK, (block + 1) * BLOCK), Some(1))
            .unwrap();
    }
    let full = bed.core.ask(range(9 * BLOCK, 10 * BLOCK), false);
    assert_eq!(full, Verdict::Refused(Refusal::Failed));
    assert_eq!(bed.change(range(0, BLOCK), Some(2)), Some(()), "no new room");
    assert_eq!(bed.core.refused_bytes(), 0, "that was not too late");
    assert!(bed.out.is_empty());
}

#[test]
fn a_finished_stream_takes_nothing() {
    let mut bed = Bed::new(core(None, 0));
    bed.change(range(BLOCK, SIZE), Some(1)).unwrap();
    bed.core.finish();
    let ask = |bed: &mut Bed| bed.core.ask(range(SIZE - 1, SIZE), false);
    assert_eq!(ask(&mut bed), Verdict::Refused(Refusal::Finished));
    bed.pump();
    assert_eq!(ask(&mut bed), Verdict::Refused(Refusal::Finished));
    assert_eq!(bed.out.len(), SIZE);
    assert_eq!(bed.core.held_bytes(), number(BLOCK), "the one that it ends in");
}

#[test]
fn a_stream_that_was_lost_track_of_is_readable_from_there_on() {
    let mut bed = Bed::new(core(None, 0));
    bed.core.found(range(0, 30 * BLOCK));
    bed.core.lost_track(number(10 * BLOCK + 5));
    assert_eq!(bed.core.gone(), number(10 * BLOCK));
    assert_eq!(bed.core.held_bytes(), number(20 * BLOCK));
    assert_eq!(bed.change(range(10 * BLOCK, 11 * BLOCK), Some(1)), None);
    bed.core.finish();
    bed.pump();
    assert!(bed.out.is_empty());
}

/// However scattered: no more runs than allowed in any set, what has a run is still taken, and what goes out is right.
#[test]
fn a_spool_in_too_many_runs_takes_what_makes_no_further_one() {
    let runs_max = 4;
    let shape = Shape {
        size: number(SIZE),
        spool_bytes_max: None,
        window_bytes: 0,
        runs_max,
    };
    let mut core = Core::new(shape);
    let block = |index: usize| range(index * BLOCK, (index + 1) * BLOCK);
    let take = |core: &mut Core, range, frees| match core.ask(range, frees) {
        Verdict::Taken(ticket) => {
            core.landed(ticket);
            true
        }
        Verdict::Refused(Refusal::Scattered) => false,
        other => panic!("{other:?}"),
    };
    for index in 0..runs_max {
        assert!(take(&mut core, block(index * 4), false));
    }
    assert!(!take(&mut core, block(30), false), "one more");
    assert!(
        take(&mut core, range(0, 3 * BLOCK), false),
        "it is there, or borders on it"
    );
    assert!(take(&mut core, block(1), true), "a hole");
    assert_eq!(core.held.count(), runs_max, "that would be one more stays data");
    assert!(take(&mut core, block(12), true));
    assert!(take(&mut core, block(30), false), "there is a place again");
    for late in 0..BLOCKS / 2 {
        core.late.insert(block(late * 2));
        core.written.insert(block(late * 2));
    }
    assert_eq!(core.refused_bytes(), number(BLOCKS / 2 * BLOCK));
    core.finish();
    let mut data = Vec::new();
    loop {
        match core.next() {
            Step::Data(range) => {
                data.push(range);
                core.emitted(range.end());
            }
            Step::Hole(range) => drop(core.emitted(range.end())),
            Step::End => break,
            Step::Idle => panic!("all is to go out"),
        }
    }
    assert_eq!(data, [range(0, 3 * BLOCK), block(4), block(8), block(30)]);
}
