//! The volume that all write to: getting its lease, using it, letting it go.

use std::time::Duration;

use lacuna::error::ErrorKind;
use lacuna::remote::Access;
use lacuna_transport::limits::IDLE_TIMEOUT;
use lacuna_transport::wire::message::Reshape;
use tokio::time::{Instant, sleep, timeout};

use super::{Actor, Limit, RETRY_PAUSE, Role};
use crate::history::TurnId;

/// Once all is well, whoever wants a lease that nobody uses has it after the time that the server keeps it, and so much
/// more for each client: as long as one uses it, and what all wait for when several ask at once.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(10);
/// Calls of one turn at the end.
const LAST_CALLS: usize = 4;

impl Actor {
    pub(super) async fn contested_step(&mut self) {
        let volume = self.shared.contested;
        match self.handles[volume].as_ref().map(|handle| &handle.role) {
            None if self.random.below(3) == 0 => {
                // It is tried again by a later step.
                let _ = self.open(volume, Access::Read).await;
            }
            None => {
                self.take(volume).await;
            }
            Some(Role::Writes(_)) if self.random.below(20) == 0 => self.let_go(volume).await,
            Some(Role::Writes(_)) => {
                let result = self.writer_step(volume).await;
                if result == Err(ErrorKind::Fenced) {
                    self.fenced(volume).await;
                }
            }
            Some(_) if self.random.below(4) == 0 => self.shut(volume),
            Some(_) => self.reader_step(volume).await,
        }
    }

    /// Opens a volume for writing and begins a turn with what it has; false if that cannot be now.
    pub(super) async fn take(&mut self, volume: usize) -> bool {
        let losses = self.shared.ledger.lock().volumes[volume].losses();
        if self.open(volume, Access::ReadWrite).await.is_err() {
            return false;
        }
        if self.establish(volume, losses).await {
            return true;
        }
        self.let_go(volume).await;
        false
    }

    async fn establish(&mut self, volume: usize, losses: usize) -> bool {
        let Some(to) = self.writing(volume) else {
            return false;
        };
        if self.claim(volume, to.turn).await.is_err() {
            return false;
        }
        let cells = self.shared.ledger.lock().volumes[volume].cells();
        let Some(tags) = self.tags(volume, &(0..cells)).await else {
            return false;
        };
        // As a database does that recovers: what it found is to stay.
        let flushed = self.client.fs.flush(to.open, false);
        let what = format!("fsync of what it found in v{volume}");
        if self.timed(&what, Limit::GoesOn, flushed).await.is_err() {
            return false;
        }
        let mut ledger = self.shared.ledger.lock();
        if ledger.volumes[volume].losses() != losses {
            return false;
        }
        ledger.note(&format!("c{} goes on with v{volume} {tags:?}", self.index));
        let established = ledger.volumes[volume].established(to.turn, &tags);
        ledger.expect(&format!("c{} v{volume}", self.index), established);
        true
    }

    /// Has the server make a change that nobody sees. That a volume could be opened does not tell that its lease was got: a
    /// client that has not heard yet that its own is gone opens it under that one.
    async fn claim(&mut self, volume: usize, turn: TurnId) -> Result<(), ErrorKind> {
        let Some(to) = self.writing(volume) else {
            return Ok(());
        };
        let begun = Instant::now();
        let range = Self::range(&self.place_of_blocks());
        let reserved = self.client.fs.reshape(to.open, Reshape::Allocate, range, false);
        let claimed = self
            .timed(&format!("claim v{volume}"), Limit::GoesOn, reserved)
            .await;
        let mut ledger = self.shared.ledger.lock();
        if claimed.is_ok() {
            ledger.volumes[volume].claimed(turn);
            let checked = ledger.holders[volume].claimed(self.process, (begun, Instant::now()));
            ledger.expect(&format!("c{} v{volume}", self.index), checked);
        } else if claimed == Err(ErrorKind::Fenced) {
            ledger.volumes[volume].over(turn);
        }
        claimed
    }

    /// Closes a volume as close(2) does.
    pub(super) async fn let_go(&mut self, volume: usize) {
        let Some(to) = self.writing(volume) else {
            return self.shut(volume);
        };
        let drained = self.drain(volume, to.turn, to.open).await;
        if drained == Err(ErrorKind::Fenced) && !self.shared.ledger.lock().volumes[volume].is_over(to.turn) {
            return self.fenced(volume).await;
        }
        self.no_longer_writes(volume, to.turn);
        self.shut(volume);
    }

    /// All is well again: has what it wrote to the contested volume saved, if it has it, and lets it go.
    pub(super) async fn save_contested(&mut self) {
        let volume = self.shared.contested;
        for _ in 0..super::end::FLUSH_TRIES {
            let Some(to) = self.writing(volume) else { break };
            match self.flush(volume, to.turn, to.open).await {
                Ok(()) => break,
                Err(ErrorKind::Fenced) => self.fenced(volume).await,
                Err(_) => {}
            }
        }
        self.let_go(volume).await;
    }

    /// Nobody uses the contested volume: everybody can have it once more.
    pub(super) async fn write_contested(&mut self) {
        let volume = self.shared.contested;
        let clients = u32::try_from(self.shared.people.len()).unwrap_or(u32::MAX);
        let within = IDLE_TIMEOUT + self.shared.lease_time + TAKEOVER_MARGIN * clients;
        let taking = async {
            while !self.take(volume).await {
                sleep(RETRY_PAUSE).await;
            }
        };
        if timeout(within, taking).await.is_err() {
            return self.wrong_end(&format!("does not get the lease of v{volume} in {within:?}"));
        }
        for _ in 0..LAST_CALLS {
            if self.writer_step(volume).await == Err(ErrorKind::Fenced) {
                self.wrong_end("loses a lease that nobody can have taken");
                return;
            }
        }
        self.save(volume).await;
        self.let_go(volume).await;
    }
}
