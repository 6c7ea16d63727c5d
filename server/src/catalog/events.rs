//! What a session is still to be told: at most one change for each handle, the newest, and whose locks to try again.
//!
//! The bound holds memory, not the order of things: a client that does not take its events any more
//! is closed by the session, reconnects and revalidates.

use std::collections::{BTreeSet, HashMap};

use lacuna_transport::attr::Attr;
use lacuna_transport::id::Handle;
use lacuna_transport::limits::{EVENT_QUEUE_MAX, TEXT_BYTES_MAX};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::event::{Event, LeaseRecalled, LocksFreed};
use lacuna_transport::wire::message::VolumeChanged;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Changes waiting for the event stream of one session.
#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: Mutex<Waiting>,
    recalls: Mutex<Recalls>,
    /// Volumes whose locks were given up. What does not fit is left out: who waits looks again by itself.
    freed: Mutex<BTreeSet<Handle>>,
    wake: Notify,
}

#[derive(Debug, Default)]
enum Waiting {
    #[default]
    Nothing,
    Some(HashMap<Handle, (Attr, ByteRange)>),
    Overflown,
}

/// Leases that are to be asked back; one for each handle.
type Recalls = HashMap<Handle, String>;

/// More changes than a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflown;

impl EventQueue {
    /// Merges with what waits for the same handle.
    pub fn push(&self, handle: Handle, attr: Attr, range: ByteRange) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Waiting::Nothing => *waiting = Waiting::Some(HashMap::from([(handle, (attr, range))])),
            Waiting::Some(changes) => {
                let full = changes.len() >= EVENT_QUEUE_MAX;
                match changes.get_mut(&handle) {
                    Some(change) => *change = (attr, hull(change.1, range)),
                    None if full => *waiting = Waiting::Overflown,
                    None => {
                        changes.insert(handle, (attr, range));
                    }
                }
            }
            Waiting::Overflown => return,
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Somebody wants to write to the volume; one more than the bound is not told, and whoever wants it waits in vain.
    pub fn recall(&self, handle: Handle, who: &str) {
        let mut recalls = self.recalls.lock();
        if recalls.len() < EVENT_QUEUE_MAX {
            let who = &who[..who.floor_char_boundary(TEXT_BYTES_MAX)];
            recalls.insert(handle, who.to_owned());
        }
        drop(recalls);
        self.wake.notify_one();
    }

    /// A lock that stood in the way of this session was given up.
    pub fn push_freed(&self, handle: Handle) {
        let mut freed = self.freed.lock();
        if freed.len() < EVENT_QUEUE_MAX {
            freed.insert(handle);
        }
        drop(freed);
        self.wake.notify_one();
    }

    /// Waits for events and takes them all.
    pub async fn take(&self) -> Result<Vec<Event>, Overflown> {
        loop {
            let changes = self.try_take()?.unwrap_or_default();
            let mut events: Vec<_> = changes.into_iter().map(Event::VolumeChanged).collect();
            let recalls = std::mem::take(&mut *self.recalls.lock());
            let recalls = recalls.into_iter();
            events.extend(recalls.map(|(handle, who)| Event::LeaseRecalled(LeaseRecalled { handle, who })));
            // After what was changed under the lock.
            let freed = std::mem::take(&mut *self.freed.lock());
            let freed = freed.into_iter().map(|handle| LocksFreed { handle });
            events.extend(freed.map(Event::LocksFreed));
            if !events.is_empty() {
                return Ok(events);
            }
            self.wake.notified().await;
        }
    }

    pub(super) fn try_take(&self) -> Result<Option<Vec<VolumeChanged>>, Overflown> {
        let mut waiting = self.waiting.lock();
        if matches!(*waiting, Waiting::Overflown) {
            return Err(Overflown);
        }
        match std::mem::take(&mut *waiting) {
            Waiting::Some(changes) => Ok(Some(
                changes
                    .into_iter()
                    .map(|(handle, (attr, range))| VolumeChanged::new(handle, attr, range))
                    .collect(),
            )),
            Waiting::Nothing | Waiting::Overflown => Ok(None),
        }
    }
}

/// The smallest range that covers both; an empty one counts for nothing.
pub(crate) fn hull(a: ByteRange, b: ByteRange) -> ByteRange {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => return b,
        (_, true) => return a,
        (false, false) => {}
    }
    ByteRange::new(a.start().min(b.start()), a.end().max(b.end())).unwrap_or(ByteRange::ALL)
}

#[cfg(test)]
mod tests {
    use lacuna_transport::attr::{NodeKind, Timestamp};
    use lacuna_transport::id::{Generation, NodeId};

    use super::*;

    fn attr(generation: u64) -> Attr {
        Attr {
            id: NodeId(2),
            kind: NodeKind::Volume,
            size: 0,
            allocated_bytes: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            links: 1,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            birth_ns: 0,
            generation: Generation(generation),
            base: Generation(generation),
        }
    }

    #[tokio::test]
    async fn a_burst_is_one_change_with_the_newest_attributes() {
        let queue = EventQueue::default();
        for generation in 1..=1000 {
            queue.push(Handle(1), attr(generation), ByteRange::at(generation, 1).unwrap());
        }
        for _ in 0..3 {
            queue.push_freed(Handle(2));
        }
        let events = queue.take().await.unwrap();
        let [
            Event::VolumeChanged(change),
            Event::LocksFreed(LocksFreed { handle }),
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(change.generation(), Generation(1000));
        assert_eq!(change.range(), ByteRange::new(1, 1001).unwrap());
        assert_eq!(*handle, Handle(2));
        assert_eq!(queue.try_take(), Ok(None));
    }

    #[tokio::test]
    async fn more_handles_than_the_bound_overflow_and_stay_so() {
        let queue = EventQueue::default();
        for handle in 0..u64::try_from(EVENT_QUEUE_MAX).unwrap() {
            queue.push(Handle(handle), attr(1), ByteRange::ALL);
        }
        queue.push(Handle(0), attr(2), ByteRange::ALL);
        assert!(matches!(&*queue.waiting.lock(), Waiting::Some(changes) if changes.len() == EVENT_QUEUE_MAX));
        queue.push(Handle(u64::MAX), attr(1), ByteRange::ALL);
        assert_eq!(queue.take().await, Err(Overflown));
        queue.push(Handle(0), attr(3), ByteRange::ALL);
        assert_eq!(queue.take().await, Err(Overflown));
    }
}
