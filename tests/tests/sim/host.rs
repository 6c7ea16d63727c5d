//! The server's host: runs of the real server over the simulated disk, killed without a word or ended in order.
//!
//! The state folder outlives each run, and with the identity the keys for stateless resets do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lacuna_server::access::{Access, AllowList};
use lacuna_server::serve::{Bounds, Server};
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::{Identity, KeyId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::network::Network;
use crate::storage::{Bug, CrashPoint, Disk, Life, Storage};

/// The journals of changes of names and of leases, in the state folder.
const OPERATIONS_FILE: &str = "operations";
const LEASES_FILE: &str = "leases";

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    network: Arc<Network>,
    pub(crate) address: SocketAddr,
    identity: Identity,
    state: tempfile::TempDir,
    pub(crate) disk: Arc<Disk>,
    running: Option<Running>,
    /// Told when a run dies at a crash point.
    died: mpsc::UnboundedSender<()>,
    journals: Arc<[Journal; 2]>,
    lease_time: Duration,
    runs: u8,
}

#[derive(Debug)]
struct Running {
    life: Arc<Life>,
    server: Arc<Server>,
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Host {
    pub(crate) fn new(
        network: &Arc<Network>,
        address: SocketAddr,
        bug: Option<Bug>,
        lease_time: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<()>)> {
        let (died, deaths) = mpsc::unbounded_channel();
        let state = tempfile::Builder::new()
            .prefix("lacuna-sim")
            .tempdir_in("/dev/shm")?;
        let journal = |name, forgotten_by| Journal {
            path: state.path().join(name),
            is_forgotten: bug == Some(forgotten_by),
            at_death: Mutex::default(),
        };
        let journals = Arc::new([
            journal(OPERATIONS_FILE, Bug::ForgottenOperations),
            journal(LEASES_FILE, Bug::ForgottenLeases),
        ]);
        let host = Self {
            network: Arc::clone(network),
            address,
            identity: Identity::generate(),
            state,
            disk: Disk::new(bug),
            running: None,
            died,
            journals,
            lease_time,
            runs: 0,
        };
        Ok((host, deaths))
    }

    pub(crate) fn key(&self) -> KeyId {
        self.identity.id()
    }

    pub(crate) fn allow(&self, identity: &Identity) -> Result<()> {
        AllowList::change(self.state.path(), |list| {
            list.allow(identity.id(), None, Access::ReadWrite)
        })?;
        Ok(())
    }

    /// Starts a run, if there is none.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        self.runs += 1;
        self.journals.iter().try_for_each(Journal::thaw)?;
        let life = {
            let (network, address, died) = (Arc::clone(&self.network), self.address, self.died.clone());
            let journals = Arc::clone(&self.journals);
            Life::new(move || {
                journals.iter().for_each(Journal::freeze);
                network.cut(address);
                // Nobody listens any more when the world ends.
                let _ = died.send(());
            })
        };
        let storage = Storage::new(Arc::clone(&self.disk), Arc::clone(&life));
        let socket = self.network.bind(self.address);
        let endpoint = endpoint::server_over(&self.identity, socket, [self.runs; 32])?;
        let bounds = Bounds {
            lease_linger: self.lease_time,
            ..Bounds::default()
        };
        let server = Server::with_bounds(storage, self.state.path().to_owned(), false, bounds)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&server);
        let task = tokio::spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            // A run that ends by itself is noticed by its clients.
            let _ = serving.run(endpoint, shutdown).await;
        });
        self.running = Some(Running {
            life,
            server,
            task,
            stop,
        });
        Ok(())
    }

    /// The process will die there.
    pub(crate) fn arm(&self, point: CrashPoint) {
        if let Some(running) = &self.running {
            running.life.arm(point);
        }
    }

    /// `lacunad break-lease`; false if nobody had it.
    pub(crate) async fn break_lease(&self, path: &NodePath) -> bool {
        match &self.running {
            Some(running) => running.server.break_lease(path).await.is_ok(),
            None => false,
        }
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            self.network.cut(self.address);
            running.life.end();
            self.journals.iter().for_each(Journal::freeze);
            running.task.abort();
            // Cancelled is what it is meant to be.
            let _ = running.task.await;
        }
    }

    /// SIGTERM.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            drop(running.stop);
            running.task.await.context("a run of the server panicked")?;
            running.life.end();
            self.network.cut(self.address);
        }
        Ok(())
    }
}

/// A journal as it was when the process died: what is left of that one may not write to it.
#[derive(Debug)]
struct Journal {
    path: PathBuf,
    /// A restart knows nothing of it.
    is_forgotten: bool,
    at_death: Mutex<Option<Vec<u8>>>,
}

impl Journal {
    fn freeze(&self) {
        let mut at_death = self.at_death.lock();
        if at_death.is_none() {
            *at_death = std::fs::read(&self.path).ok();
        }
    }

    fn thaw(&self) -> std::io::Result<()> {
        let Some(bytes) = self.at_death.lock().take() else {
            return Ok(());
        };
        // What the dead process has open is another file.
        std::fs::remove_file(&self.path)?;
        if self.is_forgotten {
            return Ok(());
        }
        std::fs::write(&self.path, bytes)
    }
}
