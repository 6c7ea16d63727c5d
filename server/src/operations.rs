//! Changes of names (create, make a folder, remove, rename), each with effect once, however often it is sent.
//!
//! A client that lost its connection cannot know whether its last request was done, and sends it again with
//! the same number. What is remembered of a number:
//!
//! | known | the same number again |
//! |---|---|
//! | nothing | it is done |
//! | running | waits for the outcome |
//! | outcome | is answered with it, nothing is done |
//! | interrupted: the server died after it said what it was about to do | is judged by what is there now, and done only if it was not |
//!
//! **Invariants**
//!
//! * The last [`OPERATIONS_KEPT_MAX`] outcomes of each of [`INSTANCES_KEPT_MAX`] instances are kept; nothing
//!   that runs is forgotten.
//! * The journal holds each intent before its effect, as long as it can be written at all: where it cannot
//!   (a full disk), the change is made all the same, since removing is what makes room.
//!
//! The journal is not flushed: it outlives the process, whose death is what a client can survive. After a
//! crash of the host neither the names nor the journal are certain, but for what was flushed.

mod journal;

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::{BootId, InstanceId, NodeId, OperationId};
use lacuna_transport::limits::{INSTANCES_KEPT_MAX, OPERATIONS_KEPT_MAX};
use lacuna_transport::quic::identity::KeyId;
use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use self::journal::{Entry, Journal, Record};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};

/// One instance of one client, as 16 bytes of a SHA-256: no client can name an instance of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceKey([u8; 16]);

impl InstanceKey {
    pub fn new(client: KeyId, instance: InstanceId) -> Self {
        let mut hash = Sha256::new();
        hash.update(client.to_string().as_bytes());
        hash.update(instance.0);
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    /// A client that names no instance, in one session of one run of the server.
    pub fn of_session(run: BootId, session: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(run.0);
        hash.update(session.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// As [`Self::to_bytes`] gave them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// What kind of change a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    Create,
    MakeFolder,
    Remove,
    Rename,
}

/// A node, told from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeTag {
    pub id: NodeId,
    pub birth_ns: u64,
}

impl NodeTag {
    pub fn of(attr: &Attr) -> Self {
        Self {
            id: attr.id,
            birth_ns: attr.birth_ns,
        }
    }
}

/// What the server was about to do when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    pub kind: OperationKind,
    /// The node to remove, to rename, or about to get its name; `None` where it was not there yet.
    pub node: Option<NodeTag>,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
}

/// What became of a change: the node made, if one was, or the kind of the error.
pub type Outcome = Result<Option<NodeTag>, ErrorKind>;

/// Who did it.
#[derive(Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// This call, just now.
    Now(T),
    /// An earlier one of the same number, which made this node.
    Before(Option<NodeTag>),
}

/// Which change of which instance.
pub type OperationKey = (InstanceKey, OperationId);

/// See the module.
#[derive(Debug)]
pub struct Operations {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    instances: HashMap<InstanceKey, Instance>,
    /// Grows with each use of an instance.
    uses: u64,
    journal: Option<Journal>,
    complained: bool,
}

#[derive(Debug, Default)]
struct Instance {
    last_use: u64,
    running: usize,
    slots: HashMap<OperationId, Slot>,
    /// Those of `slots` that do not run, oldest first.
    kept: VecDeque<OperationId>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Running(Option<Intent>),
    Interrupted(Intent),
    Done(OperationKind, Outcome),
}

