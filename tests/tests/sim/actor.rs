//! One client and what it does: random calls on its own volume, which it alone writes, and on those of others, each
//! checked against what may be seen.

mod content;
mod end;
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
use crate::history::View;
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
    /// What was seen through it; `None`: its own volume, of which it knows everything.
    view: Option<View>,
}

#[derive(Debug)]
struct Actor {
    shared: Arc<Shared>,
    index: usize,
    client: Client,
    random: Random,
    handles: Vec<Option<Handle>>,
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
        match Client::connect(&shared.network, address, process, person, shared.server).await {
            Ok(client) => break client,
            Err(error) => shared.ledger.lock().note(&format!("c{index} connect: {error}")),
        }
        sleep(RETRY_PAUSE).await;
    };
    let handles = (0..shared.people.len()).map(|_| None).collect();
    let mut actor = Actor {
        shared,
        index,
        client,
        random,
        handles,
        names: Vec::new(),
    };
    if again {
        actor.recover().await;
    }
    while !*actor.shared.calm.borrow() {
        actor.think().await;
        actor.step().await;
    }
    actor.finish().await;
}

impl Actor {
    async fn think(&mut self) {
        let longest_ms = [1, 40, 150, 1500][usize::try_from(self.random.below(4)).unwrap_or(0)];
        let pause = self.random.between(0, longest_ms);
        sleep(Duration::from_millis(pause)).await;
    }

    async fn step(&mut self) {
        let volume = match self.random.below(3) {
            0 => usize::try_from(self.random.below(u64::try_from(self.handles.len()).unwrap_or(1)))
                .unwrap_or(0),
            _ => self.index,
        };
        match self.random.below(100) {
            0..8 => return self.name_step().await,
            8..14 => return self.reopen(volume).await,
            _ => {}
        }
        if self.handles[volume].is_none() && !self.open(volume).await {
            return;
        }
        if volume == self.index {
            self.own_step().await;
        } else if self.random.below(3) > 0 {
            self.read(volume).await;
        } else {
            self.look_at_map(volume).await;
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

    /// Finds a volume and opens it; false if it could not be.
    async fn open(&mut self, volume: usize) -> bool {
        let opening = self.shared.ledger.lock().volumes[volume].opening();
        let own = volume == self.index;
        let access = if own { Access::ReadWrite } else { Access::Read };
        let name = Self::name(&format!("v{volume}"));
        let fs = &self.client.fs;
        let found = self
            .timed("lookup", Limit::Deadline, fs.lookup(NodeId::ROOT, &name))
            .await;
        let Ok(attr) = found else { return false };
        let what = format!("open v{volume}");
        let opened = self.timed(&what, Limit::Deadline, fs.open(attr.id, access)).await;
        let Ok((open, _)) = opened else {
            fs.forget(attr.id, 1);
            return false;
        };
        let view = self.shared.ledger.lock().volumes[volume].view(&opening);
        self.handles[volume] = Some(Handle {
            open,
            id: attr.id,
            view: (!own).then_some(view),
        });
        true
    }

    /// Closes as close(2) does, and opens again.
    async fn reopen(&mut self, volume: usize) {
        if let Some(handle) = self.handles[volume].take() {
            self.drain(volume, handle.open).await;
            self.client.fs.close(handle.open);
            if self.random.below(2) == 0 {
                self.client.fs.forget(handle.id, 1);
            }
        }
        self.open(volume).await;
    }

    /// Every dirty byte to the server.
    async fn drain(&self, volume: usize, open: OpenId) {
        let then = self.shared.ledger.lock().volumes[volume].sure();
        let drained = self
            .timed(
                &format!("close v{volume}"),
                Limit::GoesOn,
                self.client.fs.drain(open),
            )
            .await;
        if drained.is_ok() && volume == self.index {
            self.shared.ledger.lock().volumes[volume].reached_server(&then);
        }
    }
}
