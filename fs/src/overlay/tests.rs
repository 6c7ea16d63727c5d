//! The overlay against two arrays: what the client should see, and what a server holds that may crash.

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 96;

/// Content of one byte: what it reads as, and whether it was punched.
type Byte = (u8, bool);

fn at(start: u64, len: u64) -> ByteRange {
    ByteRange::at(start, len).unwrap()
}

fn places(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}

fn write(overlay: &mut Overlay, offset: u64, bytes: &[u8]) {
    let room = overlay.room_needed(offset, bytes.len() as u64);
    overlay.write(offset, bytes, room, None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Hole(u64, u64),
    /// Made by the server at once, as a punch is.
    HoleDone(u64, u64),
    Take,
    Answer(usize),
    Lose(usize),
    Flush,
    Restart,
    Hold,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SIZE, 1..=SIZE / 2).prop_map(|(start, len)| (start, len.min(SIZE - start)));
    prop_oneof![
        6 => (place(), 1..=255_u8).prop_map(|((start, len), byte)| Step::Write(start, len, byte)),
        1 => place().prop_map(|(start, len)| Step::Zero(start, len)),
        1 => place().prop_map(|(start, len)| Step::Hole(start, len)),
        1 => place().prop_map(|(start, len)| Step::HoleDone(start, len)),
        4 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Hold),
    ]
}

/// A client with an overlay, and a server with memory and a disk.
#[derive(Default)]
struct World {
    overlay: Overlay,
    wire: Vec<Batch>,
    seen: Vec<Byte>,
    memory: Vec<Byte>,
    disk: Vec<Byte>,
    held: Vec<(ByteRange, Option<Content>)>,
}

impl World {
    fn new() -> Self {
        let empty = vec![(0, true); SIZE as usize];
        Self {
            seen: empty.clone(),
            memory: empty.clone(),
            disk: empty,
            ..Self::default()
        }
    }

