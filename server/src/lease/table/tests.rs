//! The table against a naive model, and its bounds.

use std::collections::BTreeMap;

use lacuna_transport::id::NodeId;
use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(30);

fn tag(number: u64) -> NodeTag {
    NodeTag {
        id: NodeId(number),
        birth_ns: 1,
    }
}

fn holder(number: u8) -> Holder {
    Holder {
        key: InstanceKey::from_bytes([number; 16]),
        name: format!("host-{number}"),
        address: "192.0.2.1:4433".to_owned(),
        path: "v".to_owned(),
        since_ns: 0,
    }
}

fn opener(session: u64, handle: u64) -> Opener {
    (session, Handle(handle))
}

fn granted(attempt: Attempt) -> LeaseId {
    match attempt {
        Attempt::Granted(grant) => grant.lease,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Of a volume, by a holder in its own session; with the newest id that it has had.
    Open(u64, u8, bool),
    Close(u64, u8),
    Lose(u64, u8),
    Begin(u64, u8),
    End(u64),
    Break(u64),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..2_u64, 0..3_u8);
    prop_oneof![
        6 => (place(), any::<bool>()).prop_map(|((volume, who), resume)| Step::Open(volume, who, resume)),
        3 => place().prop_map(|(volume, who)| Step::Close(volume, who)),
        2 => place().prop_map(|(volume, who)| Step::Lose(volume, who)),
        4 => place().prop_map(|(volume, who)| Step::Begin(volume, who)),
        3 => (0..2_u64).prop_map(Step::End),
        1 => (0..2_u64).prop_map(Step::Break),
        2 => (1..40_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// One volume as a person would keep the books.
#[derive(Default)]
struct Book {
    /// Who has it, by number, with the ids of its handles; and until when, if it is not connected.
    writer: Option<u8>,
    handles: BTreeMap<u8, Vec<u64>>,
    abandoned: bool,
    until: Option<Instant>,
    /// Who had it last, and whether nobody has taken it from them.
    last: Option<u8>,
    /// Changes under way, and whose.
    changes: Vec<u8>,
    ids: BTreeMap<u8, LeaseId>,
    newest: u64,
}

impl Book {
    /// The writer that others have to wait for.
    fn holds(&self, now: Instant) -> Option<u8> {
        self.writer.filter(|_| self.until.is_none_or(|until| until > now))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn never_two_writers(steps in proptest::collection::vec(step(), 1..120)) {
        let mut table = Table::new(LINGER);
        let mut books = [Book::default(), Book::default()];
        let mut now = Instant::now();
        let mut handles = 0;
        for step in steps {
            match step {
                Step::Open(volume, who, resume) => {
                    let book = &mut books[usize::try_from(volume).unwrap()];
                    let resume = book.ids.get(&who).copied().filter(|_| resume);
                    handles += 1;
                    let attempt = table.acquire(tag(volume), &holder(who), opener(u64::from(who), handles), resume, now);
                    let other = book.holds(now).filter(|writer| *writer != who);
                    match attempt {
                        Attempt::Granted(grant) => {
                            prop_assert_eq!(other, None);
                            let foreign = book.changes.iter().any(|change| *change != who);
                            prop_assert!(!foreign, "changes of another are under way");
                            if book.last == Some(who) {
                                prop_assert_eq!(grant.lease, book.ids[&who]);
                            } else {
                                prop_assert!(grant.lease.0 > book.newest, "an id comes twice");
                                prop_assert!(resume.is_none());
                                book.handles.clear();
                            }
                            book.newest = grant.lease.0;
                            book.ids.insert(who, grant.lease);
                            book.handles.entry(who).or_default().push(handles);
                            if book.until.is_some() || book.writer.is_none() {
                                book.abandoned = false;
                            }
                            (book.writer, book.last, book.until) = (Some(who), Some(who), None);
                        }
                        Attempt::Fenced => prop_assert!(resume.is_some() && book.last != Some(who)),
                        Attempt::Held(held) => {
                            prop_assert_eq!(Some(held.holder.key), other.map(|who| holder(who).key));
                        }
                        Attempt::Ending => prop_assert!(book.last != Some(who) && !book.changes.is_empty()),
                        Attempt::Full => prop_assert!(false, "two volumes"),
                    }
                }
                Step::Close(volume, who) | Step::Lose(volume, who) => {
                    let lost = matches!(step, Step::Lose(..));
                    let book = &mut books[usize::try_from(volume).unwrap()];
                    let Some(handle) = book.handles.get_mut(&who).and_then(Vec::pop) else { continue };
                    let freed = if lost {
                        table.abandon(tag(volume), opener(u64::from(who), handle), now);
                        false
                    } else {
                        table.release(tag(volume), opener(u64::from(who), handle), now)
                    };
                    let is_last = book.writer == Some(who) && book.handles[&who].is_empty();
                    if book.writer == Some(who) {
                        book.abandoned |= lost;
                    }
                    prop_assert_eq!(freed, is_last && !book.abandoned);
                    if freed {
                        book.writer = None;
                    } else if is_last {
                        book.until = Some(now + LINGER);
                    }
                }
                Step::Begin(volume, who) => {
                    let book = &mut books[usize::try_from(volume).unwrap()];
                    let Some(id) = book.ids.get(&who) else { continue };
                    let begun = table.begin_change(tag(volume), *id);
                    prop_assert_eq!(begun, book.last == Some(who));
                    if begun {
                        book.changes.push(who);
                    }
                }
                Step::End(volume) => {
                    let book = &mut books[usize::try_from(volume).unwrap()];
                    if book.changes.pop().is_some() {
                        // Nobody waits for changes of a holder that is there.
                        let is_live = book.writer.is_some() && book.until.is_none();
                        let waited_for = book.changes.is_empty() && !is_live;
                        prop_assert_eq!(table.end_change(tag(volume)), waited_for);
                    }
                }
                Step::Break(volume) => {
                    let book = &mut books[usize::try_from(volume).unwrap()];
                    let broken = table.break_lease(tag(volume), now);
                    prop_assert_eq!(broken.map(|(_, held)| held.holder.key), book.holds(now).map(|who| holder(who).key));
                    if book.holds(now).is_some() {
                        (book.writer, book.last, book.until) = (None, None, None);
                        book.handles.clear();
                    }
                }
                Step::Wait(secs) => now += Duration::from_secs(secs),
                Step::Restart => {
                    let (forgotten, known) = table.known();
                    table = Table::new(LINGER);
                    table.learn_forgotten(forgotten);
                    known.into_iter().for_each(|known| table.learn(known, now));
                    for book in &mut books {
                        // What was expired and not taken waits again.
                        book.until = book.writer.map(|_| now + LINGER);
                        book.changes.clear();
                        book.handles.clear();
                        book.abandoned = false;
                    }
                }
            }
        }
    }
}

#[test]
fn one_that_was_forgotten_is_fenced_and_one_that_was_never_known_is_not() {
    let (mut table, now) = (Table::new(LINGER), Instant::now());
    let old = granted(table.acquire(tag(0), &holder(1), opener(1, 0), None, now));
    table.release(tag(0), opener(1, 0), now);
    for volume in 1..=u64::try_from(FREE_MAX).unwrap() {
        granted(table.acquire(tag(volume), &holder(1), opener(1, volume), None, now));
        table.release(tag(volume), opener(1, volume), now);
    }
    assert_eq!(table.entries.len(), FREE_MAX);
    let resumed = table.acquire(tag(0), &holder(1), opener(1, 1), Some(old), now);
    assert_eq!(resumed, Attempt::Fenced, "somebody may have had it since");
    // A journal that is gone: what it granted is newer than all that it forgot.
    let newer = LeaseId(table.last.0 + 7);
    let unknown = tag(1 << 40);
    granted(table.acquire(unknown, &holder(1), opener(1, 1), Some(newer), now));
}

#[test]
fn held_ones_are_bounded_and_never_forgotten() {
    let (mut table, now) = (Table::new(LINGER), Instant::now());
    let held = u64::try_from(HELD_MAX).unwrap();
    for volume in 0..held {
        granted(table.acquire(tag(volume), &holder(1), opener(1, volume), None, now));
    }
    let full = table.acquire(tag(held), &holder(2), opener(2, 0), None, now);
    assert_eq!(full, Attempt::Full);
    assert_eq!(table.held(now).len(), HELD_MAX);
    table.abandon(tag(0), opener(1, 0), now);
    let full = table.acquire(tag(held), &holder(2), opener(2, 0), None, now);
    assert_eq!(full, Attempt::Full, "its holder may come back");
    let later = now + LINGER;
    granted(table.acquire(tag(held), &holder(2), opener(2, 0), None, later));
}

#[tokio::test]
async fn only_its_holder_can_say_that_it_needs_it() {
    let (mut table, now) = (Table::new(LINGER), Instant::now());
    let old = granted(table.acquire(tag(1), &holder(1), opener(1, 1), None, now));
    table.break_lease(tag(1), now);
    let new = granted(table.acquire(tag(1), &holder(2), opener(2, 1), None, now));
    let keeps = |table: &Table| table.held(now)[0].keeps;
    table.keep(tag(1), old);
    assert_eq!(keeps(&table), 0);
    table.keep(tag(1), new);
    assert_eq!(keeps(&table), 1);
}

#[tokio::test]
async fn a_client_of_which_much_lingers_keeps_nobody_from_writing() {
    let (mut table, now) = (Table::new(LINGER), Instant::now());
    table.set_held_max(4);
    for (volume, who) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        let session = u64::from(who);
        granted(table.acquire(tag(volume), &holder(who), opener(session, volume), None, now));
        table.abandon(tag(volume), opener(session, volume), now);
    }
    granted(table.acquire(tag(5), &holder(3), opener(3, 5), None, now));
    assert!(table.held_by_other(tag(1), holder(3).key, now).is_none());
    assert!(table.held_by_other(tag(4), holder(3).key, now).is_some());
    // What is live stays.
    for volume in [6, 7, 8] {
        granted(table.acquire(tag(volume), &holder(3), opener(3, volume), None, now));
    }
    let ninth = table.acquire(tag(9), &holder(4), opener(4, 9), None, now);
    assert_eq!(ninth, Attempt::Full);
}

#[tokio::test]
async fn of_a_long_path_its_end_is_kept() {
    let (mut table, now) = (Table::new(LINGER), Instant::now());
    let path = format!("{}/end", "\u{e9}".repeat(2000));
    let long = Holder {
        path: path.clone(),
        ..holder(1)
    };
    for _ in 0..2 {
        granted(table.acquire(tag(1), &long, opener(1, 1), None, now));
        let kept = table.held(now)[0].holder.path.clone();
        assert!(kept.len() <= PATH_BYTES_KEPT && kept.len() > PATH_BYTES_KEPT - 2);
        assert!(path.ends_with(&kept));
    }
}
