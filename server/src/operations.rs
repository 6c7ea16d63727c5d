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
//! * The last [`OPERATIONS_KEPT_MAX`] outcomes of each instance are kept, for as long as there is room ([`shed`]);
//!   nothing that runs is forgotten.
//! * The journal holds each intent before its effect, as long as it can be written at all: where it cannot
//!   (a full disk), the change is made all the same, since removing is what makes room.
//!
//! The journal is not flushed: it outlives the process, whose death is what a client can survive. After a
//! crash of the host neither the names nor the journal are certain, but for what was flushed.

mod journal;
pub mod shed;

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::{BootId, InstanceId, NodeId, OperationId};
use lacuna_transport::limits::OPERATIONS_KEPT_MAX;
use lacuna_transport::quic::identity::KeyId;
use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use self::journal::{Entry, Journal, Record};
use self::shed::UNITS_MAX;
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

/// A client as the journal has room for it: 3 bytes of a SHA-256. Clients that have the same share what one may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientTag([u8; 3]);

impl ClientTag {
    pub fn of(client: KeyId) -> Self {
        let digest: [u8; 32] = Sha256::digest(client.to_string().as_bytes()).into();
        Self(digest.first_chunk().copied().unwrap_or_default())
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

/// Which change of which instance of which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationKey {
    pub client: ClientTag,
    pub instance: InstanceKey,
    pub operation: OperationId,
}

/// See the module.
#[derive(Debug)]
pub struct Operations {
    state: Mutex<State>,
    ended: Condvar,
    /// Sessions of instances that have one. Locked after `state`, and never across IO.
    connected: Mutex<HashMap<InstanceKey, usize>>,
}

#[derive(Debug)]
struct State {
    instances: HashMap<InstanceKey, Instance>,
    /// Of all instances, see [`shed`].
    units: usize,
    units_max: usize,
    /// Grows with each use of an instance.
    uses: u64,
    journal: Option<Journal>,
    complained: bool,
}

#[derive(Debug)]
struct Instance {
    client: ClientTag,
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
        Self::of(State::new(None))
    }

    /// With the journal of a state folder, of which the caller holds the lock.
    pub fn open(folder: &Path) -> Result<Self> {
        let (journal, records) = Journal::open(folder)?;
        let mut state = State::new(Some(journal));
        for record in records {
            state.replay(record);
        }
        Ok(Self::of(state))
    }

    fn of(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            ended: Condvar::new(),
            connected: Mutex::default(),
        }
    }

    /// No more than so many units of [`shed::UNIT_BYTES`] are kept.
    #[must_use]
    pub fn with_units_max(self, units_max: usize) -> Self {
        let mut state = self.state.lock();
        state.units_max = units_max.min(UNITS_MAX);
        state.shed(&self.connected.lock());
        drop(state);
        self
    }

    /// An instance has a session from here on, or one more, until it [`Self::leave`]s.
    pub fn join(&self, instance: InstanceKey) {
        *self.connected.lock().entry(instance).or_default() += 1;
    }

    pub fn leave(&self, instance: InstanceKey) {
        let mut connected = self.connected.lock();
        let left = connected.get_mut(&instance).map(|sessions| {
            *sessions = sessions.saturating_sub(1);
            *sessions
        });
        if left == Some(0) {
            connected.remove(&instance);
        }
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
    pub fn was_done(&self, key: OperationKey) -> bool {
        matches!(self.state.lock().slot(key), Some(Slot::Done(..)))
    }

    fn begin(&self, key: OperationKey, kind: OperationKind) -> Result<Begun> {
        let mut state = self.state.lock();
        let interrupted = loop {
            match state.slot(key) {
                Some(Slot::Running(_)) => self.ended.wait(&mut state),
                Some(Slot::Done(was, _) | Slot::Interrupted(Intent { kind: was, .. })) if was != kind => {
                    let text = format!("operation {} was another change: {was:?}", key.operation.0);
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                Some(Slot::Done(_, outcome)) => {
                    state.update(key, |_| {});
                    return Ok(Begun::Before(outcome));
                }
                Some(Slot::Interrupted(intent)) => break Some(intent),
                None => break None,
            }
        };
        state.update(key, |kept| {
            kept.kept.retain(|kept| *kept != key.operation);
            kept.slots.insert(key.operation, Slot::Running(interrupted));
            kept.running += 1;
        });
        state.shed(&self.connected.lock());
        Ok(Begun::Now(interrupted))
    }

    fn intend(&self, key: OperationKey, kind: OperationKind, node: Option<NodeTag>) {
        let intent = Intent {
            kind,
            node,
            at_ns: clock::now_ns(),
        };
        let mut state = self.state.lock();
        state.update(key, |kept| {
            kept.slots.insert(key.operation, Slot::Running(Some(intent)))
        });
        state.write(&Record {
            key,
            kind,
            entry: Entry::Intent {
                node,
                at_ns: intent.at_ns,
            },
        });
    }

    fn end(&self, key: OperationKey, slot: Slot) {
        let mut state = self.state.lock();
        let said = matches!(state.slot(key), Some(Slot::Running(Some(_))));
        state.update(key, |kept| {
            kept.running = kept.running.saturating_sub(1);
            kept.keep(key.operation, slot);
        });
        // An error without an intent had no effect: doing it again after a crash is as good.
        if let Slot::Done(kind, outcome) = slot
            && (said || outcome.is_ok())
        {
            state.write(&Record {
                key,
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
    fn new(journal: Option<Journal>) -> Self {
        Self {
            instances: HashMap::new(),
            units: 0,
            units_max: UNITS_MAX,
            uses: 0,
            journal,
            complained: false,
        }
    }

    fn slot(&self, key: OperationKey) -> Option<Slot> {
        let kept = self.instances.get(&key.instance)?;
        kept.slots.get(&key.operation).copied()
    }

    /// Changes what is kept of an instance, which is the one used last from here on.
    fn update<T>(&mut self, key: OperationKey, change: impl FnOnce(&mut Instance) -> T) -> T {
        self.uses += 1;
        let before = self.instances.get(&key.instance).map_or(0, Instance::units);
        let kept = self.instances.entry(key.instance).or_insert_with(|| Instance {
            client: key.client,
            last_use: 0,
            running: 0,
            slots: HashMap::new(),
            kept: VecDeque::new(),
        });
        // The journal of an older version does not tell.
        kept.client = key.client;
        kept.last_use = self.uses;
        let done = change(kept);
        self.units = self.units - before + kept.units();
        done
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
        self.update(record.key, |kept| kept.keep(record.key.operation, slot));
        self.shed(&HashMap::new());
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
        for (instance, kept) in instances {
            for operation in kept.kept.iter().copied().chain(running(kept)) {
                let (kind, entry) = match kept.slots.get(&operation).copied() {
                    Some(Slot::Done(kind, outcome)) => (kind, Entry::Outcome(outcome)),
                    Some(Slot::Interrupted(intent) | Slot::Running(Some(intent))) => {
                        let Intent { kind, node, at_ns } = intent;
                        (kind, Entry::Intent { node, at_ns })
                    }
                    Some(Slot::Running(None)) | None => continue,
                };
                let key = OperationKey {
                    client: kept.client,
                    instance: *instance,
                    operation,
                };
                records.push(Record { key, kind, entry });
            }
        }
        records
    }
}

#[cfg(test)]
mod tests;
