//! Two mounts and a clock.

use lacuna_transport::id::InstanceId;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::wire::lock::LockKind;

use super::*;

const VOLUME: NodeId = NodeId(7);
const LINGER: Duration = Duration::from_secs(30);

struct Bed {
    table: Table,
    now: Instant,
    client: KeyId,
}

impl Bed {
    fn new() -> Self {
        Self {
            table: Table::new(LINGER, None),
            now: Instant::now(),
            client: Identity::generate().id(),
        }
    }

    fn mount(&self, instance: u8, session: u64) -> Asker {
        let mount = Mount::Instance(InstanceKey::new(self.client, InstanceId([instance; 16])));
        Asker {
            holder: Holder {
                client: self.client,
                mount,
            },
            session,
        }
    }

    fn ask(&mut self, asker: Asker, request: &LockRequest) -> Result<bool> {
        let outcome = self.table.lock(VOLUME, asker, request, None, self.now)?;
        Ok(outcome.granted)
    }

    fn takes(&mut self, asker: Asker, start: u64, end: u64) -> bool {
        self.ask(asker, &exclusive(start, end)).unwrap()
    }
}

fn exclusive(start: u64, end: u64) -> LockRequest {
    LockRequest {
        handle: Handle(1),
        space: LockSpace::Ranges,
        owner: LockOwner(5),
        pid: 42,
        kind: Some(LockKind::Exclusive),
        start,
        end,
        tell: false,
        again: None,
    }
}

fn given_up(start: u64, end: u64) -> LockRequest {
    LockRequest {
        kind: None,
        ..exclusive(start, end)
    }
}

fn waiter(session: u64) -> Waiter {
    Waiter {
        session,
        handle: Handle(session),
        events: Arc::default(),
    }
}

#[test]
fn equal_owners_of_two_mounts_are_two() {
    let mut bed = Bed::new();
    let (one, two) = (bed.mount(1, 1), bed.mount(2, 2));
    assert!(bed.takes(one, 0, 10));
    assert!(!bed.takes(two, 5, 6));
    assert!(bed.takes(two, 10, 20));
    assert!(bed.takes(one, 5, 6));
    let found = |bed: &mut Bed, asker| {
        bed.table
            .test(VOLUME, asker, &exclusive(0, u64::MAX), bed.now)
            .unwrap()
    };
    let seen = found(&mut bed, two).unwrap();
    assert_eq!(
        (seen.kind, seen.start, seen.end, seen.pid),
        (LockKind::Exclusive, 0, 10, 0)
    );
    assert_eq!(found(&mut bed, one).unwrap().start, 10);
    let mut beside = exclusive(0, u64::MAX);
    beside.owner = LockOwner(6);
    let seen = bed.table.test(VOLUME, one, &beside, bed.now).unwrap().unwrap();
    assert_eq!((seen.start, seen.pid), (0, 42));
}

#[test]
fn the_spaces_do_not_see_each_other() {
    let mut bed = Bed::new();
    let (one, two) = (bed.mount(1, 1), bed.mount(2, 2));
    let whole = LockRequest {
        space: LockSpace::Whole,
        ..exclusive(0, u64::MAX)
    };
    assert!(bed.ask(one, &whole).unwrap());
    assert!(bed.takes(two, 0, 10));
    assert!(!bed.ask(two, &whole).unwrap());
}

/// The table of the module, row by row.
#[test]
fn locks_linger_after_a_lost_session_and_no_longer() {
    let mut bed = Bed::new();
    let (lost, other) = (bed.mount(1, 1), bed.mount(2, 2));
    assert!(bed.takes(lost, 0, 10));
    bed.table.leave(lost, false, bed.now);
    bed.now += LINGER - Duration::from_millis(1);
    assert!(!bed.takes(other, 0, 10));
    bed.now += Duration::from_millis(1);
    assert!(bed.takes(other, 0, 10));
    // It comes back too late.
    let back = bed.mount(1, 3);
    let mut again = exclusive(0, 10);
    again.again = Some(true);
    assert!(!bed.ask(back, &again).unwrap());
    // A goodbye gives up at once.
    bed.table.leave(other, true, bed.now);
    assert!(bed.ask(back, &again).unwrap());
    bed.table.leave(back, true, bed.now);
    assert!(bed.table.is_empty());
}

#[test]
fn what_is_said_again_is_kept_and_the_rest_lingers() {
    let mut bed = Bed::new();
    let (first, other) = (bed.mount(1, 1), bed.mount(2, 9));
    assert!(bed.takes(first, 0, 10) && bed.takes(first, 20, 30));
    // The next session is there before the end of the first is noticed.
    let next = bed.mount(1, 2);
    let mut again = exclusive(0, 10);
    again.again = Some(true);
    assert!(bed.ask(next, &again).unwrap());
    bed.table.leave(first, false, bed.now);
    assert!(!bed.takes(other, 25, 26));
    bed.now += LINGER;
    assert!(bed.takes(other, 25, 26));
    assert!(!bed.takes(other, 5, 6));
    // A goodbye that comes late, of the session before, is none.
    bed.table.leave(first, true, bed.now);
    assert!(!bed.takes(other, 5, 6));
}

