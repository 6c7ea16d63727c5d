//! Generations: the table of the module, row by row, and random histories against their content.

use lacuna_transport::attr::NodeKind;
use proptest::prelude::*;

use super::*;

const TICK: u64 = 10_000_000;

fn stamp(changed_ns: u64) -> Stamp {
    let time = Timestamp {
        seconds: i64::try_from(changed_ns / 1_000_000_000).unwrap(),
        nanos: u32::try_from(changed_ns % 1_000_000_000).unwrap(),
    };
    Stamp::of(&Attr {
        id: NodeId(7),
        kind: NodeKind::Volume,
        size: 0,
        allocated_bytes: 0,
        mode: 0o600,
        uid: 0,
        gid: 0,
        links: 1,
        accessed: time,
        modified: time,
        changed: time,
        birth_ns: 5,
        generation: Generation(0),
        base: Generation(0),
    })
}

fn look(now_ns: u64) -> Look {
    Look {
        now_ns,
        tick_ns: TICK,
        writes_reported: false,
        written: false,
    }
}

#[test]
fn an_old_stamp_keeps_its_number_across_restarts() {
    let first = Known::first(stamp(1_000 * TICK), &look(2_000 * TICK));
    let again = Known::first(stamp(1_000 * TICK), &look(9_000 * TICK));
    assert_eq!(first, again);
    assert_eq!(first.then(stamp(1_000 * TICK), &look(9_000 * TICK)), first);
    assert!(first.follows_from_stamp());
}

#[test]
fn a_racy_look_counts_as_a_change_once() {
    let at = 1_000 * TICK;
    let racy = Known::first(stamp(at), &look(at + 1));
    let settled = racy.then(stamp(at), &look(at + TICK));
    assert!(settled.generation() > racy.generation());
    assert_eq!(settled.then(stamp(at), &look(at + 5 * TICK)), settled);
    assert_eq!(
        settled,
        Known::first(stamp(at), &look(at + 5 * TICK)),
        "a restart agrees"
    );
}

#[test]
fn racy_looks_stay_equal_only_while_writes_are_reported() {
    let at = 1_000 * TICK;
    let reported = |now_ns| Look {
        writes_reported: true,
        ..look(now_ns)
    };
    let racy = Known::first(stamp(at), &reported(at + 1));
    assert_eq!(racy.then(stamp(at), &reported(at + 2)), racy);
    assert!(racy.then(stamp(at), &look(at + 2)).generation() > racy.generation());
}

#[test]
fn a_reported_write_is_a_change_whatever_the_stamp_says() {
    let settled = Known::first(stamp(TICK), &look(100 * TICK));
    let written = settled.then(
        stamp(TICK),
        &Look {
            written: true,
            ..look(100 * TICK)
        },
    );
    assert!(written.generation() > settled.generation());
    assert!(!written.follows_from_stamp());
}

#[test]
fn a_fine_clock_is_never_racy() {
    let fine = Look {
        tick_ns: 0,
        ..look(50)
    };
    let known = Known::first(stamp(50), &fine);
    assert_eq!(known.then(stamp(50), &fine), known);
    assert!(known.follows_from_stamp());
}

#[test]
fn a_clock_that_was_set_back_settles() {
    let future = Known::first(stamp(1_000 * TICK), &look(10 * TICK));
    assert_eq!(future.then(stamp(1_000 * TICK), &look(11 * TICK)), future);
    let changed = future.then(stamp(12 * TICK), &look(30 * TICK));
    assert!(changed.generation() > future.generation());
}

/// A volume on a file system whose clock ticks every TICK: the content is a counter, the stamp is the
/// tick it last changed in.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Write,
    Look,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..2 * TICK).prop_map(Step::Wait),
        (1..TICK / 4).prop_map(Step::Wait),
        Just(Step::Write),
        Just(Step::Look),
        Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn equal_generations_mean_equal_content(steps in steps()) {
        let (mut now, mut content, mut changed) = (1_000 * TICK, 0_u64, 1_000 * TICK);
        let mut known: Option<Known> = None;
        let mut seen: Vec<(Generation, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ns) => now += ns,
                Step::Write => {
                    content += 1;
                    changed = now - now % TICK;
                }
                Step::Restart => known = None,
                Step::Look => {
                    // A clock that ns-ticks between two looks is part of what a restart relies on.
                    now += 1;
                    let look = look(now);
                    let next = match known {
                        Some(known) => known.then(stamp(changed), &look),
                        None => Known::first(stamp(changed), &look),
                    };
                    known = Some(next);
                    for (generation, earlier) in &seen {
                        if *generation == next.generation() {
                            prop_assert_eq!(*earlier, content, "one generation, two contents");
                        }
                    }
                    seen.push((next.generation(), content));
                }
            }
        }
    }

    #[test]
    fn generations_never_go_back_within_one_run(steps in steps()) {
        let (mut now, mut changed) = (1_000 * TICK, 1_000 * TICK);
        let mut known = Known::first(stamp(changed), &look(now));
        let mut content_since_look = false;
        for step in steps {
            match step {
                Step::Wait(ns) => now += ns,
                Step::Write => { changed = now - now % TICK; content_since_look = true; }
                Step::Restart => {}
                Step::Look => {
                    let next = known.then(stamp(changed), &look(now));
                    prop_assert!(next.generation() >= known.generation());
                    if content_since_look {
                        prop_assert!(next.generation() > known.generation());
                    }
                    content_since_look = false;
                    known = next;
                }
            }
        }
    }
}
