//! What may be seen, by readers and by writers that follow one another.

use super::*;

/// Two processes; the first one has written from the start.
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const READER: u8 = 9;

fn begun(cells: usize) -> (History, TurnId) {
    let mut history = History::new(cells);
    let turn = history.begin_turn(FIRST);
    history.established(turn, &vec![ZEROS; cells]).unwrap();
    (history, turn)
}

fn write(history: &mut History, turn: TurnId, tag: Tag, outcome: Outcome) {
    history.begin(turn, 0..1, tag);
    history.end(turn, 0..1, outcome);
}

fn view(history: &History) -> View {
    history.view(READER, &history.opening())
}

/// A second writer gets the volume and finds this in its first cell.
fn taken(history: &mut History, tag: Tag) -> Result<TurnId, String> {
    let turn = history.begin_turn(SECOND);
    history.claimed(turn);
    let mut tags = vec![ZEROS; history.cells()];
    tags[0] = tag;
    history.established(turn, &tags).map(|()| turn)
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
    let (mut history, turn) = begun(2);
    let mut early = view(&history);
    write(&mut history, turn, 1, Outcome::Done);
    write(&mut history, turn, 2, Outcome::Done);
    assert!(history.seen(&mut early, 0, 3).is_err(), "never written");
    assert_eq!(history.seen(&mut early.clone(), 0, ZEROS), Ok(()));
    assert_eq!(history.seen(&mut early, 0, 2), Ok(()));
    assert!(history.seen(&mut early, 0, 1).is_err(), "older than what it saw");
    assert!(history.seen(&mut early, 0, ZEROS).is_err());
    assert_eq!(history.seen(&mut early, 1, ZEROS), Ok(()));
    let then = history.sure(turn);
    write(&mut history, turn, 4, Outcome::Unknown);
    history.reached_server(&then).unwrap();
    let mut late = view(&history);
    assert!(history.seen(&mut late, 0, 1).is_err());
    assert_eq!(history.seen(&mut late, 0, 2), Ok(()));
    assert_eq!(history.seen(&mut late, 0, 4), Ok(()));
}

#[test]
fn the_writer_sees_its_last_write_and_what_may_have_come_after() {
    let (mut history, turn) = begun(1);
    let own = |history: &History, tag| history.own(turn, 0, tag, true);
    assert_eq!(own(&history, ZEROS), Ok(()));
    write(&mut history, turn, 1, Outcome::Done);
    assert!(own(&history, ZEROS).is_err());
    write(&mut history, turn, 2, Outcome::Undone);
    assert!(own(&history, 2).is_err());
    write(&mut history, turn, 3, Outcome::Unknown);
    assert_eq!((own(&history, 1), own(&history, 3)), (Ok(()), Ok(())));
    write(&mut history, turn, 4, Outcome::Done);
    assert!(own(&history, 3).is_err());
    assert_eq!(history.settled(0, 4), Ok(()));
    assert!(history.settled(0, 3).is_err());
}

#[test]
fn a_change_that_failed_may_come_and_go() {
    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    let mut view = view(&history);
    write(&mut history, turn, ZEROS, Outcome::Unknown);
    for tag in [1, ZEROS, 1, ZEROS] {
        assert_eq!(history.seen(&mut view, 0, tag), Ok(()));
    }
    write(&mut history, turn, 2, Outcome::Done);
    assert_eq!(history.seen(&mut view, 0, 2), Ok(()));
    assert!(history.seen(&mut view, 0, 1).is_err());
}

#[test]
fn a_power_loss_takes_back_what_was_not_on_the_disk_and_no_more() {
    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    history.reached_disk(&history.sure(turn)).unwrap();
    write(&mut history, turn, 2, Outcome::Done);
    history.reached_server(&history.sure(turn)).unwrap();
    let mut view = view(&history);
    assert_eq!(history.seen(&mut view, 0, 2), Ok(()));
    history.lose_power();
    assert_eq!(history.seen(&mut view, 0, 1), Ok(()));
    assert!(history.seen(&mut view, 0, ZEROS).is_err());
    history.reached_server(&history.sure(turn)).unwrap();
    assert!(
        taken(&mut history, ZEROS).is_err(),
        "what was fsynced survives every crash"
    );
    let next = taken(&mut history, 1).unwrap();
    assert!(history.own(next, 0, 2, true).is_err());
}

#[test]
fn what_was_written_before_another_writer_began_may_be_there_and_nothing_of_after() {
    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    history.begin(turn, 0..1, 2);
    let next = history.begin_turn(SECOND);
    history.claimed(next);
    history.end(turn, 0..1, Outcome::Done);
    write(&mut history, turn, 3, Outcome::Done);
    let late = history.established(next, &[3]).unwrap_err();
    assert!(late.contains("had ended"), "{late}");
    history.established(next, &[1]).unwrap();
    for tag in [2, 3] {
        assert!(history.own(next, 0, tag, true).is_err(), "{tag}");
    }
    assert!(history.seen(&mut view(&history), 0, 3).is_err());
    // Who does not know yet sees its own.
    assert_eq!(history.own(turn, 0, 3, false), Ok(()));
    assert_eq!(history.lost(turn), [(0, vec![3])]);
    history.over(turn);
    assert!(history.own(turn, 0, 3, false).is_err());
    assert_eq!(history.own(turn, 0, 1, false), Ok(()));
}

#[test]
fn an_fsync_of_a_late_write_or_of_one_that_was_not_found_is_a_lie() {
    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    let before = history.sure(turn);
    taken(&mut history, ZEROS).unwrap();
    let lie = history.reached_disk(&before).unwrap_err();
    assert!(lie.contains("which is older"), "{lie}");

    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    let before = history.sure(turn);
    taken(&mut history, 1).unwrap();
    assert_eq!(history.reached_disk(&before), Ok(()));
    write(&mut history, turn, 2, Outcome::Done);
    let late = history.sure(turn);
    assert!(history.reached_disk(&late).is_err());
    assert!(history.reached_server(&late).is_err());
}

#[test]
fn a_process_goes_on_seeing_what_it_cannot_send() {
    let (mut history, turn) = begun(1);
    write(&mut history, turn, 1, Outcome::Done);
    let next = taken(&mut history, ZEROS).unwrap();
    write(&mut history, next, 5, Outcome::Done);
    history.reached_disk(&history.sure(next)).unwrap();
    let mut own = history.view(FIRST, &history.opening());
    assert_eq!(history.seen(&mut own, 0, 1), Ok(()));
    assert!(history.seen(&mut view(&history), 0, 1).is_err());
    history.over(turn);
    assert!(history.seen(&mut own, 0, 1).is_err());
    assert_eq!(history.seen(&mut own, 0, 5), Ok(()));
}
