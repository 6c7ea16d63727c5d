//! What is remembered of operations, for how long, and what survives the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lacuna_transport::quic::identity::Identity;

use super::shed::INSTANCE_UNITS;
use super::*;
use crate::journal::{COMPACT_BYTES_MIN, Record as _};

const KIND: OperationKind = OperationKind::Rename;

fn instance(number: u64) -> InstanceKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    InstanceKey(key)
}

fn operation(of: u64, number: u64) -> OperationKey {
    OperationKey {
        client: ClientTag([0; 3]),
        instance: instance(of),
        operation: OperationId(number),
    }
}

fn of_client(client: u8, of: u64, number: u64) -> OperationKey {
    OperationKey {
        client: ClientTag([client; 3]),
        ..operation(u64::from(client) * 1_000_000 + of, number)
    }
}

fn tag(id: u64) -> Option<NodeTag> {
    Some(NodeTag {
        id: NodeId(id),
        birth_ns: 1,
    })
}

/// Does nothing, and says whether it would have been done now.
fn is_new(operations: &Operations, key: OperationKey) -> bool {
    let act = |intend: &mut dyn FnMut(Option<NodeTag>)| {
        intend(tag(5));
        Ok((tag(key.operation.0), ()))
    };
    match operations.once(Some(key), KIND, |_| Ok(Some(None)), act).unwrap() {
        Once::Now(()) => true,
        Once::Before(_) => false,
    }
}

#[test]
fn clients_and_instances_have_keys_of_their_own() {
    let (one, two) = (Identity::generate().id(), Identity::generate().id());
    let (a, b) = (InstanceId([1; 16]), InstanceId([2; 16]));
    let keys = [(one, a), (one, b), (two, a), (two, b)].map(|(key, id)| InstanceKey::new(key, id));
    for (index, key) in keys.iter().enumerate() {
        assert!(keys[index + 1..].iter().all(|other| other != key));
    }
    assert_eq!(InstanceKey::new(one, a), keys[0]);
}

#[test]
fn outcomes_are_answered_again_errors_too() {
    let operations = Operations::in_memory();
    let key = |number| Some(operation(1, number));
    let judge = |_: &Intent| panic!("nothing to judge");
    let done: Once<()> = operations
        .once(key(1), KIND, judge, |_| Ok((tag(9), ())))
        .unwrap();
    assert_eq!(done, Once::Now(()));
    let again = operations.once(key(1), KIND, judge, |_| -> Result<(_, ())> { panic!("twice") });
    assert_eq!(again.unwrap(), Once::Before(tag(9)));
    let fail = || Err::<(Option<NodeTag>, ()), _>(Error::new(ErrorKind::NotEmpty, "planned"));
    let failed = operations.once(key(2), KIND, judge, |_| fail());
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::NotEmpty);
    let again = operations.once(key(2), KIND, judge, |_| -> Result<(_, ())> { panic!("twice") });
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotEmpty);
    let other = operations.once(key(1), OperationKind::Create, judge, |_| Ok((None, ())));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn the_same_number_while_it_runs_waits_for_the_outcome() {
    let operations = Arc::new(Operations::in_memory());
    let key = operation(1, 1);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let done = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (operations, done) = (&operations, &done);
        scope.spawn(move || {
            let act = |_: &mut dyn FnMut(Option<NodeTag>)| {
                begun.send(()).unwrap();
                gate.recv().unwrap();
                done.fetch_add(1, Ordering::SeqCst);
                Ok((tag(3), ()))
            };
            operations.once(Some(key), KIND, |_| Ok(None), act).unwrap();
        });
        has_begun.recv().unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let act = |_: &mut dyn FnMut(Option<NodeTag>)| -> Result<(_, ())> { panic!("twice") };
                    let outcome = operations.once(Some(key), KIND, |_| Ok(None), act).unwrap();
                    assert_eq!(done.load(Ordering::SeqCst), 1, "answered before it was done");
                    assert_eq!(outcome, Once::Before(tag(3)));
                })
            })
            .collect();
        go_on.send(()).unwrap();
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    });
}

#[test]
fn a_panic_is_an_outcome() {
    let operations = Operations::in_memory();
    let key = Some(operation(1, 1));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        operations.once(
            key,
            KIND,
            |_| Ok(None),
            |_| -> Result<(_, ())> { panic!("planned") },
        )
    }));
    assert!(panicked.is_err());
    let again = operations.once(key, KIND, |_| Ok(None), |_| Ok((None, ())));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn one_that_cannot_be_judged_is_judged_again() {
    let state = tempfile::tempdir().unwrap();
    let key = Some(operation(1, 1));
    let mut journal = Journal::open(state.path()).unwrap().0;
    let intent = Record {
        key: operation(1, 1),
        kind: KIND,
        entry: Entry::Intent {
            node: tag(4),
            at_ns: 8,
        },
    };
    journal.append(&intent).unwrap();
    let operations = Operations::open(state.path()).unwrap();
    for _ in 0..2 {
        let failing = |_: &Intent| Err(Error::new(ErrorKind::Io, "planned"));
        let failed = operations.once(key, KIND, failing, |_| Ok((None, ())));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io);
    }
    let judge = |intent: &Intent| {
        assert_eq!((intent.node, intent.at_ns), (tag(4), 8));
        Ok(Some(None))
    };
    let judged = operations.once(key, KIND, judge, |_| -> Result<(_, ())> { panic!("done before") });
    assert_eq!(judged.unwrap(), Once::Before(None));
}