    fn apply(&mut self, work: &Work) {
        match work {
            Work::Write(ranges, slices) => {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.as_ref().to_vec()).collect();
                let mut rest = &bytes[..];
                assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()));
                for range in ranges {
                    for place in places(*range) {
                        self.memory[place] = (rest[0], false);
                        rest = &rest[1..];
                    }
                }
                assert!(rest.is_empty(), "as many bytes as the ranges say");
            }
            Work::Zero(range) => self.memory[places(*range)].fill((0, false)),
            Work::Punch(ranges) => {
                for range in ranges {
                    self.memory[places(*range)].fill((0, true));
                }
            }
        }
    }

    /// A punch that waits for its answer: as the volume does it, nothing it overlaps is unsent then.
    fn settle(&mut self, range: ByteRange) {
        while self.overlay.is_unsent(range, u64::MAX) {
            match self.overlay.take(false) {
                Some(batch) => self.wire.push(batch),
                None => self.answer(0),
            }
        }
    }

    fn answer(&mut self, which: usize) {
        if !self.wire.is_empty() {
            let batch = self.wire.remove(which % self.wire.len());
            self.apply(&batch.work);
            self.overlay.answered(batch.id);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(start, len, byte) => {
                write(&mut self.overlay, start, &vec![byte; len as usize]);
                self.seen[places(at(start, len))].fill((byte, false));
            }
            Step::Zero(start, len) => {
                self.overlay.void(at(start, len), Content::Zero);
                self.seen[places(at(start, len))].fill((0, false));
            }
            Step::Hole(start, len) => {
                self.overlay.void(at(start, len), Content::Hole);
                self.seen[places(at(start, len))].fill((0, true));
            }
            Step::HoleDone(start, len) => {
                let range = at(start, len);
                self.settle(range);
                self.apply(&Work::Punch(vec![range]));
                self.overlay.void_applied(range, Content::Hole);
                self.seen[places(range)].fill((0, true));
            }
            Step::Take => self.wire.extend(self.overlay.take(false)),
            Step::Answer(which) => self.answer(which),
            Step::Lose(which) => {
                if !self.wire.is_empty() {
                    let batch = self.wire.remove(which % self.wire.len());
                    // It may have arrived, but for the answer.
                    if which % 2 == 0 {
                        self.apply(&batch.work);
                    }
                    self.overlay.lost(batch.id);
                }
            }
            Step::Flush => {
                let answers = self.overlay.answers();
                self.disk.clone_from(&self.memory);
                self.overlay.flushed(answers);
            }
            Step::Restart => {
                self.memory.clone_from(&self.disk);
                for batch in std::mem::take(&mut self.wire) {
                    self.overlay.lost(batch.id);
                }
                self.overlay.unapply();
            }
            Step::Hold => self.held = self.overlay.pieces(ByteRange::up_to(SIZE)),
        }
    }

    fn check(&self) {
        let mut at = 0;
        for (range, content) in self.overlay.pieces(ByteRange::up_to(SIZE)) {
            assert_eq!(range.start(), at);
            at = range.end();
            for (index, place) in places(range).enumerate() {
                let byte = match &content {
                    Some(Content::Data(slice)) => (slice.as_ref()[index], false),
                    Some(Content::Zero) => (0, false),
                    Some(Content::Hole) => (0, true),
                    None => self.memory[place],
                };
                assert_eq!(byte, self.seen[place], "byte {place}");
            }
        }
        assert_eq!(at, SIZE);
        let data = |stage: fn(&Stage) -> bool| {
            let patches = self.overlay.patches.iter();
            let wanted = patches.filter(|(_, patch)| patch.content.is_data() && stage(&patch.stage));
            wanted.map(|(start, patch)| patch.end - start).sum::<u64>()
        };
        assert_eq!(
            self.overlay.dirty_bytes(),
            data(|stage| matches!(stage, Stage::Dirty))
        );
        assert_eq!(
            self.overlay.applied_bytes(),
            data(|stage| matches!(stage, Stage::Applied(_)))
        );
        let dirty = self.overlay.patches.iter();
        let dirty = dirty.filter(|(_, patch)| patch.stage == Stage::Dirty);
        assert!(dirty.clone().map(|(start, _)| start).eq(&self.overlay.dirty));
        let mut by_age: Vec<_> = dirty.map(|(start, patch)| (patch.born, *start)).collect();
        by_age.sort_unstable();
        assert!(by_age.iter().eq(&self.overlay.dirty_by_age));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_byte_is_the_newest_and_reaches_the_server_once_it_is_still(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.settle(ByteRange::up_to(SIZE));
        world.check();
        prop_assert_eq!(&world.memory, &world.seen);
        world.step(&Step::Flush);
        prop_assert!(world.overlay.is_empty());
    }
}

#[test]
fn small_writes_in_a_row_become_one_request() {
    let mut overlay = Overlay::default();
    let mut room = 0;
    for index in 0..1024_u64 {
        room += overlay.room_needed(index * 1024, 1024);
        write(&mut overlay, index * 1024, &[7; 1024]);
    }
    assert!(room <= (1 << 20) + (64 << 10), "{room} bytes of room");
    assert!(overlay.patch_count() < 32);
    let batch = overlay.take(true).expect("a full one");
    let Work::Write(ranges, _) = &batch.work else {
        panic!("{batch:?}")
    };
    assert_eq!(*ranges, [at(0, 1 << 20)]);
    assert!(overlay.take(false).is_none());
}

#[test]
fn what_is_written_again_on_the_wire_waits_and_is_sent_again() {
    let mut overlay = Overlay::default();
    write(&mut overlay, 0, &[1; 100]);
    let first = overlay.take(false).unwrap();
    write(&mut overlay, 50, &[2; 100]);
    assert!(
        overlay.take(false).is_none(),
        "it would overtake what is on the wire"
    );
    overlay.answered(first.id);
    let second = overlay.take(false).unwrap();
    assert!(matches!(&second.work, Work::Write(ranges, _) if *ranges == [at(50, 100)]));
    overlay.flushed(overlay.answers());
    assert!(overlay.is_unsent(at(50, 1), u64::MAX));
    overlay.answered(second.id);
    overlay.flushed(overlay.answers());
    assert!(overlay.is_empty());
}

