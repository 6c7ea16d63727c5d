//! Which holder has the write lease of which volume. Pure: the time is an argument.
//!
//! | state of a volume | becomes | when |
//! |---|---|---|
//! | live: its holder has it open for changes in a session | free | the last such handle is closed, or its session says goodbye |
//! | | lingering | the last such session is lost |
//! | lingering: kept for a holder that may come back | live | it does |
//! | | as if free | the time is over and somebody wants it |
//! | free: the last holder is remembered | live | somebody opens it for changes |
//! | any | free, without a holder | the lease is broken |
//!
//! **Invariants**
//!
//! * A volume has one holder at most. Another one gets a larger [`LeaseId`], and gets it when nothing that was
//!   begun under the older one is under way any more; nothing is begun under an id that is not the newest.
//! * A holder that comes back with the id it had is let in if nobody else has had the volume since: what is
//!   forgotten is forgotten with its number, so that "nobody" is known for certain.
//! * What is live is bounded and never forgotten. What lingers has its time, unless there is no room left and one
//!   client has a large part of it: then that one loses what lingers of it. What is free is bounded, and forgets the
//!   oldest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use lacuna_transport::id::{Handle, LeaseId};
use tokio::time::Instant;

use crate::operations::{InstanceKey, NodeTag};

/// Most volumes that are live or lingering, as many as a server has open: up to 1 KiB each.
pub(super) const HELD_MAX: usize = 128 << 10;
/// More than this part of all that may be held, lingering for one client, is let go when there is no room for others.
const LINGERING_SHARE: usize = 8;
/// Most volumes whose last holder is remembered after it let go.
pub(super) const FREE_MAX: usize = 16 << 10;

/// Bytes of a volume's path that are kept: its end, as in the journal. It is for people.
pub(super) const PATH_BYTES_KEPT: usize = 256;

/// Who wants to write, or does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub key: InstanceKey,
    /// Of the allow list.
    pub name: String,
    pub address: String,
    /// The volume as it was opened last.
    pub path: String,
    /// When it got the lease, in nanoseconds since 1970.
    pub since_ns: u64,
}

/// One handle of a session, open for changes.
pub type Opener = (u64, Handle);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hold {
    Live {
        openers: BTreeSet<Opener>,
        /// A session with one was lost, and its client may come back.
        abandoned: bool,
    },
    Lingering {
        until: Instant,
    },
    /// With its place in the order of forgetting.
    Free(u64),
}

#[derive(Debug)]
struct Entry {
    lease: LeaseId,
    /// `None` if the lease was broken.
    holder: Option<Holder>,
    hold: Hold,
    /// Changes under way, of whatever holder.
    changes: usize,
    /// How often its holder said that it needs the lease.
    keeps: u64,
}

/// Where a lease is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldHow {
    Live,
    /// For so long, if it does not come back.
    Lingering(Duration),
}

/// Somebody else has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub holder: Holder,
    pub how: HeldHow,
    /// One of its handles, through which it can be asked.
    pub opener: Option<Opener>,
    pub keeps: u64,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Granted(Grant),
    Held(Held),
    /// Changes of the last holder are still under way.
    Ending,
    /// The lease to go on with is not its own any more.
    Fenced,
    /// Too many leases are held.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub lease: LeaseId,
    /// To be written down: it was not live or lingering with this holder before.
    pub is_new: bool,
    /// Somebody else had it before, who may come back.
    pub changed_hands: bool,
    /// It was kept for this holder, whose session was lost.
    pub lingered: bool,
}

/// One volume, as a restart has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub tag: NodeTag,
    pub lease: LeaseId,
    pub holder: Option<Holder>,
    pub is_held: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    linger: Duration,
    held_max: usize,
    entries: HashMap<NodeTag, Entry>,
    /// The free ones, those that were freed first in front.
    free: BTreeMap<u64, NodeTag>,
    frees: u64,
    last: LeaseId,
    /// The newest that was forgotten.
    forgotten: LeaseId,
}

