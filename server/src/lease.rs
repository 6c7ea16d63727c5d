//! Write leases: one writing client of a volume at a time.
//!
//! Who opens a volume for changes holds its lease; a client's own sessions, one after the other, are one holder.
//! The session renews it: for as long as it lives (see `IDLE_TIMEOUT` of the transport), the lease is held. When
//! it is lost the lease is kept for its holder for a while, and then goes to whoever wants it: from then on the old
//! holder is *fenced*. The rules are in [`table`]; here are their journal, the waiting and the texts.
//!
//! **Invariants**
//!
//! * What was granted is in the journal before it is told; a lease that changes hands is on stable storage.
//! * A change holds its place in the table from the check of its lease to its end ([`WriteLease::begin`]): no other
//!   holder is let in meanwhile.
//!
//! Lock order: journal, then table. None is held across an await, and the table's never across IO.

mod journal;
pub mod table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lacuna_transport::id::LeaseId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use self::journal::Record;
pub use self::table::Holder;
use self::table::{Attempt, Held, HeldHow, Known, Opener, Table};
use crate::catalog::events::EventQueue;
use crate::clock;
use crate::control::LeaseReport;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Journal;
use crate::operations::{InstanceKey, NodeTag};

/// How long the lease of a client that lost its connection is kept for it, unless told otherwise, and its locks: twice
/// the time after which a lost session is noticed, so that it can come back.
pub const LINGER_DEFAULT: Duration = Duration::from_secs(30);
/// How long a client that has nothing to write may take to give a lease back: a flush, on storage that is not broken.
pub const RECALL_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Leases {
    journal: Mutex<Writer>,
    table: Mutex<Table>,
    /// Something happened that who waits may wait for.
    changed: watch::Sender<()>,
    /// Sessions whose clients can be asked to give a lease back.
    parties: Mutex<HashMap<u64, Arc<EventQueue>>>,
}

#[derive(Debug, Default)]
struct Writer {
    journal: Option<Journal<Record>>,
    complained: bool,
}

/// What came of wanting a lease.
#[derive(Debug)]
pub enum Outcome<T = WriteLease> {
    Granted(T),
    /// Not yet: worth trying again after the next change, if the answer is not the same by then.
    Wait(Option<Held>),
}

impl Leases {
    /// With the journal of a state folder, of which the caller holds the lock.
    pub fn open(folder: &Path, linger: Duration) -> Result<Self> {
        let (journal, records) = Journal::open(folder)?;
        let mut table = Table::new(linger);
        let now = Instant::now();
        for record in records {
            match record {
                Record::Granted(tag, lease, holder) => {
                    table.learn(known(tag, lease, Some(holder), true), now)
                }
                Record::Freed(tag, lease, holder) => table.learn(known(tag, lease, Some(holder), false), now),
                Record::Broken(tag, lease) => table.learn(known(tag, lease, None, false), now),
                Record::Forgotten(lease) => table.learn_forgotten(lease),
            }
        }
        Ok(Self {
            journal: Mutex::new(Writer {
                journal: Some(journal),
                complained: false,
            }),
            table: Mutex::new(table),
            changed: watch::Sender::new(()),
            parties: Mutex::default(),
        })
    }

    /// No more than this are held at once.
    #[must_use]
    pub fn with_held_max(self, held_max: usize) -> Self {
        self.table.lock().set_held_max(held_max);
        self
    }

    /// The client of this session can be asked to give leases back.
    pub fn join(&self, session: u64, events: &Arc<EventQueue>) {
        self.parties.lock().insert(session, Arc::clone(events));
    }

    pub fn leave(&self, session: u64) {
        self.parties.lock().remove(&session);
    }