#[test]
fn a_session_without_an_instance_takes_its_locks_along() {
    let mut bed = Bed::new();
    let mut nameless = bed.mount(1, 1);
    nameless.holder.mount = Mount::Session(1);
    assert!(bed.takes(nameless, 0, 10));
    bed.table.leave(nameless, false, bed.now);
    assert!(bed.table.is_empty());
}

#[test]
fn in_the_grace_only_what_is_said_again_is_granted() {
    let mut bed = Bed::new();
    bed.table = Table::new(LINGER, Some(bed.now + Duration::from_secs(10)));
    let (held, new) = (bed.mount(1, 1), bed.mount(2, 2));
    let kind = |result: Result<bool>| result.map_err(|error| error.kind());
    assert_eq!(kind(bed.ask(new, &exclusive(0, 10))), Err(ErrorKind::Busy));
    let mut again = exclusive(0, 10);
    again.again = Some(true);
    assert_eq!(kind(bed.ask(held, &again)), Ok(true));
    // Nothing that comes later changes this answer.
    assert_eq!(kind(bed.ask(new, &exclusive(0, 10))), Ok(false));
    assert_eq!(kind(bed.ask(new, &given_up(0, 10))), Ok(true));
    assert_eq!(kind(bed.ask(new, &exclusive(50, 60))), Err(ErrorKind::Busy));
    bed.now += Duration::from_secs(10);
    assert_eq!(kind(bed.ask(new, &exclusive(50, 60))), Ok(true));
}

#[test]
fn those_who_wait_are_told_in_order_and_once() {
    let mut bed = Bed::new();
    let holder = bed.mount(1, 1);
    assert!(bed.takes(holder, 0, 10));
    for session in [5, 3, 5, 4] {
        let asker = bed.mount(u8::try_from(session).unwrap(), session);
        let waits = Some(waiter(session));
        let outcome = bed
            .table
            .lock(VOLUME, asker, &exclusive(0, 1), waits, bed.now)
            .unwrap();
        assert!(!outcome.granted && outcome.told.is_empty());
    }
    bed.table.leave(bed.mount(4, 4), false, bed.now);
    let told = |outcome: Outcome| {
        outcome
            .told
            .iter()
            .map(|waiter| waiter.session)
            .collect::<Vec<_>>()
    };
    let beside = bed
        .table
        .lock(VOLUME, holder, &given_up(10, 20), None, bed.now)
        .unwrap();
    assert_eq!(told(beside), [0; 0]);
    let freed = bed
        .table
        .lock(VOLUME, holder, &given_up(0, 5), None, bed.now)
        .unwrap();
    assert_eq!(told(freed), [5, 3]);
    let freed = bed
        .table
        .lock(VOLUME, holder, &given_up(0, 10), None, bed.now)
        .unwrap();
    assert_eq!(told(freed), [0; 0]);
    assert!(bed.table.volumes.is_empty());
}

#[test]
fn closing_a_volume_and_leaving_tell_those_who_wait() {
    for leaves in [false, true] {
        let mut bed = Bed::new();
        let (holder, other) = (bed.mount(1, 1), bed.mount(2, 2));
        assert!(bed.takes(holder, 0, 10));
        bed.table
            .lock(VOLUME, other, &exclusive(0, 1), Some(waiter(2)), bed.now)
            .unwrap();
        assert!(bed.table.holds(VOLUME, holder.holder) && !bed.table.holds(VOLUME, other.holder));
        let told = if leaves {
            bed.table.leave(holder, true, bed.now)
        } else {
            bed.table.release(VOLUME, holder.holder)
        };
        assert_eq!(told.len(), 1);
        assert!(bed.takes(other, 0, 1));
    }
}

#[test]
fn locks_are_bounded_by_volume_and_by_client() {
    let mut bed = Bed::new();
    let mount = bed.mount(1, 1);
    let refused = |result: Result<Outcome>| result.map(drop).map_err(|error| error.kind());
    let max = u64::try_from(VOLUME_LOCKS_MAX).unwrap();
    let volumes = u64::try_from(CLIENT_LOCKS_MAX / VOLUME_LOCKS_MAX).unwrap();
    for volume in 0..volumes {
        for at in 0..max {
            let request = exclusive(2 * at, 2 * at + 1);
            assert!(
                bed.table
                    .lock(NodeId(volume), mount, &request, None, bed.now)
                    .unwrap()
                    .granted
            );
        }
    }
    let one_more = exclusive(2 * max, 2 * max + 1);
    for volume in [0, volumes] {
        let asked = bed.table.lock(NodeId(volume), mount, &one_more, None, bed.now);
        assert_eq!(refused(asked), Err(ErrorKind::Exhausted));
    }
    // What makes no more of them is done.
    for request in [exclusive(0, 1), exclusive(0, 3), given_up(0, 10), one_more] {
        assert_eq!(
            refused(bed.table.lock(NodeId(0), mount, &request, None, bed.now)),
            Ok(())
        );
    }
    bed.table.leave(mount, true, bed.now);
    assert!(bed.table.is_empty() && bed.table.volumes.is_empty());
}