impl Table {
    pub fn new(linger: Duration) -> Self {
        Self {
            linger,
            held_max: HELD_MAX,
            entries: HashMap::new(),
            free: BTreeMap::new(),
            frees: 0,
            last: LeaseId(0),
            forgotten: LeaseId(0),
        }
    }

    /// The same, for a server with less memory.
    pub fn set_held_max(&mut self, held_max: usize) {
        self.held_max = held_max.min(HELD_MAX);
    }

    /// Gives the lease of a volume to who wants to open it, if nobody else has it. `resume` is one to go on with.
    pub fn acquire(
        &mut self,
        tag: NodeTag,
        holder: &Holder,
        opener: Opener,
        resume: Option<LeaseId>,
        now: Instant,
    ) -> Attempt {
        let linger_is_over = |hold: &Hold| matches!(hold, Hold::Lingering { until } if *until <= now);
        let Some(entry) = self.entries.get_mut(&tag) else {
            return if resume.is_some_and(|lease| lease <= self.forgotten) {
                Attempt::Fenced
            } else {
                self.grant_first(tag, holder, opener, now)
            };
        };
        let same = entry.holder.as_ref().is_some_and(|last| last.key == holder.key);
        if resume.is_some_and(|lease| !same || lease != entry.lease) {
            return Attempt::Fenced;
        }
        let taken = !same && !matches!(entry.hold, Hold::Free(_)) && !linger_is_over(&entry.hold);
        if taken && let Some(held) = entry.held(now) {
            return Attempt::Held(held);
        }
        if !same && entry.changes > 0 {
            return Attempt::Ending;
        }
        let was_free = match &mut entry.hold {
            Hold::Live { openers, .. } => {
                openers.insert(opener);
                false
            }
            Hold::Lingering { .. } => false,
            Hold::Free(place) => {
                self.free.remove(place);
                true
            }
        };
        let lingered = same && matches!(entry.hold, Hold::Lingering { .. });
        if !matches!(entry.hold, Hold::Live { .. }) {
            entry.hold = Hold::of(opener);
        }
        let changed_hands = !same;
        if changed_hands {
            self.last.0 += 1;
            entry.lease = self.last;
        }
        let since_ns = entry.holder.as_ref().filter(|_| same && !was_free);
        let since_ns = since_ns.map_or(holder.since_ns, |last| last.since_ns);
        entry.holder = Some(Holder {
            since_ns,
            ..holder.kept()
        });
        Attempt::Granted(Grant {
            lease: entry.lease,
            is_new: changed_hands || was_free,
            changed_hands,
            lingered,
        })
    }

    fn grant_first(&mut self, tag: NodeTag, holder: &Holder, opener: Opener, now: Instant) -> Attempt {
        if !self.has_room() {
            self.free_expired(now);
        }
        if !self.has_room() {
            self.free_most_lingering();
        }
        if !self.has_room() {
            return Attempt::Full;
        }
        self.last.0 += 1;
        let entry = Entry {
            lease: self.last,
            holder: Some(holder.kept()),
            hold: Hold::of(opener),
            changes: 0,
            keeps: 0,
        };
        self.entries.insert(tag, entry);
        Attempt::Granted(Grant {
            lease: self.last,
            is_new: true,
            changed_hands: false,
            lingered: false,
        })
    }

    /// Who has it, if it is not this one.
    pub fn held_by_other(&self, tag: NodeTag, key: InstanceKey, now: Instant) -> Option<Held> {
        let entry = self.entries.get(&tag)?;
        let other = entry.holder.as_ref().is_some_and(|holder| holder.key != key);
        entry.held(now).filter(|_| other)
    }

    /// Begins a change under a lease; false if it is not the newest of its volume.
    pub fn begin_change(&mut self, tag: NodeTag, lease: LeaseId) -> bool {
        let entry = self.entries.get_mut(&tag);
        let Some(entry) = entry.filter(|entry| entry.lease == lease) else {
            return false;
        };
        entry.changes += 1;
        true
    }