    /// Tells of each change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tries to get a lease. Blocks.
    pub fn acquire(
        self: &Arc<Self>,
        tag: NodeTag,
        holder: &Holder,
        opener: Opener,
        resume: Option<LeaseId>,
    ) -> Result<Outcome> {
        let mut journal = self.journal.lock();
        let attempt = self
            .table
            .lock()
            .acquire(tag, holder, opener, resume, Instant::now());
        let grant = match attempt {
            Attempt::Granted(grant) => grant,
            Attempt::Held(held) => return Ok(Outcome::Wait(Some(held))),
            Attempt::Ending => return Ok(Outcome::Wait(None)),
            Attempt::Fenced => {
                let text = format!(
                    "'{}' was written by another client meanwhile, or its lease was broken: what was not saved \
                     before is refused",
                    holder.path
                );
                return Err(Error::new(ErrorKind::Fenced, text));
            }
            Attempt::Full => {
                let why = "too many volumes are open for writing on this server; close some";
                return Err(Error::new(ErrorKind::Exhausted, why));
            }
        };
        let lease = WriteLease {
            leases: Arc::clone(self),
            tag,
            opener,
            lease: grant.lease,
            lingered: grant.lingered,
            is_told: AtomicBool::new(false),
        };
        if grant.is_new {
            let record = Record::Granted(tag, grant.lease, holder.clone());
            journal.write(&record, grant.changed_hands, &self.table);
        }
        Ok(Outcome::Granted(lease))
    }

    /// Asks who has a lease to give it back; false if it cannot be asked.
    pub fn recall(&self, held: &Held, who: &str) -> bool {
        let Some((session, handle)) = held.opener else {
            return false;
        };
        let party = self.parties.lock().get(&session).map(Arc::clone);
        party.is_some_and(|events| {
            events.recall(handle, who);
            true
        })
    }

    /// Who has it, if it is not this one.
    pub fn held_by_other(&self, tag: NodeTag, key: InstanceKey) -> Option<Held> {
        self.table.lock().held_by_other(tag, key, Instant::now())
    }

    /// Takes a lease away; who had it is fenced. Blocks.
    pub fn break_lease(&self, tag: NodeTag) -> Option<LeaseReport> {
        let mut journal = self.journal.lock();
        let broken = self.table.lock().break_lease(tag, Instant::now());
        let (lease, held) = broken?;
        journal.write(&Record::Broken(tag, lease), true, &self.table);
        drop(journal);
        self.changed.send_replace(());
        Some(report(&held))
    }

    /// All that are held, by path. A volume that was renamed, or replaced by another of the same name, is told from the
    /// one that was opened by that name last.
    pub fn reports(&self) -> Vec<LeaseReport> {
        let mut held = self.table.lock().held(Instant::now());
        held.sort_by(|a, b| (&a.holder.path, b.holder.since_ns).cmp(&(&b.holder.path, a.holder.since_ns)));
        let mut before = None;
        let mut reports = Vec::with_capacity(held.len());
        for held in &held {
            let mut report = report(held);
            if before.replace(&held.holder.path) == Some(&held.holder.path) {
                report.volume.push_str(" (another volume that had this name)");
            }
            reports.push(report);
        }
        reports
    }

    /// A holder has said goodbye: nothing is kept for it. Blocks.
    pub fn forget_holder(&self, key: InstanceKey) {
        let mut journal = self.journal.lock();
        let freed = self.table.lock().forget_holder(key);
        for (tag, lease, holder) in freed {
            journal.write(&Record::Freed(tag, lease, holder), false, &self.table);
        }
        drop(journal);
        self.changed.send_replace(());
    }

    fn release(&self, tag: NodeTag, opener: Opener) {
        let mut journal = self.journal.lock();
        let freed = {
            let mut table = self.table.lock();
            let freed = table.release(tag, opener, Instant::now());
            freed.then(|| table.last_holder(tag)).flatten()
        };
        if let Some((lease, holder)) = freed {
            journal.write(&Record::Freed(tag, lease, holder), false, &self.table);
            drop(journal);
            self.changed.send_replace(());
        }
    }
}

impl Writer {
    /// Appends, and writes all of it anew when it has grown too large. Without a journal a restart knows of nothing.
    fn write(&mut self, record: &Record, sync: bool, table: &Mutex<Table>) {
        let Some(mut journal) = self.journal.take() else {
            return;
        };
        let mut write = || {
            journal.append(record)?;
            if journal.is_large() {
                let records = records(&table.lock());
                journal.compact(records)
            } else if sync {
                journal.sync()
            } else {
                Ok(())
            }
        };
        match write() {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::error!(%error, "until this is mended, a restart of this server can forget who writes to a volume");
            }
            Err(_) => {}
        }
        self.journal = Some(journal);
    }
}

