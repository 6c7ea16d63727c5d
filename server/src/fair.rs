//! Who of many clients gets the next share of something scarce: memory, threads, places.
//!
//! Pure: units are whatever the pool counts, time does not matter, and [`pool`] makes it wait.
//!
//! **Invariants**
//!
//! * No more than `units_max` are out at once.
//! * A client that holds something gets more only if that leaves at least as much free as it then holds. So one
//!   alone gets half, two that hold on to all they get have a third each, and a newcomer always finds something:
//!   the "dynamic threshold" of switches that share their memory (Choudhury and Hahne, 1998).
//! * A client that holds nothing is refused only for lack of room; it then waits in turn, and nobody passes it.
//! * Waiting clients take turns, whatever the number of their requests; one client's requests stay in order.

pub(crate) mod pool;

use std::collections::{HashMap, VecDeque};

use lacuna_transport::quic::identity::KeyId;

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

/// See the module.
#[derive(Debug)]
pub(crate) struct Fair {
    units_max: u64,
    free: u64,
    clients: HashMap<KeyId, Account>,
    /// Clients that wait, each once, in the order of their turns.
    turns: VecDeque<KeyId>,
    /// The first in turn waits for room, and not for its own shares to come back.
    short: bool,
    last_ticket: u64,
}

/// What a client holds and wants; there is one only while that is something.
#[derive(Debug, Default)]
struct Account {
    held: u64,
    waiting: VecDeque<(Ticket, u64)>,
}

impl Fair {
    pub(crate) fn new(units_max: u64) -> Self {
        Self {
            units_max,
            free: units_max,
            clients: HashMap::new(),
            turns: VecDeque::new(),
            short: false,
            last_ticket: 0,
        }
    }

    /// More than there is in all counts as all: it could never be had otherwise.
    pub(crate) fn clamp(&self, units: u64) -> u64 {
        units.min(self.units_max)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        self.units_max - self.free
    }

    /// Takes `units` at once, if it is the turn of nobody else.
    pub(crate) fn try_take(&mut self, client: KeyId, units: u64) -> bool {
        let (free, short) = (self.free, self.short);
        let account = self.clients.entry(client).or_default();
        let granted = account.waiting.is_empty() && !short && account.may_take(units, free);
        if granted {
            account.held += units;
            self.free -= units;
        }
        self.tidy(client);
        granted
    }

    /// Puts a request in the queue of its client. To be followed by [`Self::settle`].
    pub(crate) fn wait(&mut self, client: KeyId, units: u64) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let account = self.clients.entry(client).or_default();
        if account.waiting.is_empty() {
            self.turns.push_back(client);
        }
        account.waiting.push_back((ticket, units));
        ticket
    }

    /// Forgets a request that nobody waits for any more; nothing if it was granted. To be followed by
    /// [`Self::settle`].
    pub(crate) fn leave(&mut self, client: KeyId, ticket: Ticket) {
        let Some(account) = self.clients.get_mut(&client) else {
            return;
        };
        account.waiting.retain(|(waiting, _)| *waiting != ticket);
        if account.waiting.is_empty() {
            self.turns.retain(|turn| *turn != client);
        }
        self.tidy(client);
    }

    /// Takes a share back. To be followed by [`Self::settle`].
    pub(crate) fn give_back(&mut self, client: KeyId, units: u64) {
        if let Some(account) = self.clients.get_mut(&client) {
            debug_assert!(account.held >= units, "more comes back than was given");
            account.held = account.held.saturating_sub(units);
            self.free += units;
        }
        self.tidy(client);
    }

    /// Grants what can be granted now, in turn, and returns it.
    pub(crate) fn settle(&mut self) -> Vec<(KeyId, Ticket, u64)> {
        let mut granted = Vec::new();
        let mut passed = 0;
        self.short = false;
        while passed < self.turns.len() {
            let Some(client) = self.turns.pop_front() else {
                break;
            };
            let Some(account) = self.clients.get_mut(&client) else {
                continue;
            };
            let Some(&(ticket, units)) = account.waiting.front() else {
                continue;
            };
            if account.may_take(units, self.free) {
                account.waiting.pop_front();
                account.held += units;
                self.free -= units;
                granted.push((client, ticket, units));
                passed = 0;
                if account.waiting.is_empty() {
                    continue;
                }
            } else if account.held == 0 {
                self.short = true;
                self.turns.push_front(client);
                break;
            } else {
                passed += 1;
            }
            self.turns.push_back(client);
        }
        granted
    }

    fn tidy(&mut self, client: KeyId) {
        if let Some(account) = self.clients.get(&client)
            && account.held == 0
            && account.waiting.is_empty()
        {
            self.clients.remove(&client);
        }
    }
}

impl Account {
    fn may_take(&self, units: u64, free: u64) -> bool {
        match free.checked_sub(units) {
            None => false,
            Some(left) => self.held == 0 || self.held + units <= left,
        }
    }
}

#[cfg(test)]
mod tests;
