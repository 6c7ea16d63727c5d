//! Accepting clients, and the sessions that live.
//!
//! **Invariants**
//!
//! * Every connection is looked up in the allow list, after it was registered: a revocation either is
//!   seen by the look-up, or sees the session and closes it.
//! * Sessions, handshakes and what they hold in memory are bounded, by parts of one budget ([`crate::memory`]) that
//!   clients get in fair turns (`fair`).
//! * A mount (an instance of a client) has one session that serves: a newer one closes the older and waits
//!   for what it has under way.
//! * When [`Server::run`] returns, no task of it is left and every client was told.

mod handshakes;
pub(crate) mod shared;
pub(crate) mod told;
pub mod workers;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lacuna_transport::id::BootId;
use lacuna_transport::limits::{HELLO_TIMEOUT, SESSION_HANDLES_MAX, SESSIONS_MAX};
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::KeyId;
use lacuna_transport::quic::packing::Packing;
use lacuna_transport::quic::tls;
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, Incoming};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::handshakes::{Handshakes, Slot, Verdict};
use self::shared::Shared;
use self::told::Told;
use self::workers::{Place, Workers};
use crate::access::{Access, AllowList, Entry};
use crate::backend::Backend;
use crate::buffers::BufferPool;
use crate::catalog::Catalog;
use crate::control::{LeaseReport, SessionReport};
use crate::error::{Error, ErrorKind, Result};
use crate::lease::{self, Leases};
use crate::locks::{LOCKS_GRACE, Locks};
use crate::memory::{Division, MEMORY_BYTES_DEFAULT};
use crate::operations::{InstanceKey, NodeTag, Operations};
use crate::session::{self, Counters, Session};

/// For goodbyes to leave after the last session was closed.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds that the operator or a test can lower; the counts are those of [`lacuna_transport::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub sessions_max: usize,
    pub session_handles_max: usize,
    /// The budget that [`crate::memory`] divides.
    pub memory_bytes: u64,
    /// How long the lease of a client that lost its connection is kept for it.
    pub lease_linger: Duration,
    /// How long locks outlive a session that was lost.
    pub locks_linger: Duration,
    /// How long a server that was started again waits for those who held locks.
    pub locks_grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions_max: SESSIONS_MAX,
            session_handles_max: SESSION_HANDLES_MAX,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            lease_linger: lease::LINGER_DEFAULT,
            locks_linger: lease::LINGER_DEFAULT,
            locks_grace: LOCKS_GRACE,
        }
    }
}

/// An export that is offered to clients.
#[derive(Debug)]
pub struct Server {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) catalog: Catalog,
    pub(crate) boot: BootId,
    pub(crate) shared: Shared,
    pub(crate) buffers: Arc<BufferPool>,
    pub(crate) packing: Packing,
    pub(crate) operations: Operations,
    pub(crate) leases: Arc<Leases>,
    pub(crate) locks: Locks,
    pub(crate) bounds: Bounds,
    read_only: bool,
    state: PathBuf,
    live: Mutex<HashMap<u64, Live>>,
    /// Sessions that named their instance, older ones first; they stay until nothing of them is under way.
    instances: Mutex<HashMap<InstanceKey, Vec<Arc<Session>>>>,
    next_session: AtomicU64,
    handshakes: Arc<Handshakes>,
    /// Whose refusals, and failed handshakes, were logged lately.
    refused: Mutex<Told<KeyId>>,
    failed: Mutex<Told<IpAddr>>,
    /// Connections of the endpoint, also those that are only still being forgotten.
    connections_max: usize,
}

/// A connection that has proved a key.
#[derive(Debug)]
struct Live {
    connection: Connection,
    key: KeyId,
    /// `None` until the allow list was read.
    entry: Option<Entry>,
    since: Instant,
    counters: Arc<Counters>,
}

impl Server {
    /// Serves `backend` to the clients on the allow list of the folder `state`. The caller holds the lock of
    /// that folder.
    pub fn new(backend: Arc<dyn Backend>, state: PathBuf, read_only: bool) -> Result<Arc<Self>> {
        Self::with_bounds(backend, state, read_only, Bounds::default())
    }

