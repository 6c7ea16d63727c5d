//! Who may have a lease, and which answers cannot be.

use super::*;

const ONE: u8 = 1;
const TWO: u8 = 2;
const LEASE_TIME: Duration = Duration::from_secs(2);

/// A clock that is set by hand.
struct Bed {
    holders: Holders,
    start: Instant,
}

impl Bed {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            holders: Holders::new(LEASE_TIME, start),
            start,
        }
    }

    fn at(&self, secs: u64) -> Instant {
        self.start + Duration::from_secs(secs)
    }

    fn asks(&mut self, process: u8, asked: Asked, secs: u64) -> Result<(), String> {
        self.holders.asks(process);
        let now = self.at(secs);
        self.holders.asked(process, asked, (now, now))
    }

    fn claims(&mut self, process: u8, secs: u64) -> Result<(), String> {
        let now = self.at(secs);
        self.holders.claimed(process, (now, now))
    }

    /// A process gets the lease and is found to have it.
    fn gets(&mut self, process: u8, secs: u64) -> Result<(), String> {
        self.asks(process, Asked::Opened, secs)?;
        self.claims(process, secs)
    }
}

#[test]
fn one_that_has_it_is_certain_until_another_may_get_it() {
    let mut bed = Bed::new();
    bed.gets(ONE, 1).unwrap();
    assert!(bed.holders.is_certain(ONE) && !bed.holders.is_certain(TWO));
    bed.holders.asks(TWO);
    assert!(!bed.holders.is_certain(ONE), "it may be given to who asks");
    let now = bed.at(2);
    bed.holders.asked(TWO, Asked::Busy, (now, now)).unwrap();
    assert!(bed.holders.is_certain(ONE), "it was not");
    bed.asks(TWO, Asked::Unknown, 3).unwrap();
    assert!(!bed.holders.is_certain(ONE));
    bed.claims(ONE, 4).unwrap();
    assert!(
        !bed.holders.is_certain(ONE),
        "what nobody waits for may still be granted"
    );
    bed.claims(ONE, 60).unwrap();
    assert!(bed.holders.is_certain(ONE));
}

#[test]
fn a_lease_that_goes_to_another_before_its_time_is_noticed() {
    let mut bed = Bed::new();
    bed.gets(ONE, 1).unwrap();
    bed.holders.changed(ONE, bed.at(10)).unwrap();
    let early = bed.gets(TWO, 11).unwrap_err();
    assert!(early.contains("1s after process 1"), "{early}");
    let late = bed.holders.changed(ONE, bed.at(12)).unwrap_err();
    assert!(late.contains("after another one got it"), "{late}");

    let mut bed = Bed::new();
    bed.gets(ONE, 1).unwrap();
    bed.gets(TWO, 3).unwrap();
    assert_eq!(bed.holders.takeovers, 1);
    assert_eq!(bed.holders.changed(ONE, bed.at(2)), Ok(()), "it began before");

    let mut bed = Bed::new();
    bed.gets(ONE, 1).unwrap();
    bed.holders.closed(ONE, true, false, bed.at(1));
    bed.gets(TWO, 1).unwrap();
    assert_eq!(bed.holders.takeovers, 0, "it was given back");
}

#[test]
fn a_refusal_is_right_for_as_long_as_somebody_may_have_it() {
    let mut bed = Bed::new();
    assert!(bed.asks(TWO, Asked::Busy, 0).is_err(), "nobody ever had it");
    bed.gets(ONE, 1).unwrap();
    bed.asks(TWO, Asked::Busy, 1000).unwrap();
    bed.holders.closed(ONE, false, true, bed.at(1000));
    bed.asks(TWO, Asked::Busy, 2000).unwrap();
    bed.holders.closed(ONE, true, true, bed.at(2000));
    bed.asks(TWO, Asked::Busy, 2001).unwrap();
    assert!(bed.asks(TWO, Asked::Busy, 2002).is_err());

    bed.gets(ONE, 3000).unwrap();
    bed.holders.killed(ONE, bed.at(3000));
    bed.asks(TWO, Asked::Busy, 3018).unwrap();
    assert!(bed.asks(TWO, Asked::Busy, 3019).is_err());
    // Another run of the server gives it the whole time again.
    bed.holders.server_started(bed.at(3010));
    bed.asks(TWO, Asked::Busy, 3019).unwrap();
}

#[test]
fn who_had_a_lease_that_was_broken_changes_nothing_any_more() {
    let mut bed = Bed::new();
    bed.gets(ONE, 1).unwrap();
    bed.holders.breaking();
    assert!(!bed.holders.is_certain(ONE));
    bed.gets(TWO, 2).unwrap();
    assert!(!bed.holders.is_certain(TWO), "it may be that one that is broken");
    bed.holders.broke(true, bed.at(3));
    assert_eq!(bed.holders.changed(ONE, bed.at(1)), Ok(()));
    assert!(bed.holders.changed(ONE, bed.at(4)).is_err());
    assert_eq!(bed.holders.changed(TWO, bed.at(4)), Ok(()));
    bed.claims(TWO, 5).unwrap();
    assert!(bed.holders.is_certain(TWO));
}
