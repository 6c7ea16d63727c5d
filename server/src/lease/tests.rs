//! What a restart knows.

use lacuna_transport::id::{Handle, NodeId};

use super::*;

fn holder(number: u8, path: &str) -> Holder {
    Holder {
        key: InstanceKey::from_bytes([number; 16]),
        name: format!("host-{number}"),
        address: "[2001:db8::1]:4433".to_owned(),
        path: path.to_owned(),
        since_ns: clock::now_ns(),
    }
}

fn tag(id: u64) -> NodeTag {
    NodeTag {
        id: NodeId(id),
        birth_ns: 7,
    }
}

fn open(folder: &Path) -> Arc<Leases> {
    Arc::new(Leases::open(folder, Duration::from_secs(30)).unwrap())
}

fn granted(outcome: Outcome) -> WriteLease {
    match outcome {
        Outcome::Granted(lease) => lease,
        Outcome::Wait(held) => panic!("{held:?}"),
    }
}

#[test]
fn two_volumes_that_had_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let leases = open(folder.path());
    let acquire = |id, path: &str, since_ns| {
        let holder = Holder {
            since_ns,
            ..holder(1, path)
        };
        granted(leases.acquire(tag(id), &holder, (1, Handle(id)), None).unwrap())
    };
    let _held = [acquire(1, "x", 10), acquire(2, "x", 20), acquire(3, "y", 5)];
    let volumes: Vec<String> = leases.reports().into_iter().map(|report| report.volume).collect();
    assert_eq!(volumes, ["x", "x (another volume that had this name)", "y"]);
}

#[test]
fn a_restart_keeps_what_was_held_and_fences_what_was_broken() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x/".repeat(300) + "é.img";
    let [one, two, three] = {
        let leases = open(folder.path());
        let acquire = |id, holder: &Holder| {
            let opener = (1, Handle(id));
            granted(leases.acquire(tag(id), holder, opener, None).unwrap())
        };
        let one = acquire(1, &holder(1, &long));
        let two = acquire(2, &holder(1, "closed"));
        let three = acquire(3, &holder(1, "broken"));
        let ids = [one.id(), two.id(), three.id()];
        leases.break_lease(tag(3)).unwrap();
        drop(two);
        // As a kill does it: nothing of the others is written any more.
        std::mem::forget((one, three));
        ids
    };
    let leases = open(folder.path());
    let reports = leases.reports();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0].name, "host-1");
    assert!(reports[0].lingers_secs.is_some());
    assert!(reports[0].volume.ends_with("x/é.img"), "{}", reports[0].volume);
    let other = leases.acquire(tag(1), &holder(2, "x"), (2, Handle(9)), None);
    assert!(matches!(other.unwrap(), Outcome::Wait(Some(_))));
    let back = leases.acquire(tag(1), &holder(1, "x"), (1, Handle(9)), Some(one));
    assert_eq!(granted(back.unwrap()).id(), one);
    let back = leases.acquire(tag(2), &holder(1, "x"), (1, Handle(9)), Some(two));
    assert_eq!(granted(back.unwrap()).id(), two);
    let back = leases.acquire(tag(3), &holder(1, "x"), (1, Handle(9)), Some(three));
    assert_eq!(back.unwrap_err().kind(), ErrorKind::Fenced);
    let new = leases.acquire(tag(4), &holder(1, "x"), (1, Handle(10)), None);
    assert!(granted(new.unwrap()).id() > three);
}

#[test]
fn the_journal_does_not_grow_with_what_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let leases = open(folder.path());
    let many = 2 * crate::journal::COMPACT_BYTES_MIN / 440;
    for _ in 0..many {
        let lease = leases.acquire(tag(1), &holder(1, "v"), (1, Handle(1)), None);
        drop(granted(lease.unwrap()));
    }
    let bytes = std::fs::metadata(folder.path().join("leases")).unwrap().len();
    assert!(bytes <= crate::journal::COMPACT_BYTES_MIN, "{bytes} bytes");
    drop(leases);
    assert!(open(folder.path()).reports().is_empty());
}

#[test]
fn a_journal_that_cannot_be_written_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let leases = open(folder.path());
    leases.journal.lock().journal = Some(Journal::broken(Path::new("/dev/full")));
    let lease = granted(
        leases
            .acquire(tag(1), &holder(1, "v"), (1, Handle(1)), None)
            .unwrap(),
    );
    drop(lease.begin().unwrap());
    drop(lease);
    assert!(leases.reports().is_empty());
}