#[test]
fn a_write_in_place_takes_no_room_but_not_while_somebody_reads() {
    let mut overlay = Overlay::default();
    write(&mut overlay, 0, &[1; 8192]);
    assert_eq!(overlay.room_needed(100, 50), 0);
    let held = overlay.pieces(at(0, 8192));
    assert_eq!(overlay.room_needed(100, 50), 4096);
    write(&mut overlay, 100, &[2; 50]);
    assert!(
        matches!(&held[0].1, Some(Content::Data(slice)) if slice.as_ref()[100] == 1),
        "a reader keeps what it saw"
    );
}

#[test]
fn what_is_changed_later_is_not_waited_for() {
    let mut overlay = Overlay::default();
    write(&mut overlay, 0, &[1; 10]);
    let now = overlay.changes();
    write(&mut overlay, 100, &[1; 10]);
    assert!(overlay.is_unsent(ByteRange::ALL, now));
    assert!(!overlay.is_unsent(at(100, 10), now));
    assert!(overlay.is_unsent(at(100, 10), overlay.changes()));
}

#[test]
fn the_largest_void_is_one_request() {
    let mut overlay = Overlay::default();
    overlay.void(at(0, 1 << 40), Content::Hole);
    overlay.void(at(1 << 40, 1 << 40), Content::Hole);
    let batch = overlay.take(false).unwrap();
    assert!(matches!(batch.work, Work::Punch(ranges) if ranges == [at(0, 2 << 40)]));
}

#[test]
fn holes_that_are_far_apart_are_few_requests() {
    let mut overlay = Overlay::default();
    let count = u64::try_from(PUNCH_RANGES_MAX).unwrap() + 2;
    let place = |index: u64| at(index << 17, 1 << 16);
    for index in 0..count {
        overlay.void(place(index), Content::Hole);
    }
    // One is on its way, and one is zeros: the others are not in their way.
    overlay.void(place(1), Content::Zero);
    let first = overlay.take(false).unwrap();
    let expected: Vec<ByteRange> = (0..count).filter(|index| *index != 1).map(place).collect();
    let (now, later) = expected.split_at(PUNCH_RANGES_MAX);
    assert!(matches!(&first.work, Work::Punch(ranges) if ranges == now));
    let zeros = overlay.take(false).unwrap();
    assert!(matches!(zeros.work, Work::Zero(range) if range == place(1)));
    let last = overlay.take(false).unwrap();
    assert!(matches!(&last.work, Work::Punch(ranges) if ranges == later));
    assert!(overlay.take(false).is_none());
    overlay.lost(first.id);
    let again = overlay.take(false).unwrap();
    assert!(matches!(&again.work, Work::Punch(ranges) if ranges == now));
    for batch in [again.id, zeros.id, last.id] {
        overlay.answered(batch);
    }
    assert!(!overlay.has_dirty());
}

#[test]
fn holes_and_zeros_in_a_row_are_one_patch_of_their_kind() {
    let mut overlay = Overlay::default();
    for index in 0..4096 {
        overlay.void(at(index << 16, 1 << 16), Content::Hole);
    }
    assert_eq!(overlay.patch_count(), 1);
    overlay.void(at(4096 << 16, 1 << 16), Content::Zero);
    assert_eq!(overlay.patch_count(), 2);
    let batch = overlay.take(false).unwrap();
    assert!(matches!(batch.work, Work::Punch(ranges) if ranges == [at(0, 4096 << 16)]));
    // What is on the wire does not grow any more.
    overlay.void(at(4096 << 16, 1 << 16), Content::Hole);
    assert_eq!(overlay.patch_count(), 2);
    overlay.answered(batch.id);
    let batch = overlay.take(false).unwrap();
    assert!(matches!(batch.work, Work::Punch(ranges) if ranges == [at(4096 << 16, 1 << 16)]));
}
