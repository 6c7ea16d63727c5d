//! What is read out of requests and of /proc.

use super::*;

const STATUS: &str = "Name:\tflock\nTgid:\t77\nPid:\t77\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n";

fn with(changes: &[(&str, &str)]) -> Option<Signals> {
    let mut status = STATUS.to_owned();
    for (from, to) in changes {
        assert!(status.contains(from));
        status = status.replace(from, to);
    }
    signals_in(&status)
}

#[test]
fn a_signal_counts_for_the_thread_that_takes_it() {
    let (own, shared) = ("SigPnd:\t0000000000000000", "ShdPnd:\t0000000000000000");
    let blocked = ("SigBlk:\t0000000000000000", "SigBlk:\t0000000000004000");
    assert_eq!(with(&[]), Some(Signals::None));
    assert_eq!(
        with(&[(own, "SigPnd:\t0000000000000100")]),
        Some(Signals::Pending)
    );
    let terminated = (shared, "ShdPnd:\t0000000000004000");
    assert_eq!(with(&[terminated]), Some(Signals::Pending));
    assert_eq!(with(&[terminated, blocked]), Some(Signals::None));
    // Another thread of the process may take it.
    assert_eq!(
        with(&[terminated, ("\nPid:\t77", "\nPid:\t78")]),
        Some(Signals::None)
    );
    assert_eq!(with(&[(own, "SigPnd:\tx")]), None);
    assert_eq!(signals_in(""), None);
}

#[test]
fn this_thread_is_seen() {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    assert_eq!(signals_of(u32::try_from(thread).unwrap()), Signals::None);
    assert_eq!(signals_of(0), Signals::Unknown);
}

#[test]
fn only_a_request_with_the_arguments_of_the_call_is_believed() {
    let arguments = LockArguments {
        open: 3,
        owner: 0x1234_5678_9abc,
        start: 0,
        end: OFFSET_MAX,
        kind: WRITE_LOCK,
        process: 9,
    };
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&88_u32.to_ne_bytes());
    for (at, value) in [
        (UNIQUE_AT, 21),
        (HANDLE_AT, arguments.open),
        (OWNER_AT, arguments.owner),
        (END_AT, OFFSET_MAX),
    ] {
        bytes[at..at + 8].copy_from_slice(&u64::to_ne_bytes(value));
    }
    assert_eq!(space_of(&bytes, 21, &arguments), LockSpace::Ranges);
    bytes[FLAGS_AT] = 1;
    assert_eq!(space_of(&bytes, 21, &arguments), LockSpace::Whole);
    assert_eq!(space_of(&bytes, 22, &arguments), LockSpace::Ranges);
    for at in [0, HANDLE_AT, OWNER_AT, START_AT, END_AT] {
        let mut other = bytes;
        other[at] ^= 0x80;
        assert_eq!(space_of(&other, 21, &arguments), LockSpace::Ranges, "{at}");
    }
}

#[test]
fn a_lock_without_an_end_has_none_here() {
    let mut arguments = LockArguments {
        open: 1,
        owner: 1,
        start: 5,
        end: OFFSET_MAX,
        kind: READ_LOCK,
        process: 1,
    };
    let range = |arguments: &LockArguments| arguments.call(LockSpace::Ranges).map(|call| call.range);
    assert_eq!(range(&arguments), ByteRange::new(5, u64::MAX));
    arguments.end = 5;
    assert_eq!(range(&arguments), ByteRange::new(5, 6));
    arguments.end = 4;
    assert_eq!(range(&arguments), None);
}
