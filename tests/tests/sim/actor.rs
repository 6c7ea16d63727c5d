//! One client and what it does: random calls on its own volume, which it alone writes, on one that all write to, and on
//! those of others, each checked against what may be seen.

mod content;
mod end;
mod fenced;
mod lease;
mod names;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lacuna::error::{ErrorKind, Result};
use lacuna::file_system::OpenId;
use lacuna::remote::Access;
use lacuna_tests::random::Random;
use lacuna_transport::id::NodeId;
use lacuna_transport::limits::IDLE_TIMEOUT;
use lacuna_transport::path::NodeName;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::history::{History, TurnId, View, ZEROS};
use crate::holders::Asked;
use crate::ledger::Ledger;
use crate::world::Shared;

/// Whatever takes longer hangs.
const HANG: Duration = Duration::from_secs(300);
/// What a call may take beyond its deadline: the last pause of a retry, and the way to the caller.
const OVERTIME: Duration = Duration::from_secs(1);
/// A call that goes on sends and settles with another run of the server, each within the deadline, then meets a lost session
/// and does both once more.
const STAGES: u32 = 4;
/// Between two tries of what must come right in the end.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Its deadline.
    Deadline,
    /// As long as something goes on.
    GoesOn,
}

/// A volume that this client has open.
#[derive(Debug)]
struct Handle {
    open: OpenId,
    id: NodeId,
    role: Role,
    /// What was lost with the lease: reported, or perhaps so.
    told: Told,
}

/// An error of a background write is reported once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    No,
    Perhaps,
    Yes,
}

/// What a handle is for.
#[derive(Debug)]
enum Role {
    Writes(TurnId),
    /// With what was seen through it.
    Reads(View),
    /// All is over: what there is to see is known.
    Looks,
}

#[derive(Debug)]
struct Actor {
    shared: Arc<Shared>,
    index: usize,
    process: u8,
    client: Client,
    random: Random,
    handles: Vec<Option<Handle>>,
    /// Its own volume is its own, however often it is opened.
    own_turn: Option<TurnId>,
    names: Vec<NodeName>,
}

/// A client process from its start to its end; `again`: after a crash of another of the same person.
pub(crate) async fn live(
    shared: Arc<Shared>,
    index: usize,
    (process, address): (u8, SocketAddr),
    random: Random,
    again: bool,
) {
    let client = loop {
        let person = &shared.people[index];
        let rescue = shared.rescue.path().join(process.to_string());
        match Client::connect(&shared.network, address, process, person, shared.server, rescue).await {
            Ok(client) => break client,
            Err(error) => shared.ledger.lock().note(&format!("c{index} connect: {error}")),
        }
        sleep(RETRY_PAUSE).await;
    };
    let handles = (0..=shared.contested).map(|_| None).collect();
    let mut actor = Actor {
        shared,
        index,
        process,
        client,
        random,
        handles,
        own_turn: None,
        names: Vec::new(),
    };
    if again {
        actor.recover().await;
    } else {
        actor.begin_own();
    }
    while !*actor.shared.calm.borrow() {
        actor.think().await;
        actor.step().await;
    }
    actor.finish().await;
}

impl Actor {
    /// Its own volume was never written by anybody.
    fn begin_own(&mut self) {
        let mut ledger = self.shared.ledger.lock();
        let history = &mut ledger.volumes[self.index];
        let turn = history.begin_turn(self.process);
        let nothing = vec![ZEROS; history.cells()];
        let begun = history.established(turn, &nothing);
        ledger.expect("the start", begun);
        drop(ledger);
        self.own_turn = Some(turn);
    }

    async fn think(&mut self) {
        let longest_ms = [1, 40, 150, 1500][usize::try_from(self.random.below(4)).unwrap_or(0)];
        let pause = self.random.between(0, longest_ms);
        sleep(Duration::from_millis(pause)).await;
    }

    async fn step(&mut self) {
        let volume = match self.random.below(12) {
            0..4 => usize::try_from(self.random.below(u64::try_from(self.handles.len()).unwrap_or(1)))
                .unwrap_or(0),
            4..7 => self.shared.contested,
            _ => self.index,
        };
        match self.random.below(100) {
            0..8 => return self.name_step().await,
            _ if volume == self.shared.contested => return self.contested_step().await,
            8..14 => return self.reopen(volume).await,
            _ => {}
        }
        if self.handles[volume].is_none() && self.open(volume, self.access(volume)).await.is_err() {
            return;
        }
        if volume == self.index {
            // Nobody else has its lease.
            let _ = self.writer_step(volume).await;
        } else {
            self.reader_step(volume).await;
        }
    }

