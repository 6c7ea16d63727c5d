//! Who may have the write lease of a volume, by what the clients were told and what was done to them. Pure: the time is an
//! argument.
//!
//! A process may have it from the moment it asks until it is known to have let go: it closed the volume with nothing left
//! to save, or was killed, and then for as long as the server may keep it. It has it *for certain* if the server has made
//! a change for it, and since then nobody else can have got it, nor was it broken.

use std::collections::BTreeMap;
use std::time::Duration;

use lacuna_server::lease::RECALL_TIMEOUT;
use lacuna_transport::limits::IDLE_TIMEOUT;
use tokio::time::Instant;

/// For what has no time of its own: the way of a message, a pause of the server.
const MARGIN: Duration = Duration::from_secs(1);
/// An open that was not answered in time may still be granted, by a server that waits for another client and is slow to
/// be reached.
const GRANTED_LATE: Duration = IDLE_TIMEOUT.saturating_add(RECALL_TIMEOUT);

/// How an open for writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Opened,
    /// Somebody else has it.
    Busy,
    /// Nobody knows whether it was granted.
    Unknown,
}

/// What a process has of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stake {
    /// It may have it.
    Kept,
    /// The server may keep it for it, until then at most if it is not started again.
    LetGo {
        at: Instant,
        /// It was closed in order while all was well.
        in_order: bool,
    },
}

#[derive(Debug, Default)]
struct Holder {
    /// `None`: it never asked, or was told that somebody else has it.
    stake: Option<Stake>,
    asks: bool,
    /// One of its opens may be granted until then.
    granted_late: Option<Instant>,
    /// When the latest change began that the server has made for it under the lease that it has.
    change: Option<Instant>,
    /// Since when somebody else may have it.
    doubted: bool,
    /// When another one was found to have it.
    lost: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Holders {
    /// How long the server keeps the lease of a client that is lost.
    lease_time: Duration,
    server_started: Instant,
    by_process: BTreeMap<u8, Holder>,
    /// While it is being broken: those who had it for sure when that began.
    breaking: Option<Vec<u8>>,
    /// When it had been broken last.
    broken: Option<Instant>,
    /// How often it went to another process while the one before had not let go.
    pub(crate) takeovers: u64,
}

impl Holders {
    pub(crate) fn new(lease_time: Duration, now: Instant) -> Self {
        Self {
            lease_time,
            server_started: now,
            by_process: BTreeMap::new(),
            breaking: None,
            broken: None,
            takeovers: 0,
        }
    }

    /// The server keeps what it knew for those who had it.
    pub(crate) fn server_started(&mut self, now: Instant) {
        self.server_started = now;
    }

    /// A process asks for the lease.
    pub(crate) fn asks(&mut self, process: u8) {
        self.by_process.entry(process).or_default().asks = true;
    }

    /// It was answered. An error says that nobody can have the lease.
    pub(crate) fn asked(
        &mut self,
        process: u8,
        asked: Asked,
        (begun, now): (Instant, Instant),
    ) -> Result<(), String> {
        if asked != Asked::Busy {
            self.others(process).for_each(|holder| holder.doubted = true);
        }
        let holder = self.by_process.entry(process).or_default();
        holder.asks = false;
        match asked {
            Asked::Opened => holder.stake = Some(Stake::Kept),
            Asked::Unknown => {
                holder.granted_late = Some(now + GRANTED_LATE);
                if holder.stake != Some(Stake::Kept) {
                    let at = now + GRANTED_LATE;
                    holder.stake = Some(Stake::LetGo { at, in_order: false });
                }
            }
            Asked::Busy => {
                holder.stake = None;
                let mut others = self.by_process.iter().filter(|(other, _)| **other != process);
                if !others.any(|(_, holder)| self.may_have(holder, begun)) {
                    return Err("is refused what nobody can have".to_owned());
                }
            }
        }
        Ok(())
    }

    fn may_have(&self, holder: &Holder, at: Instant) -> bool {
        let kept = match holder.stake {
            None => false,
            Some(Stake::Kept) => true,
            Some(Stake::LetGo {
                at: then,
                in_order: true,
            }) => at <= then + MARGIN,
            Some(Stake::LetGo {
                at: then,
                in_order: false,
            }) => at <= then.max(self.server_started) + IDLE_TIMEOUT + self.lease_time + MARGIN,
        };
        kept || holder.asks
    }