    pub fn with_bounds(
        backend: Arc<dyn Backend>,
        state: PathBuf,
        read_only: bool,
        bounds: Bounds,
    ) -> Result<Arc<Self>> {
        let division = Division::of(bounds.memory_bytes).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("the memory of this server is {error}"),
            )
        })?;
        let division = Division {
            sessions: division.sessions.min(bounds.sessions_max),
            ..division
        };
        let catalog = Catalog::new(backend.clock_tick()).with_nodes_max(division.volumes);
        let kept_bytes = usize::try_from(division.kept_bytes).unwrap_or(usize::MAX);
        Ok(Arc::new(Self {
            backend,
            catalog,
            boot: BootId::random().map_err(|error| Error::io("cannot read random numbers", error))?,
            shared: Shared::new(&division),
            buffers: Arc::new(BufferPool::new(kept_bytes)),
            packing: Packing::default(),
            operations: Operations::open(&state)?.with_units_max(division.operation_units),
            leases: Arc::new(Leases::open(&state, bounds.lease_linger)?.with_held_max(division.volumes)),
            locks: Locks::open(&state, bounds.locks_linger, bounds.locks_grace),
            bounds,
            read_only,
            state,
            live: Mutex::default(),
            instances: Mutex::default(),
            next_session: AtomicU64::new(1),
            handshakes: Handshakes::new(division.handshakes),
            refused: Mutex::default(),
            failed: Mutex::default(),
            connections_max: division.sessions + division.handshakes,
        }))
    }

    /// Accepts clients until `shutdown` is ready, then says goodbye to all of them. Serves them here, on the runtime
    /// of the endpoint.
    pub async fn run(self: &Arc<Self>, endpoint: Endpoint, shutdown: impl Future<Output = ()>) -> Result<()> {
        self.run_on(&Workers::here(), endpoint, shutdown).await
    }

    /// As [`Self::run`], with the sessions spread over `workers`.
    pub async fn run_on(
        self: &Arc<Self>,
        workers: &Workers,
        endpoint: Endpoint,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        let mut watch = std::pin::pin!(self.catalog.watch());
        let result = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                () = &mut watch => {}
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => self.admit(workers, &endpoint, incoming, &mut tasks),
                    None => break Err(Error::new(ErrorKind::Io, "the endpoint closed by itself")),
                },
                Some(ended) = tasks.join_next() => note_panic(ended),
            }
        };
        endpoint.close(CloseCode::ShuttingDown.code(), b"the server is shutting down");
        let goodbye = async {
            while let Some(ended) = tasks.join_next().await {
                note_panic(ended);
            }
            endpoint.wait_idle().await;
        };
        if timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!("not every client confirmed the goodbye");
        }
        tasks.shutdown().await;
        self.locks.end();
        result
    }

    /// Reads the allow list again and closes the sessions that it no longer admits, or admits to something else.
    /// Returns their number.
    pub async fn reload(&self) -> Result<usize> {
        let list = self.allow_list().await?;
        let mut closed = 0;
        for live in self.live.lock().values() {
            let now = list.find(live.key).map(|entry| entry.access);
            match (now, live.entry.as_ref().map(|entry| entry.access)) {
                (None, _) => close(&live.connection, CloseCode::NotAllowed, &refusal(live.key)),
                (Some(now), Some(before)) if now != before => {
                    close(
                        &live.connection,
                        CloseCode::Busy,
                        "the rights of this client changed; connect again",
                    );
                }
                (Some(_), _) => continue,
            }
            closed += 1;
        }
        Ok(closed)
    }

    /// The sessions that live now, oldest first.
    pub fn sessions(&self) -> Vec<SessionReport> {
        let live = self.live.lock();
        let mut reports: Vec<_> = live
            .iter()
            .filter_map(|(session, live)| live.report(*session))
            .collect();
        reports.sort_by_key(|report| report.session);
        reports
    }

    /// Takes the write lease of a volume away from who has it; returns who that was.
    pub async fn break_lease(self: &Arc<Self>, path: &NodePath) -> Result<LeaseReport> {
        let (server, path) = (Arc::clone(self), path.clone());
        session::blocking(move || {
            let tag = NodeTag::of(&server.backend.stat(&path)?);
            let broken = server.leases.break_lease(tag).ok_or_else(|| {
                let text = format!("nobody writes to '{path}'; 'lacunad leases' lists who writes to what");
                Error::new(ErrorKind::NotFound, text)
            })?;
            tracing::warn!(volume = %path, holder = %broken, "the write lease was broken: its holder is fenced");
            Ok(broken)
        })
        .await
    }

    /// Makes `session` the one of its instance and returns those before it that are not over.
    pub(crate) fn succeed(&self, key: InstanceKey, session: &Arc<Session>) -> Vec<Arc<Session>> {
        let mut instances = self.instances.lock();
        let sessions = instances.entry(key).or_default();
        let older = sessions.clone();
        sessions.push(Arc::clone(session));
        drop(instances);
        self.operations.join(key);
        older
    }

    async fn allow_list(&self) -> Result<AllowList> {
        let state = self.state.clone();
        session::blocking(move || AllowList::load(&state)).await
    }

    fn admit(
        self: &Arc<Self>,
        workers: &Workers,
        endpoint: &Endpoint,
        incoming: Incoming,
        tasks: &mut JoinSet<()>,
    ) {
        let address = canonical(incoming.remote_address());
        if endpoint.open_connections() >= self.connections_max {
            tracing::debug!(%address, "no answer to a client: too many connections");
            incoming.ignore();
            return;
        }
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        let slot = match self.handshakes.begin(address.ip(), proven) {
            Verdict::Welcome(slot) => slot,
            Verdict::Prove => {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "cannot ask a client to prove its address");
                }
                return;
            }
            Verdict::Ignore => {
                tracing::debug!(%address, "no answer to a client: too many handshakes");
                incoming.ignore();
                return;
            }
        };
        let server = Arc::clone(self);
        let (worker, place) = workers.place();
        // Accepted there, so that its connection is driven there.
        let session = async move {
            let connection = timeout(HELLO_TIMEOUT, async { incoming.await }).await;
            match connection {
                Ok(Ok(connection)) => server.connected(connection, address, slot, place).await,
                Ok(Err(error)) => server.note_failed(address, &error.to_string()),
                Err(_) => server.note_failed(address, "it took too long"),
            }
        };
        tasks.spawn_on(session, worker);
    }

    fn note_failed(&self, address: SocketAddr, why: &str) {
        match self.failed.lock().line(address.ip(), tokio::time::Instant::now()) {
            Some(left_out) => tracing::info!(%address, why, left_out, "a handshake failed"),
            None => tracing::debug!(%address, why, "a handshake failed"),
        }
    }

    fn note_refused(&self, key: KeyId, address: SocketAddr, why: &str) {
        match self.refused.lock().line(key, tokio::time::Instant::now()) {
            Some(left_out) => tracing::warn!(%key, %address, left_out, "refused a client: {why}"),
            None => tracing::debug!(%key, %address, "refused a client: {why}"),
        }
    }

    /// `slot` is given back when the client was admitted or refused.
    async fn connected(
        self: &Arc<Self>,
        connection: Connection,
        address: SocketAddr,
        slot: Slot,
        worker: Place,
    ) {
        let Some(key) = tls::peer_key(&connection) else {
            close(&connection, CloseCode::NotAllowed, "no key was shown");
            return;
        };
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::new(Counters::default());
        let live = Live {
            connection: connection.clone(),
            key,
            entry: None,
            since: Instant::now(),
            counters: Arc::clone(&counters),
        };
        self.live.lock().insert(number, live);
        let _registered = Registered { server: self, number };
        let entry = match self.allow_list().await {
            Ok(list) => list.find(key).cloned(),
            Err(error) => {
                tracing::error!(%error, %address, "refused a client: the allow list cannot be read");
                close(
                    &connection,
                    CloseCode::Busy,
                    "the server cannot read its allow list; its log says why",
                );
                return;
            }
        };
        let Some(entry) = entry else {
            self.note_refused(key, address, "its key is not on the allow list");
            close(&connection, CloseCode::NotAllowed, &refusal(key));
            return;
        };
        let Some(_place) = self.shared.place(key) else {
            let text = "this server has no room for another session of this client: unmount something, or give lacunad more --memory";
            self.note_refused(key, address, text);
            close(&connection, CloseCode::Busy, text);
            return;
        };
        if let Some(live) = self.live.lock().get_mut(&number) {
            live.entry = Some(entry.clone());
        }
        drop(slot);
        let window = self.shared.window(connection.min_rtt());
        endpoint::admit(&connection, window.bytes());
        tracing::info!(session = number, name = entry.name, %address, "client connected");
        let read_only = match entry.access {
            Access::ReadOnly => true,
            Access::ReadWrite => self.read_only,
        };
        let session = Session::new(
            Arc::clone(self),
            (connection.clone(), address),
            (key, entry.name.clone()),
            number,
            read_only,
            counters,
            worker,
        );
        let end = session.run().await;
        let path = connection.stats().path;
        tracing::debug!(
            session = number,
            rtt_us = path.rtt.as_micros(),
            window = path.cwnd,
            mtu = path.current_mtu,
            sent = path.sent_packets,
            lost = path.lost_packets,
            congestion = path.congestion_events,
            "path of the session"
        );
        tracing::info!(session = number, name = entry.name, "session ended: {}", end.text);
    }
}