impl Operations {
    /// In memory alone.
    pub fn in_memory() -> Self {
        Self {
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// With the journal of a state folder, of which the caller holds the lock.
    pub fn open(folder: &Path) -> Result<Self> {
        let (journal, records) = Journal::open(folder)?;
        let mut state = State::default();
        for record in records {
            state.replay(record);
        }
        state.journal = Some(journal);
        Ok(Self {
            state: Mutex::new(state),
            ended: Condvar::new(),
        })
    }

    /// Does a change, unless it was done. Blocks.
    ///
    /// `judge` looks whether an interrupted one was done: then it says which node it made, if any. `act` does
    /// it; right before it has an effect it says of which node.
    pub fn once<T>(
        &self,
        key: Option<OperationKey>,
        kind: OperationKind,
        judge: impl FnOnce(&Intent) -> Result<Option<Option<NodeTag>>>,
        act: impl FnOnce(&mut dyn FnMut(Option<NodeTag>)) -> Result<(Option<NodeTag>, T)>,
    ) -> Result<Once<T>> {
        let Some(key) = key else {
            return Ok(Once::Now(act(&mut |_| {})?.1));
        };
        let interrupted = match self.begin(key, kind)? {
            Begun::Before(outcome) => return before(outcome),
            Begun::Now(interrupted) => interrupted,
        };
        let mut running = Running {
            operations: self,
            key,
            kind,
            interrupted,
            ended: false,
        };
        if let Some(intent) = interrupted
            && let Some(node) = judge(&intent)?
        {
            running.end(Ok(node));
            return before(Ok(node));
        }
        running.interrupted = None;
        match act(&mut |node| self.intend(key, kind, node)) {
            Ok((node, done)) => {
                running.end(Ok(node));
                Ok(Once::Now(done))
            }
            Err(error) => {
                running.end(Err(error.kind()));
                Err(error)
            }
        }
    }

    /// Its outcome is remembered.
    pub fn was_done(&self, (instance, operation): OperationKey) -> bool {
        let state = self.state.lock();
        let kept = state.instances.get(&instance);
        kept.is_some_and(|kept| matches!(kept.slots.get(&operation), Some(Slot::Done(..))))
    }

    fn begin(&self, (instance, operation): OperationKey, kind: OperationKind) -> Result<Begun> {
        let mut state = self.state.lock();
        loop {
            let kept = state.instance(instance);
            let interrupted = match kept.slots.get(&operation).copied() {
                Some(Slot::Running(_)) => {
                    self.ended.wait(&mut state);
                    continue;
                }
                Some(Slot::Done(was, _) | Slot::Interrupted(Intent { kind: was, .. })) if was != kind => {
                    let text = format!("operation {} was another change: {was:?}", operation.0);
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                Some(Slot::Done(_, outcome)) => return Ok(Begun::Before(outcome)),
                Some(Slot::Interrupted(intent)) => Some(intent),
                None => None,
            };
            kept.kept.retain(|kept| *kept != operation);
            kept.slots.insert(operation, Slot::Running(interrupted));
            kept.running += 1;
            return Ok(Begun::Now(interrupted));
        }
    }

    fn intend(&self, (instance, operation): OperationKey, kind: OperationKind, node: Option<NodeTag>) {
        let intent = Intent {
            kind,
            node,
            at_ns: clock::now_ns(),
        };
        let mut state = self.state.lock();
        let slots = &mut state.instance(instance).slots;
        slots.insert(operation, Slot::Running(Some(intent)));
        state.write(&Record {
            instance,
            operation,
            kind,
            entry: Entry::Intent {
                node,
                at_ns: intent.at_ns,
            },
        });
    }

    fn end(&self, (instance, operation): OperationKey, slot: Slot) {
        let mut state = self.state.lock();
        let kept = state.instance(instance);
        let said = matches!(kept.slots.get(&operation), Some(Slot::Running(Some(_))));
        kept.running = kept.running.saturating_sub(1);
        kept.keep(operation, slot);
        // An error without an intent had no effect: doing it again after a crash is as good.
        if let Slot::Done(kind, outcome) = slot
            && (said || outcome.is_ok())
        {
            state.write(&Record {
                instance,
                operation,
                kind,
                entry: Entry::Outcome(outcome),
            });
        }
        drop(state);
        self.ended.notify_all();
    }
}

enum Begun {
    Now(Option<Intent>),
    Before(Outcome),
}

fn before<T>(outcome: Outcome) -> Result<Once<T>> {
    match outcome {
        Ok(node) => Ok(Once::Before(node)),
        Err(kind) => Err(Error::new(kind, "as this request was answered before")),
    }
}

/// A change that is being made; one that panics has an outcome too.
struct Running<'a> {
    operations: &'a Operations,
    key: OperationKey,
    kind: OperationKind,
    /// Not judged yet.
    interrupted: Option<Intent>,
    ended: bool,
}

impl Running<'_> {
    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.operations.end(self.key, Slot::Done(self.kind, outcome));
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let slot = match self.interrupted {
            // It could not be judged: the next one tries again.
            Some(intent) => Slot::Interrupted(intent),
            None => Slot::Done(self.kind, Err(ErrorKind::Internal)),
        };
        self.operations.end(self.key, slot);
    }
}

