//! A decorator that fails on demand, for tests: errors, panics and slow storage in front of any backend.
//!
//! Left out on purpose: randomness. A test says which call fails next, and how.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use lacuna_transport::attr::{Attr, Space};
use lacuna_transport::extent::Extent;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use super::{Backend, OpenVolume};
use crate::error::{Error, ErrorKind, Result};

/// Calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Stat,
    List,
    Open,
    Space,
    Attr,
    Read,
    Extents,
}

/// What happens instead of the call, or before it.
#[derive(Debug)]
pub enum Fault {
    /// Nothing: the next one is for a later call.
    Pass,
    Fail(ErrorKind),
    Panic,
    /// The call goes on when the other end sends or hangs up.
    Wait(Receiver<()>),
}

/// Faults to come, each for one call.
#[derive(Debug, Default)]
pub struct Plan {
    faults: Mutex<HashMap<Call, Vec<Fault>>>,
}

impl Plan {
    /// The next time `call` comes, `fault` happens.
    pub fn next(&self, call: Call, fault: Fault) {
        self.faults.lock().entry(call).or_default().push(fault);
    }

    /// Faults of `call` that have not happened yet.
    pub fn left(&self, call: Call) -> usize {
        self.faults.lock().get(&call).map_or(0, Vec::len)
    }

    fn meet(&self, call: Call) -> Result<()> {
        let fault = self
            .faults
            .lock()
            .get_mut(&call)
            .and_then(|faults| (!faults.is_empty()).then(|| faults.remove(0)));
        match fault {
            None | Some(Fault::Pass) => Ok(()),
            Some(Fault::Fail(kind)) => Err(Error::new(kind, format!("{call:?} failed as planned"))),
            Some(Fault::Panic) => panic!("{call:?} panicked as planned"),
            Some(Fault::Wait(gate)) => {
                // Either end of the wait is one.
                let _ = gate.recv();
                Ok(())
            }
        }
    }
}

/// A backend with faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct FaultyVolume {
    inner: Arc<dyn OpenVolume>,
    plan: Arc<Plan>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Backend>, plan: Arc<Plan>) -> Self {
        Self { inner, plan }
    }
}

impl Backend for Faulty {
    fn describe(&self) -> String {
        format!("{} with faults", self.inner.describe())
    }

    fn stat(&self, path: &NodePath) -> Result<Attr> {
        self.plan.meet(Call::Stat)?;
        self.inner.stat(path)
    }

    fn list(&self, path: &NodePath) -> Result<Vec<(NodeName, Attr)>> {
        self.plan.meet(Call::List)?;
        self.inner.list(path)
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        self.plan.meet(Call::Open)?;
        Ok(Arc::new(FaultyVolume {
            inner: self.inner.open(path)?,
            plan: Arc::clone(&self.plan),
        }))
    }

    fn space(&self) -> Result<Space> {
        self.plan.meet(Call::Space)?;
        self.inner.space()
    }

    fn clock_tick(&self) -> Duration {
        self.inner.clock_tick()
    }
}

impl OpenVolume for FaultyVolume {
    fn attr(&self) -> Result<Attr> {
        self.plan.meet(Call::Attr)?;
        self.inner.attr()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.plan.meet(Call::Read)?;
        self.inner.read_at(buffer, offset)
    }

    /// Never has anything: so that every read meets the plan, where it may block.
    fn read_cached(&self, _: &mut [u8], _: u64) -> Result<usize> {
        Ok(0)
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        self.plan.meet(Call::Extents)?;
        self.inner.extents(range, runs_max)
    }

    fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.watch_fd()
    }
}