/// A session's place in the register.
struct Registered<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.server.live.lock().remove(&self.number);
        let mut left = None;
        self.server.instances.lock().retain(|key, sessions| {
            let before = sessions.len();
            sessions.retain(|session| session.number() != self.number);
            left = left.or((sessions.len() < before).then_some(*key));
            !sessions.is_empty()
        });
        if let Some(key) = left {
            self.server.operations.leave(key);
        }
    }
}

impl Live {
    fn report(&self, session: u64) -> Option<SessionReport> {
        let entry = self.entry.as_ref()?;
        Some(SessionReport {
            session,
            key: entry.key.to_string(),
            name: entry.name.clone(),
            access: entry.access.word().to_owned(),
            address: canonical(self.connection.remote_address()).to_string(),
            age_secs: self.since.elapsed().as_secs(),
            open_volumes: self.counters.open_volumes.load(Ordering::Relaxed),
            bytes_sent: self.counters.traffic.sent.load(Ordering::Relaxed),
            bytes_received: self.counters.traffic.received.load(Ordering::Relaxed),
        })
    }
}

fn close(connection: &Connection, code: CloseCode, text: &str) {
    connection.close(code.code(), text.as_bytes());
}

/// An IPv4 client of an IPv6 socket as people know it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn refusal(key: KeyId) -> String {
    format!("this client's key {key} is not allowed; run on the server: lacunad allow {key}")
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended.map_err(|error| error.is_panic().then_some(error)) {
        tracing::error!(?error, "a session's task panicked");
    }
}

#[cfg(test)]
mod tests;
