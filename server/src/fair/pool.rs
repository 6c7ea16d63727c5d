//! Waiting for a share, and giving it back by dropping it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lacuna_transport::quic::identity::KeyId;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Fair, Ticket};

/// Something scarce that clients share.
#[derive(Debug)]
pub(crate) struct FairPool(Mutex<State>);

#[derive(Debug)]
struct State {
    fair: Fair,
    waiting: HashMap<Ticket, oneshot::Sender<Share>>,
}

/// A share of a pool; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Arc<FairPool>,
    client: KeyId,
    units: u64,
}

impl FairPool {
    pub(crate) fn new(units_max: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            fair: Fair::new(units_max),
            waiting: HashMap::new(),
        })))
    }

    /// A share of nothing.
    pub(crate) fn nothing(self: &Arc<Self>, client: KeyId) -> Share {
        self.share(client, 0)
    }

    /// What is out now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        self.0.lock().fair.held()
    }

    /// A share if there is one at once.
    pub(crate) fn try_take(self: &Arc<Self>, client: KeyId, units: u64) -> Option<Share> {
        let mut state = self.0.lock();
        let units = state.fair.clamp(units);
        let granted = state.fair.try_take(client, units);
        drop(state);
        granted.then(|| self.share(client, units))
    }

    /// A share, in turn; `None` after `patience`.
    pub(crate) async fn take(
        self: &Arc<Self>,
        client: KeyId,
        units: u64,
        patience: Duration,
    ) -> Option<Share> {
        if let Some(share) = self.try_take(client, units) {
            return Some(share);
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let mut state = self.0.lock();
            let units = state.fair.clamp(units);
            let ticket = state.fair.wait(client, units);
            state.waiting.insert(ticket, sender);
            ticket
        };
        // From here on whoever stops waiting leaves the queue.
        let _place = Place {
            pool: self,
            client,
            ticket,
        };
        self.settle();
        timeout(patience, receiver).await.ok()?.ok()
    }

    /// Hands out what can be had now.
    fn settle(self: &Arc<Self>) {
        let mut state = self.0.lock();
        let granted = state.fair.settle();
        let granted: Vec<_> = granted
            .into_iter()
            .map(|(client, ticket, units)| (state.waiting.remove(&ticket), self.share(client, units)))
            .collect();
        drop(state);
        // Without the lock: a share that nobody takes comes back by being dropped.
        for (sender, share) in granted {
            if let Some(sender) = sender {
                drop(sender.send(share));
            }
        }
    }

    fn share(self: &Arc<Self>, client: KeyId, units: u64) -> Share {
        Share {
            pool: Arc::clone(self),
            client,
            units,
        }
    }
}

/// A place in the queue, left when dropped.
struct Place<'a> {
    pool: &'a Arc<FairPool>,
    client: KeyId,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.0.lock();
        // What was granted meanwhile is a share in the channel, and comes back with it.
        if state.waiting.remove(&self.ticket).is_some() {
            state.fair.leave(self.client, self.ticket);
            drop(state);
            self.pool.settle();
        }
    }
}

impl Share {
    /// Gives back all but `units`.
    pub(crate) fn shrink(&mut self, units: u64) {
        let surplus = self.units.saturating_sub(units);
        self.units -= surplus;
        self.pool.give_back(self.client, surplus);
    }
}

impl FairPool {
    fn give_back(self: &Arc<Self>, client: KeyId, units: u64) {
        if units > 0 {
            self.0.lock().fair.give_back(client, units);
            self.settle();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.give_back(self.client, self.units);
    }
}

/// Bytes that were paid for with a share, until the last of them is let go: QUIC holds them until the client has
/// acknowledged them.
#[derive(Debug)]
struct Paid {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// `bytes`, which give back `share` with all others that hold it.
pub(crate) fn paid(bytes: Bytes, share: &Arc<Share>) -> Bytes {
    Bytes::from_owner(Paid {
        bytes,
        _share: Arc::clone(share),
    })
}