    pub(super) async fn reader_step(&mut self, volume: usize) {
        if self.random.below(3) > 0 {
            self.read(volume).await;
        } else {
            self.look_at_map(volume).await;
        }
    }

    /// What a volume is opened for that is not contested.
    fn access(&self, volume: usize) -> Access {
        if volume == self.index {
            Access::ReadWrite
        } else {
            Access::Read
        }
    }

    /// Runs a call and sees that it ends in time.
    async fn timed<T>(
        &self,
        what: &str,
        limit: Limit,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T, ErrorKind> {
        let begun = Instant::now();
        let deadline = self.shared.people[self.index].deadline;
        let result = timeout(HANG, work).await;
        let took = begun.elapsed();
        let mut ledger = self.shared.ledger.lock();
        ledger.operations += 1;
        let who = format!("c{} {what}", self.index);
        let result = match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.kind()),
            Err(_) => {
                ledger.violation(format!("{who} hangs for {} s", HANG.as_secs()));
                Err(ErrorKind::TimedOut)
            }
        };
        let outcome = result.as_ref().err().map(|kind| format!("{kind:?}"));
        ledger.failed_operations += u64::from(outcome.is_some());
        let outcome = outcome.unwrap_or_else(|| "ok".to_owned());
        ledger.note(&format!("{who}: {outcome} after {} ms", took.as_millis()));
        let over = took.saturating_sub(deadline);
        if over > ledger.overtime.0 {
            ledger.overtime = (over, who.clone());
        }
        let allowed = match limit {
            Limit::Deadline => deadline + OVERTIME,
            Limit::GoesOn => deadline * STAGES + IDLE_TIMEOUT + OVERTIME,
        };
        if took > allowed {
            ledger.violation(format!("{who} took {took:?}, its deadline is {deadline:?}"));
        }
        result
    }

    fn name(text: &str) -> NodeName {
        NodeName::new(text.as_bytes()).expect("a short name without a slash")
    }

    /// Finds a volume and opens it.
    async fn open(&mut self, volume: usize, access: Access) -> Result<(), ErrorKind> {
        let opening = self.shared.ledger.lock().volumes[volume].opening();
        let name = Self::name(&format!("v{volume}"));
        let fs = &self.client.fs;
        let found = self.timed("lookup", Limit::Deadline, fs.lookup(NodeId::ROOT, &name));
        let id = found.await?.id;
        let opened = match access {
            Access::Read => self.opened(volume, fs.open(id, access)).await,
            Access::ReadWrite => self.asked(volume, id, fs.open(id, access)).await,
        };
        let open = opened.inspect_err(|_| fs.forget(id, 1))?;
        let mut ledger = self.shared.ledger.lock();
        let history = &mut ledger.volumes[volume];
        let role = match (access, self.own_turn.filter(|_| volume == self.index)) {
            (Access::Read, _) => Role::Reads(history.view(self.process, &opening)),
            (Access::ReadWrite, Some(turn)) => Role::Writes(turn),
            (Access::ReadWrite, None) => Role::Writes(history.begin_turn(self.process)),
        };
        drop(ledger);
        self.handles[volume] = Some(Handle {
            open,
            id,
            role,
            told: Told::No,
        });
        Ok(())
    }

    async fn opened(
        &self,
        volume: usize,
        opening: impl Future<Output = Result<(OpenId, bool)>>,
    ) -> Result<OpenId, ErrorKind> {
        let what = format!("open v{volume}");
        Ok(self.timed(&what, Limit::Deadline, opening).await?.0)
    }

    /// An opening for writing: a process may have the lease from its beginning on.
    async fn asked(
        &self,
        volume: usize,
        id: NodeId,
        opening: impl Future<Output = Result<(OpenId, bool)>>,
    ) -> Result<OpenId, ErrorKind> {
        let begun = Instant::now();
        self.shared.ledger.lock().holders[volume].asks(self.process);
        let _asking = self.shared.disk.client_asks(id);
        let opened = self.opened(volume, opening).await;
        let asked = match opened {
            Ok(_) => Asked::Opened,
            Err(ErrorKind::Busy) => Asked::Busy,
            Err(_) => Asked::Unknown,
        };
        let mut ledger = self.shared.ledger.lock();
        let checked = ledger.holders[volume].asked(self.process, asked, (begun, Instant::now()));
        ledger.expect(&format!("c{} opens v{volume}", self.index), checked);
        opened
    }

    /// Closes as close(2) does, and opens again.
    async fn reopen(&mut self, volume: usize) {
        if let Some(to) = self.writing(volume) {
            // Nobody else has its lease; and what cannot be sent now is sent later.
            let _ = self.drain(volume, to.turn, to.open).await;
            self.no_longer_writes(volume, to.turn);
        }
        if let Some(handle) = self.handles[volume].take() {
            self.client.fs.close(handle.open);
            if self.random.below(2) == 0 {
                self.client.fs.forget(handle.id, 1);
            }
        }
        // It is tried again by the next step.
        let _ = self.open(volume, self.access(volume)).await;
    }

    /// Every dirty byte to the server.
    async fn drain(&mut self, volume: usize, turn: TurnId, open: OpenId) -> Result<(), ErrorKind> {
        let then = self.shared.ledger.lock().volumes[volume].sure(turn);
        let what = format!("close v{volume}");
        let drained = self.timed(&what, Limit::GoesOn, self.client.fs.drain(open)).await;
        self.tell(volume, drained);
        drained?;
        self.saved(volume, |history| history.reached_server(&then));
        Ok(())
    }

    /// Every change to the disk.
    async fn flush(&mut self, volume: usize, turn: TurnId, open: OpenId) -> Result<(), ErrorKind> {
        let then = self.shared.ledger.lock().volumes[volume].sure(turn);
        let data_only = self.random.below(2) == 0;
        let flushed = self.client.fs.flush(open, data_only);
        let flushed = self
            .timed(&format!("fsync v{volume}"), Limit::GoesOn, flushed)
            .await;
        self.tell(volume, flushed);
        flushed?;
        self.saved(volume, |history| history.reached_disk(&then));
        Ok(())
    }

    /// Takes note of what an fsync or a close reported: each error of the background once, and only one of those that came
    /// together.
    fn tell(&mut self, volume: usize, result: Result<(), ErrorKind>) {
        let Some(handle) = self.handles[volume].as_mut() else {
            return;
        };
        handle.told = match (handle.told, result) {
            (told, Ok(())) => told,
            (Told::Yes, Err(ErrorKind::Fenced)) => {
                let text = format!("c{} is told twice what it lost of v{volume}", self.index);
                self.shared.ledger.lock().violation(text);
                Told::Yes
            }
            (_, Err(ErrorKind::Fenced)) | (Told::Yes, Err(_)) => Told::Yes,
            (_, Err(_)) => Told::Perhaps,
        };
    }

    /// An fsync or a close succeeded. Once a loss was reported, that says nothing of what was before.
    fn saved(&self, volume: usize, reached: impl FnOnce(&mut History) -> Result<(), String>) {
        let Some(told) = self.handles[volume].as_ref().map(|handle| handle.told) else {
            return;
        };
        let mut ledger = self.shared.ledger.lock();
        if told == Told::No || (told == Told::Perhaps && self.is_certain(&ledger, volume)) {
            let checked = reached(&mut ledger.volumes[volume]);
            ledger.expect(&format!("c{} v{volume}", self.index), checked);
        }
    }

    /// True if nobody else can write to a volume now. Whatever happens to the lease of its own one, nobody does.
    fn is_certain(&self, ledger: &Ledger, volume: usize) -> bool {
        volume == self.index || ledger.holders[volume].is_certain(self.process)
    }

    /// A volume is about to be closed.
    fn no_longer_writes(&self, volume: usize, turn: TurnId) {
        let in_order = *self.shared.calm.borrow() && self.client.is_connected();
        let mut ledger = self.shared.ledger.lock();
        let saved = !ledger.volumes[volume].is_dirty(turn);
        ledger.holders[volume].closed(self.process, saved, in_order, Instant::now());
    }

    /// Closes without a word to the server of what is left to send.
    fn shut(&mut self, volume: usize) {
        if let Some(handle) = self.handles[volume].take() {
            self.client.fs.close(handle.open);
            self.client.fs.forget(handle.id, 1);
        }
    }
}