    /// True if no change of the volume is under way any more, and somebody else may have waited for that.
    pub fn end_change(&mut self, tag: NodeTag) -> bool {
        let Some(entry) = self.entries.get_mut(&tag) else {
            return false;
        };
        entry.changes = entry.changes.saturating_sub(1);
        entry.changes == 0 && !matches!(entry.hold, Hold::Live { .. })
    }

    /// A handle was closed. True if the lease is free by that.
    pub fn release(&mut self, tag: NodeTag, opener: Opener, now: Instant) -> bool {
        self.part(tag, opener, false, now)
    }

    /// A handle is gone with its session, whose client may come back.
    pub fn abandon(&mut self, tag: NodeTag, opener: Opener, now: Instant) {
        self.part(tag, opener, true, now);
    }

    fn part(&mut self, tag: NodeTag, opener: Opener, lost: bool, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&tag) else {
            return false;
        };
        let Hold::Live { openers, abandoned } = &mut entry.hold else {
            return false;
        };
        if !openers.remove(&opener) {
            return false;
        }
        *abandoned |= lost;
        if !openers.is_empty() {
            return false;
        }
        if *abandoned {
            entry.hold = Hold::Lingering {
                until: now + self.linger,
            };
            return false;
        }
        self.set_free(tag);
        true
    }

    /// A holder has said goodbye: nothing is kept for it any more. Returns what that frees.
    pub fn forget_holder(&mut self, key: InstanceKey) -> Vec<(NodeTag, LeaseId, Holder)> {
        let its = |entry: &Entry| {
            let lingers = matches!(entry.hold, Hold::Lingering { .. });
            let holder = entry.holder.as_ref().filter(|holder| holder.key == key);
            holder.filter(|_| lingers).cloned()
        };
        let freed = self.entries.iter();
        let freed = freed.filter_map(|(tag, entry)| Some((*tag, entry.lease, its(entry)?)));
        let freed: Vec<_> = freed.collect();
        for (tag, ..) in &freed {
            self.set_free(*tag);
        }
        freed
    }

    /// Its holder needs it, says whoever has this lease.
    pub fn keep(&mut self, tag: NodeTag, lease: LeaseId) {
        let entry = self.entries.get_mut(&tag);
        if let Some(entry) = entry.filter(|entry| entry.lease == lease) {
            entry.keeps += 1;
        }
    }

    /// Takes the lease away from who has it; `None` if nobody does.
    pub fn break_lease(&mut self, tag: NodeTag, now: Instant) -> Option<(LeaseId, Held)> {
        let entry = self.entries.get_mut(&tag)?;
        let held = entry.held(now)?;
        self.last.0 += 1;
        entry.lease = self.last;
        entry.holder = None;
        let lease = entry.lease;
        self.set_free(tag);
        Some((lease, held))
    }

    /// Who had it last, and under which id.
    pub fn last_holder(&self, tag: NodeTag) -> Option<(LeaseId, Holder)> {
        let entry = self.entries.get(&tag)?;
        Some((entry.lease, entry.holder.clone()?))
    }

    /// All leases that are held.
    pub fn held(&self, now: Instant) -> Vec<Held> {
        self.entries
            .values()
            .filter_map(|entry| entry.held(now))
            .collect()
    }

    /// All that a restart has to know, free ones in the order in which they are forgotten.
    pub fn known(&self) -> (LeaseId, Vec<Known>) {
        let known = |tag: NodeTag, entry: &Entry| Known {
            tag,
            lease: entry.lease,
            holder: entry.holder.clone(),
            is_held: !matches!(entry.hold, Hold::Free(_)),
        };
        let free = self.free.values();
        let free = free.filter_map(|tag| Some(known(*tag, self.entries.get(tag)?)));
        let held = self.entries.iter();
        let held = held.filter(|(_, entry)| !matches!(entry.hold, Hold::Free(_)));
        (
            self.forgotten,
            free.chain(held.map(|(tag, entry)| known(*tag, entry))).collect(),
        )
    }

    /// Learns what a run of the server before this one knew: who held a lease has the time to come back.
    pub fn learn(&mut self, known: Known, now: Instant) {
        self.last = self.last.max(known.lease);
        let place = match self.entries.get(&known.tag) {
            Some(Entry {
                hold: Hold::Free(place),
                ..
            }) => Some(*place),
            _ => None,
        };
        if let Some(place) = place {
            self.free.remove(&place);
        }
        let entry = Entry {
            lease: known.lease,
            holder: known.holder,
            hold: Hold::Lingering {
                until: now + self.linger,
            },
            changes: 0,
            keeps: 0,
        };
        self.entries.insert(known.tag, entry);
        if !known.is_held {
            self.set_free(known.tag);
        }
    }

    /// Learns how much was forgotten.
    pub fn learn_forgotten(&mut self, lease: LeaseId) {
        self.last = self.last.max(lease);
        self.forgotten = self.forgotten.max(lease);
    }

    fn free_expired(&mut self, now: Instant) {
        let expired = |entry: &Entry| matches!(entry.hold, Hold::Lingering { until } if until <= now);
        let tags = self.entries.iter().filter(|(_, entry)| expired(entry));
        for tag in tags.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            self.set_free(tag);
        }
    }

    fn has_room(&self) -> bool {
        self.entries.len() - self.free.len() < self.held_max
    }

    /// One client that comes and goes with all the volumes there are keeps nobody from writing.
    fn free_most_lingering(&mut self) {
        let lingering = |entry: &Entry| matches!(entry.hold, Hold::Lingering { .. });
        let holder = |entry: &Entry| entry.holder.as_ref().map(|holder| holder.name.clone());
        let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| lingering(entry)) {
            *counts.entry(holder(entry)).or_default() += 1;
        }
        let many = counts
            .into_iter()
            .filter(|(_, count)| *count > self.held_max / LINGERING_SHARE);
        let Some((most, _)) = many.max_by_key(|(_, count)| *count) else {
            return;
        };
        let tags = self.entries.iter();
        let tags = tags.filter(|(_, entry)| lingering(entry) && holder(entry) == most);
        for tag in tags.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            self.set_free(tag);
        }
    }

    fn set_free(&mut self, tag: NodeTag) {
        let Some(entry) = self.entries.get_mut(&tag) else {
            return;
        };
        if let Hold::Free(place) = entry.hold {
            self.free.remove(&place);
        }
        self.frees += 1;
        entry.hold = Hold::Free(self.frees);
        self.free.insert(self.frees, tag);
        if self.free.len() > FREE_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((place, tag)) = self.free.pop_first() else {
            return;
        };
        match self.entries.get(&tag) {
            Some(entry) if entry.changes > 0 => {
                // Rare: it is as good as the one freed last.
                self.frees = self.frees.max(place) + 1;
                self.free.insert(self.frees, tag);
                if let Some(entry) = self.entries.get_mut(&tag) {
                    entry.hold = Hold::Free(self.frees);
                }
            }
            Some(entry) => {
                self.forgotten = self.forgotten.max(entry.lease);
                self.entries.remove(&tag);
            }
            None => {}
        }
    }
}

impl Holder {
    /// As it is remembered.
    fn kept(&self) -> Self {
        let cut = self.path.len().saturating_sub(PATH_BYTES_KEPT);
        let path = self.path[self.path.ceil_char_boundary(cut)..].to_owned();
        Self {
            key: self.key,
            name: self.name.clone(),
            address: self.address.clone(),
            path,
            since_ns: self.since_ns,
        }
    }
}

impl Hold {
    fn of(opener: Opener) -> Self {
        Self::Live {
            openers: BTreeSet::from([opener]),
            abandoned: false,
        }
    }
}

impl Entry {
    fn held(&self, now: Instant) -> Option<Held> {
        let (how, opener) = match &self.hold {
            Hold::Live { openers, .. } => (HeldHow::Live, openers.last().copied()),
            Hold::Lingering { until } if *until > now => (HeldHow::Lingering(*until - now), None),
            Hold::Lingering { .. } | Hold::Free(_) => return None,
        };
        Some(Held {
            holder: self.holder.clone()?,
            how,
            opener,
            keeps: self.keeps,
        })
    }
}

#[cfg(test)]
mod tests;