    /// The server made a change for a process that has opened the volume anew: the lease was its own between `begun` and
    /// `now`. An error says that somebody else had it too.
    pub(crate) fn claimed(&mut self, process: u8, (begun, now): (Instant, Instant)) -> Result<(), String> {
        let mut earlier = Vec::new();
        for (other, holder) in self.by_process.iter_mut().filter(|(other, _)| **other != process) {
            if let Some(change) = holder.change.take() {
                holder.lost = Some(now);
                earlier.push((*other, change));
            }
            holder.doubted = true;
        }
        // What began before it was broken may have been made before, too.
        let lasts = self.breaking.is_none() && self.broken.is_none_or(|broken| begun > broken);
        let holder = self.by_process.entry(process).or_default();
        (holder.change, holder.doubted, holder.lost) = (lasts.then_some(begun), false, None);
        self.takeovers += u64::from(!earlier.is_empty());
        // It is kept for who made use of it and has not let go.
        match earlier.iter().find(|(_, change)| now < *change + self.lease_time) {
            Some((other, change)) => {
                let since = now.duration_since(*change);
                Err(format!(
                    "got the lease {since:?} after process {other} made use of it"
                ))
            }
            None => Ok(()),
        }
    }

    /// The server made a change for a process that was found to have the lease. An error says that it had lost it.
    pub(crate) fn changed(&mut self, process: u8, begun: Instant) -> Result<(), String> {
        let holder = self.by_process.entry(process).or_default();
        if let Some(lost) = holder.lost.filter(|lost| begun > *lost) {
            let late = begun.duration_since(lost);
            return Err(format!("changes the volume {late:?} after another one got it"));
        }
        if holder.change.is_some() {
            holder.change = Some(begun);
        }
        Ok(())
    }

    /// True if the process was found to have it, and nobody can have taken it since.
    pub(crate) fn is_certain(&self, process: u8) -> bool {
        let Some(holder) = self.by_process.get(&process) else {
            return false;
        };
        let Some(change) = holder.change.filter(|_| !holder.doubted) else {
            return false;
        };
        let mut others = self.by_process.iter().filter(|(other, _)| **other != process);
        others.all(|(_, other)| !other.asks && other.granted_late.is_none_or(|until| until < change))
    }

    /// It closed the volume; `saved`: with nothing left to send or to flush; `in_order`: and all was well.
    pub(crate) fn closed(&mut self, process: u8, saved: bool, in_order: bool, now: Instant) {
        if let Some(holder) = self.by_process.get_mut(&process) {
            // Others may have it from now on.
            holder.change = None;
            if saved {
                holder.stake = Some(Stake::LetGo { at: now, in_order });
            }
        }
    }

    pub(crate) fn killed(&mut self, process: u8, now: Instant) {
        let Some(holder) = self.by_process.get_mut(&process) else {
            return;
        };
        let asked = std::mem::take(&mut holder.asks);
        if asked {
            holder.granted_late = Some(now + GRANTED_LATE);
        }
        if asked || holder.stake == Some(Stake::Kept) {
            let at = if asked { now + GRANTED_LATE } else { now };
            holder.stake = Some(Stake::LetGo { at, in_order: false });
        }
    }

    /// It is about to be broken.
    pub(crate) fn breaking(&mut self) {
        let mut had = Vec::new();
        for (process, holder) in &mut self.by_process {
            holder.doubted = true;
            had.extend(holder.change.take().map(|_| *process));
        }
        self.breaking = Some(had);
    }

    /// It was broken, or nobody had it.
    pub(crate) fn broke(&mut self, broken: bool, now: Instant) {
        self.broken = Some(now);
        for process in self.breaking.take().into_iter().flatten().filter(|_| broken) {
            if let Some(holder) = self
                .by_process
                .get_mut(&process)
                .filter(|holder| holder.change.is_none())
            {
                holder.lost = Some(now);
            }
        }
    }

    fn others(&mut self, process: u8) -> impl Iterator<Item = &mut Holder> {
        let others = self.by_process.iter_mut();
        others
            .filter(move |(other, _)| **other != process)
            .map(|(_, holder)| holder)
    }
}

#[cfg(test)]
mod tests;