fn records(table: &Table) -> Vec<Record> {
    let (forgotten, known) = table.known();
    let known = known.into_iter().map(|known| match known.holder {
        Some(holder) if known.is_held => Record::Granted(known.tag, known.lease, holder),
        Some(holder) => Record::Freed(known.tag, known.lease, holder),
        None => Record::Broken(known.tag, known.lease),
    });
    std::iter::once(Record::Forgotten(forgotten))
        .chain(known)
        .collect()
}

const fn known(tag: NodeTag, lease: LeaseId, holder: Option<Holder>, is_held: bool) -> Known {
    Known {
        tag,
        lease,
        holder,
        is_held,
    }
}

/// The lease of a volume, as one handle has it; dropping it closes the handle.
///
/// A handle that its client never heard of closes as if it had not been opened: what lingered for the client before
/// lingers again, so that a session that is lost while it opens its volumes again does not cost it a lease.
#[derive(Debug)]
pub struct WriteLease {
    leases: Arc<Leases>,
    tag: NodeTag,
    opener: Opener,
    lease: LeaseId,
    /// It was kept for this client when the handle was opened.
    lingered: bool,
    /// The client has the handle, and closes it.
    is_told: AtomicBool,
}

impl WriteLease {
    pub const fn id(&self) -> LeaseId {
        self.lease
    }

    /// The client has the handle from here on, or does not want it after all.
    pub fn tell(&self, is_told: bool) {
        self.is_told.store(is_told, Ordering::Relaxed);
    }

    /// Begins a change; `Fenced` if the volume has had another holder since.
    pub fn begin(&self) -> Result<ChangeUnderLease<'_>> {
        if self.leases.table.lock().begin_change(self.tag, self.lease) {
            return Ok(ChangeUnderLease(self));
        }
        let text = "another client may write to this volume by now: this change is refused";
        Err(Error::new(ErrorKind::Fenced, text))
    }

    /// Its holder was asked for it, and needs it.
    pub fn keep(&self) {
        self.leases.table.lock().keep(self.tag, self.lease);
        self.leases.changed.send_replace(());
    }

    /// The session is lost, and its client may come back.
    pub fn abandon(&self) {
        let now = Instant::now();
        self.leases.table.lock().abandon(self.tag, self.opener, now);
        self.leases.changed.send_replace(());
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        if self.lingered && !self.is_told.load(Ordering::Relaxed) {
            self.abandon();
        }
        self.leases.release(self.tag, self.opener);
    }
}

/// A change under way; dropping it ends it.
#[derive(Debug)]
pub struct ChangeUnderLease<'a>(&'a WriteLease);

impl Drop for ChangeUnderLease<'_> {
    fn drop(&mut self) {
        if self.0.leases.table.lock().end_change(self.0.tag) {
            self.0.leases.changed.send_replace(());
        }
    }
}

fn report(held: &Held) -> LeaseReport {
    let age_ns = clock::now_ns().saturating_sub(held.holder.since_ns);
    LeaseReport {
        volume: held.holder.path.clone(),
        name: held.holder.name.clone(),
        address: held.holder.address.clone(),
        since_unix_secs: Duration::from_nanos(held.holder.since_ns).as_secs(),
        age_secs: Duration::from_nanos(age_ns).as_secs(),
        lingers_secs: match held.how {
            HeldHow::Live => None,
            HeldHow::Lingering(left) => Some(left.as_secs().saturating_add(1)),
        },
    }
}

/// What a client is told that has to wait for another one.
pub fn busy(held: &Held) -> Error {
    let report = report(held);
    let text = format!("'{}' is being written by {report}", report.volume);
    Error::new(ErrorKind::Busy, text)
}

/// The same while changes of a client that is gone are still under way.
pub fn busy_ending() -> Error {
    let text = "changes of the client that wrote to this volume last are still under way; try again";
    Error::new(ErrorKind::Busy, text)
}

#[cfg(test)]
mod tests;
