//! The server's storage: the model backend behind a disk that can be full, a process that can be killed at a named
//! point, and bugs that the simulation must find.
//!
//! Invariant: nothing is done for a process that is dead, so that no change of an old run of the server comes after
//! what a new one did.

mod bug;
mod volume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lacuna_server::backend::memory::Memory;
use lacuna_server::backend::{Backend, Created, OpenVolume};
use lacuna_server::error::{Error, ErrorKind, Result};
use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;
use parking_lot::Mutex;

use self::bug::Bugs;
pub(crate) use self::bug::{BUGS, Bug};
use self::volume::Volume;

/// Calls at which a server can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Reshape,
    Resize,
    Flush,
    Name,
}

/// All of them.
pub(crate) const CALLS: [Call; 5] = [Call::Write, Call::Reshape, Call::Resize, Call::Flush, Call::Name];

/// Where a server dies: at a later call of a kind, before it has its effect or after, but never with an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashPoint {
    pub(crate) call: Call,
    /// Calls of that kind that go well before.
    pub(crate) after_calls: u64,
    pub(crate) applied: bool,
}

/// The host's disk, which outlives the server.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) memory: Memory,
    full: AtomicBool,
    /// Flushes to come that fail.
    bad_flushes: AtomicU64,
    bugs: Bugs,
}

impl Disk {
    pub(crate) fn new(bug: Option<Bug>) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::default(),
            full: AtomicBool::new(false),
            bad_flushes: AtomicU64::new(0),
            bugs: Bugs::new(bug),
        })
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    /// The next flushes fail, and nothing comes of them.
    pub(crate) fn set_bad_flushes(&self, count: u64) {
        self.bad_flushes.store(count, Ordering::Release);
    }

    /// A client asks for the lease of a volume until the guard is dropped: some bugs are in what the server does meanwhile,
    /// or at other times.
    pub(crate) fn client_asks(self: &Arc<Self>, volume: NodeId) -> Asking {
        self.bugs.asks(volume);
        Asking {
            disk: Arc::clone(self),
            volume,
        }
    }

    fn flush_is_bad(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.bad_flushes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .is_ok()
    }

    /// Nothing of the server is running.
    pub(crate) fn lose_power(&self, keep: impl FnMut() -> bool) {
        self.memory.lose_power(keep);
        self.bugs.restarted();
    }
}

/// See [`Disk::client_asks`].
#[derive(Debug)]
pub(crate) struct Asking {
    disk: Arc<Disk>,
    volume: NodeId,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.disk.bugs.asked(self.volume);
    }
}

/// A server process, as far as its storage can tell.
pub(crate) struct Life {
    alive: AtomicBool,
    point: Mutex<Option<CrashPoint>>,
    /// Called when the process dies by itself.
    died: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life")
            .field("alive", &self.alive)
            .finish_non_exhaustive()
    }
}

impl Life {
    pub(crate) fn new(died: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            alive: AtomicBool::new(true),
            point: Mutex::new(None),
            died: Box::new(died),
        })
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Release);
    }

    /// Has the process die there.
    pub(crate) fn arm(&self, point: CrashPoint) {
        *self.point.lock() = Some(point);
    }

    fn check(&self) -> Result<()> {
        if self.alive.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::ShuttingDown, "the process was killed"))
    }

    /// Makes a change, unless the process is dead; it may die of it.
    fn change<T>(&self, call: Call, apply: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check()?;
        let mut point = self.point.lock();
        let here = match &mut *point {
            Some(armed) if armed.call == call && armed.after_calls == 0 => point.take(),
            Some(armed) if armed.call == call => {
                armed.after_calls -= 1;
                None
            }
            _ => None,
        };
        drop(point);
        match here {
            None => apply(),
            Some(point) => {
                let applied = point.applied.then(apply);
                self.end();
                (self.died)();
                drop(applied);
                self.check()?;
                Err(Error::new(ErrorKind::Internal, "a dead process lives"))
            }
        }
    }
}

/// The backend of one server process.
#[derive(Debug)]
pub(crate) struct Storage {
    disk: Arc<Disk>,
    life: Arc<Life>,
}

impl Storage {
    pub(crate) fn new(disk: Arc<Disk>, life: Arc<Life>) -> Arc<Self> {
        Arc::new(Self { disk, life })
    }

    fn wrap(&self, inner: Arc<dyn OpenVolume>) -> Arc<dyn OpenVolume> {
        Arc::new(Volume::new(inner, Arc::clone(&self.disk), Arc::clone(&self.life)))
    }

    fn memory(&self) -> Result<&Memory> {
        self.life.check()?;
        Ok(&self.disk.memory)
    }
}

impl Backend for Storage {
    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }

    fn stat(&self, path: &NodePath) -> Result<Attr> {
        Ok(self.disk.bugs.attr(self.memory()?.stat(path)?))
    }

    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()> {
        self.memory()?.visit(path, tell)
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        Ok(self.wrap(self.memory()?.open(path)?))
    }

    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        let memory = &self.disk.memory;
        let created = self
            .life
            .change(Call::Name, || memory.create(path, node, exclusive, announce))?;
        Ok(Created {
            volume: self.wrap(created.volume),
            ..created
        })
    }

    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        let memory = &self.disk.memory;
        self.life.change(Call::Name, || memory.make_folder(path, node))
    }

    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        let memory = &self.disk.memory;
        self.life.change(Call::Name, || memory.remove(path, folder, id))
    }

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        let memory = &self.disk.memory;
        self.life.change(Call::Name, || memory.rename(from, to, mode))
    }

    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr> {
        self.memory()?.set_attr(path, new)
    }

    fn flush_folder(&self, path: &NodePath) -> Result<()> {
        self.memory()?.flush_folder(path)
    }

    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64> {
        self.memory()?.copy(source, range, target, offset)
    }

    fn space(&self) -> Result<Space> {
        self.memory()?.space()
    }

    fn clock_tick(&self) -> Duration {
        self.disk.memory.clock_tick()
    }
}
