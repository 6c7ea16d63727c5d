//! A decorator that fails on demand, for tests: errors, panics and slow storage in front of any backend.
//!
//! Left out on purpose: randomness. A test says which call fails next, and how.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::extent::Extent;
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;
use parking_lot::Mutex;

use super::{Backend, Created, OpenVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::wanted;

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
    Create,
    MakeFolder,
    Remove,
    Rename,
    SetAttr,
    FlushFolder,
    Copy,
    ReadyToChange,
    Write,
    Punch,
    Zero,
    Allocate,
    Resize,
    Grow,
    Flush,
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
    /// The call takes as long as somebody wants it.
    WaitWanted,
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
            Some(Fault::WaitWanted) => {
                while !wanted::is_unwanted() {
                    std::thread::yield_now();
                }
                Err(Error::new(
                    ErrorKind::Io,
                    format!("{call:?} was given up as planned"),
                ))
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

    fn wrap(&self, inner: Arc<dyn OpenVolume>) -> Arc<dyn OpenVolume> {
        Arc::new(FaultyVolume {
            inner,
            plan: Arc::clone(&self.plan),
        })
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

    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()> {
        self.plan.meet(Call::List)?;
        self.inner.visit(path, tell)
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        self.plan.meet(Call::Open)?;
        Ok(self.wrap(self.inner.open(path)?))
    }

    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        self.plan.meet(Call::Create)?;
        let created = self.inner.create(path, node, exclusive, announce)?;
        Ok(Created {
            volume: self.wrap(created.volume),
            ..created
        })
    }

    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        self.plan.meet(Call::MakeFolder)?;
        self.inner.make_folder(path, node)
    }

    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        self.plan.meet(Call::Remove)?;
        self.inner.remove(path, folder, id)
    }

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        self.plan.meet(Call::Rename)?;
        self.inner.rename(from, to, mode)
    }

    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr> {
        self.plan.meet(Call::SetAttr)?;
        self.inner.set_attr(path, new)
    }

    fn flush_folder(&self, path: &NodePath) -> Result<()> {
        self.plan.meet(Call::FlushFolder)?;
        self.inner.flush_folder(path)
    }

    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64> {
        self.plan.meet(Call::Copy)?;
        self.inner.copy(source, range, target, offset)
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

    fn size_max(&self) -> Option<u64> {
        self.inner.size_max()
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

    fn ready_to_change(&self) -> Result<()> {
        self.plan.meet(Call::ReadyToChange)?;
        self.inner.ready_to_change()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.plan.meet(Call::Write)?;
        self.inner.write_at(bytes, offset)
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        self.plan.meet(Call::Punch)?;
        self.inner.punch(range)
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        self.plan.meet(Call::Zero)?;
        self.inner.zero(range, grow)
    }

    fn allocate(&self, range: ByteRange, grow: bool) -> Result<()> {
        self.plan.meet(Call::Allocate)?;
        self.inner.allocate(range, grow)
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.plan.meet(Call::Resize)?;
        self.inner.resize(size)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.plan.meet(Call::Grow)?;
        self.inner.grow(size)
    }

    fn flush(&self, data_only: bool) -> Result<()> {
        self.plan.meet(Call::Flush)?;
        self.inner.flush(data_only)
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        self.plan.meet(Call::SetAttr)?;
        self.inner.set_attr(new)
    }

    fn read_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.read_fd()
    }

    fn write_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.write_fd()
    }
}