impl Instance {
    fn keep(&mut self, operation: OperationId, slot: Slot) {
        self.slots.insert(operation, slot);
        self.kept.retain(|kept| *kept != operation);
        self.kept.push_back(operation);
        if self.kept.len() > OPERATIONS_KEPT_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            self.slots.remove(&oldest);
        }
    }
}

impl State {
    /// The instance, as the one used last.
    fn instance(&mut self, key: InstanceKey) -> &mut Instance {
        self.uses += 1;
        if self.instances.len() >= INSTANCES_KEPT_MAX && !self.instances.contains_key(&key) {
            let idle = self.instances.iter().filter(|(_, kept)| kept.running == 0);
            let oldest = idle.min_by_key(|(_, kept)| kept.last_use).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.instances.remove(&oldest);
            }
        }
        let instance = self.instances.entry(key).or_default();
        instance.last_use = self.uses;
        instance
    }

    fn replay(&mut self, record: Record) {
        let slot = match record.entry {
            Entry::Intent { node, at_ns } => Slot::Interrupted(Intent {
                kind: record.kind,
                node,
                at_ns,
            }),
            Entry::Outcome(outcome) => Slot::Done(record.kind, outcome),
        };
        self.instance(record.instance).keep(record.operation, slot);
    }

    /// Writes to the journal, and writes it anew when it has grown too large.
    fn write(&mut self, record: &Record) {
        let Some(mut journal) = self.journal.take() else {
            return;
        };
        let written = journal.append(record).and_then(|()| {
            if journal.is_large() {
                journal.compact(self.records())
            } else {
                Ok(())
            }
        });
        match written {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::error!(%error, "until this is mended, a crash of this server can do a change of names twice");
            }
            Err(_) => {}
        }
        self.journal = Some(journal);
    }

    /// All that is known, instances used last at the end.
    fn records(&self) -> Vec<Record> {
        let mut instances: Vec<_> = self.instances.iter().collect();
        instances.sort_unstable_by_key(|(_, kept)| kept.last_use);
        let running = |kept: &Instance| {
            let running = kept.slots.iter();
            let running = running.filter(|(_, slot)| matches!(slot, Slot::Running(_)));
            running.map(|(operation, _)| *operation).collect::<Vec<_>>()
        };
        let mut records = Vec::new();
        for (key, kept) in instances {
            for operation in kept.kept.iter().copied().chain(running(kept)) {
                let (kind, entry) = match kept.slots.get(&operation).copied() {
                    Some(Slot::Done(kind, outcome)) => (kind, Entry::Outcome(outcome)),
                    Some(Slot::Interrupted(intent) | Slot::Running(Some(intent))) => {
                        let Intent { kind, node, at_ns } = intent;
                        (kind, Entry::Intent { node, at_ns })
                    }
                    Some(Slot::Running(None)) | None => continue,
                };
                records.push(Record {
                    instance: *key,
                    operation,
                    kind,
                    entry,
                });
            }
        }
        records
    }
}

#[cfg(test)]
mod tests;