#[test]
fn the_last_operations_of_the_last_instances_are_kept() {
    let operations = Operations::in_memory();
    let count = u64::try_from(OPERATIONS_KEPT_MAX).unwrap();
    for number in 0..=count {
        assert!(is_new(&operations, operation(1, number)));
    }
    for number in 1..=count {
        assert!(!is_new(&operations, operation(1, number)));
    }
    assert!(is_new(&operations, operation(1, 0)), "the oldest is forgotten");
}

/// Whatever a client does, with however many sessions: what is remembered of others is, and is not more than allowed.
#[test]
fn a_client_with_more_than_its_share_loses_its_own_memory() {
    let units_max = 100 * (INSTANCE_UNITS + 1);
    let operations = Operations::in_memory().with_units_max(units_max);
    for number in 0..10 {
        assert!(is_new(&operations, of_client(1, number, 0)));
    }
    for number in 0..1000 {
        operations.join(of_client(2, number, 0).instance);
        assert!(is_new(&operations, of_client(2, number, 0)));
        assert!(operations.state.lock().units <= units_max);
    }
    for number in 0..10 {
        assert!(!is_new(&operations, of_client(1, number, 0)), "{number}");
    }
    assert!(!is_new(&operations, of_client(2, 999, 0)), "its last");
    assert!(is_new(&operations, of_client(2, 0, 0)), "its first");
    // Many small clients have all of it: what was used longest ago goes.
    let operations = Operations::in_memory().with_units_max(units_max);
    for client in 0..200 {
        assert!(is_new(&operations, of_client(client, 0, 0)));
    }
    assert!(!is_new(&operations, of_client(199, 0, 0)));
    assert!(is_new(&operations, of_client(0, 0, 0)));
}

#[test]
fn what_is_remembered_of_a_connected_instance_outlives_that_of_lost_ones() {
    let units_max = 100 * (INSTANCE_UNITS + 1);
    let operations = Operations::in_memory().with_units_max(units_max);
    operations.join(instance(1));
    assert!(is_new(&operations, operation(1, 0)));
    for number in 2..1000 {
        assert!(is_new(&operations, operation(number, 0)));
    }
    assert!(!is_new(&operations, operation(1, 0)));
    operations.leave(instance(1));
    for number in 1000..2000 {
        assert!(is_new(&operations, operation(number, 0)));
    }
    assert!(is_new(&operations, operation(1, 0)), "it has gone since");
    assert!(operations.connected.lock().is_empty());
    // Alone, and without room for all: its oldest.
    let operations = Operations::in_memory().with_units_max(INSTANCE_UNITS + 10);
    operations.join(instance(1));
    for number in 0..100 {
        assert!(is_new(&operations, operation(1, number)));
        assert!(!is_new(&operations, operation(1, number)));
    }
    assert!(!is_new(&operations, operation(1, 92)));
    assert!(is_new(&operations, operation(1, 80)));
}

#[test]
fn who_remembered_what_outlives_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let operations = Operations::open(state.path()).unwrap();
    assert!(is_new(&operations, of_client(1, 0, 0)));
    for number in 0..50 {
        assert!(is_new(&operations, of_client(2, number, 0)));
    }
    drop(operations);
    let again = Operations::open(state.path()).unwrap();
    let again = again.with_units_max(20 * (INSTANCE_UNITS + 1));
    assert!(
        !is_new(&again, of_client(1, 0, 0)),
        "the oldest, but not of who has most"
    );
    assert!(!is_new(&again, of_client(2, 49, 0)));
}

#[test]
fn the_journal_is_written_anew_before_it_grows_too_large() {
    let state = tempfile::tempdir().unwrap();
    let operations = Operations::open(state.path()).unwrap();
    let path = state.path().join(Record::FILE_NAME);
    let many = COMPACT_BYTES_MIN / u64::try_from(Record::BYTES).unwrap();
    for number in 0..many {
        assert!(is_new(&operations, operation(number % 3, number)));
        assert!(path.metadata().unwrap().len() <= COMPACT_BYTES_MIN);
    }
    drop(operations);
    let again = Operations::open(state.path()).unwrap();
    let kept = u64::try_from(OPERATIONS_KEPT_MAX).unwrap() * 3;
    assert!(path.metadata().unwrap().len() < COMPACT_BYTES_MIN);
    for number in many - kept..many {
        assert!(
            !is_new(&again, operation(number % 3, number)),
            "{number} of {many}"
        );
    }
}

/// Where nothing can be recorded, changes are made all the same.
#[test]
fn a_journal_that_cannot_be_written_stops_nothing() {
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        eprintln!("SKIPPED: no /dev/full");
        return;
    }
    let operations = Operations::in_memory();
    operations.state.lock().journal = Some(Journal::broken(full));
    let key = operation(1, 1);
    assert!(is_new(&operations, key));
    assert!(!is_new(&operations, key));
}
