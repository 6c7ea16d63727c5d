//! One client: hello, the event stream, and the lanes.
//!
//! | stream | opened by | carries |
//! |---|---|---|
//! | control (its first) | client | one hello each way, then nothing for now |
//! | events | server | changes of the volumes that this session has open |
//! | lanes | client | requests, each answered before the next is read |
//!
//! **Invariants**
//!
//! * What does not parse ends the session with a text; what parses and cannot be done is an error reply.
//! * A panic while working for a request is an `Internal` reply; one in a lane itself ends this session
//!   and no other.
//! * No thread is held while a client is slow: work is done, then sent.
//! * Everything a session holds (handles, replies, events) has a bound and goes away with it.
//! * A session is over when nothing of it is under way any more, on the blocking pool either: the next one
//!   of the same instance begins then, so that nothing sent on this one takes effect after.

mod change;
mod digest;
mod hello;
mod lane;
mod lease;
mod list;
mod listing;
mod lock;
mod map;
mod name;
mod read;
mod stream;
mod work;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use lacuna_transport::id::{Handle, RequestId};
use lacuna_transport::limits::{LANE_STALL_TIMEOUT, REPLY_TIMEOUT};
use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::quic::frames::{self, FrameError, Traffic};
use lacuna_transport::quic::identity::KeyId;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::message::Features;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[cfg(feature = "testing")]
pub use self::read::read_here;
use self::work::Work;
use crate::backend::stream::Stream;
use crate::catalog::events::EventQueue;
use crate::catalog::{OpenNode, Party};
use crate::error::{Error, ErrorKind, Result};
use crate::fair::pool::{FairPool, Share, paid};
use crate::operations::InstanceKey;
use crate::serve::Server;
use crate::serve::workers::Place;
use crate::wanted::Unwanted;

/// Changes are collected for so long, so that a volume under constant change costs 20 events a second.
const EVENT_PAUSE: Duration = Duration::from_millis(50);
/// Listings of one session in memory at once: they can be large, and a client may take them slowly.
const LISTINGS_MAX: usize = 2;
/// Memory for an event that is on its way.
const EVENT_BYTES: u64 = 512;

/// Numbers of one session that others read.
#[derive(Debug, Default)]
pub struct Counters {
    pub traffic: Traffic,
    pub open_volumes: AtomicU64,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: CloseCode,
    pub(crate) text: String,
}

impl End {
    fn new(code: CloseCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Lost(text) => Self::new(CloseCode::Done, text),
            FrameError::Wire(error) => Self::new(CloseCode::Protocol, error.to_string()),
            FrameError::Stalled => Self::new(CloseCode::Protocol, error.to_string()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    server: Arc<Server>,
    connection: Connection,
    key: KeyId,
    /// Of the allow list.
    name: String,
    address: SocketAddr,
    number: u64,
    read_only: bool,
    counters: Arc<Counters>,
    handles: Mutex<Handles>,
    party: Party,
    /// Set by a hello.
    features: OnceLock<Features>,
    /// Set by a hello that names one.
    instance: OnceLock<InstanceKey>,
    /// Set by a hello that tells it: how long this client waits for an answer.
    patience: OnceLock<Duration>,
    /// Set when the hello was answered.
    welcomed: OnceLock<()>,
    work: Work,
    /// Set when the session ends: what it has under way may end early.
    unwanted: Unwanted,
    /// Which serves it.
    worker: Place,
    listings: Semaphore,
    /// Streams that this session has had open for changes.
    streams: Mutex<Vec<Arc<Stream>>>,
    ended: OnceLock<End>,
    /// Set with it: the client had said goodbye by then.
    left: OnceLock<bool>,
}

#[derive(Debug, Default)]
struct Handles {
    last: u64,
    /// Each with its place among the volumes that this server can have open.
    open: HashMap<Handle, (Arc<OpenNode>, Share)>,
}

impl Session {
    pub(crate) fn new(
        server: Arc<Server>,
        (connection, address): (Connection, SocketAddr),
        (key, name): (KeyId, String),
        number: u64,
        read_only: bool,
        counters: Arc<Counters>,
        worker: Place,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            connection,
            key,
            name,
            address,
            number,
            read_only,
            counters,
            handles: Mutex::default(),
            party: Party {
                session: number,
                events: Arc::new(EventQueue::default()),
            },
            features: OnceLock::new(),
            instance: OnceLock::new(),
            patience: OnceLock::new(),
            welcomed: OnceLock::new(),
            work: Work::new(),
            worker,
            unwanted: Unwanted::default(),
            listings: Semaphore::new(LISTINGS_MAX),
            streams: Mutex::default(),
            ended: OnceLock::new(),
            left: OnceLock::new(),
        })
    }

    /// Serves until the session ends, for whatever reason, and closes the connection. Returns when nothing of
    /// it is under way any more.
    pub(crate) async fn run(self: Arc<Self>) -> End {
        let serving = self.work.begin();
        let end = match self.hello().await {
            Ok((control, features)) => {
                let mut lanes = JoinSet::new();
                let end = self.serve(features, &mut lanes).await;
                let end = self.end(end);
                lanes.shutdown().await;
                drop(control);
                end
            }
            Err(end) => end,
        };
        let open = std::mem::take(&mut self.handles.lock().open);
        self.counters.open_volumes.store(0, Ordering::Relaxed);
        let session = Arc::clone(&self);
        let under_way = self.work.begin();
        // Not out of the client's share, which may hang for ever.
        let closed = blocking(move || {
            let (open, places): (HashMap<_, _>, Vec<_>) = open
                .into_iter()
                .map(|(handle, (node, place))| ((handle, node), place))
                .unzip();
            session.part_from_leases(open);
            drop(places);
            drop(under_way);
            Ok(())
        });
        // Nobody waits for the outcome but the next session, below.
        drop(closed.await);
        // Not before: whoever wants a lease of it waits for the answer, which is that it is gone.
        self.server.leases.leave(self.number);
        drop(serving);
        self.work.ended().await;
        self.leave_streams();
        self.leave_locks();
        end
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// As the free function, as work of this session, on a thread out of its client's share.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let under_way = self.work.begin();
        let threads = &self.server.shared.threads;
        let thread = threads.take(self.key, 1, REPLY_TIMEOUT).await;
        let thread = thread.ok_or_else(|| {
            let text = "the storage does not answer: all threads of this client wait for it";
            Error::new(ErrorKind::Exhausted, text)
        })?;
        let unwanted = self.unwanted.clone();
        blocking(move || {
            let done = unwanted.over(work);
            drop((thread, under_way));
            done
        })
        .await
    }

    /// Memory for a request and its reply. A session that gets none in time is closed, for it cannot go on; its
    /// client connects again, and asks again what was not answered.
    async fn memory(&self, bytes: u64) -> Result<Share, FrameError> {
        self.paid_by(&self.server.shared.replies, bytes).await
    }

    /// The same for the payload of a write.
    async fn memory_to_write(&self, bytes: u64) -> Result<Share, FrameError> {
        self.paid_by(&self.server.shared.writes, bytes).await
    }

    async fn paid_by(&self, pool: &Arc<FairPool>, bytes: u64) -> Result<Share, FrameError> {
        let share = pool.take(self.key, bytes, LANE_STALL_TIMEOUT).await;
        share.ok_or_else(|| {
            let text =
                "the server has no memory for this client: it does not take its replies, or it is not alone";
            self.end(End::new(CloseCode::Busy, text));
            FrameError::Lost(text.to_owned())
        })
    }

    fn nothing(&self) -> Share {
        self.server.shared.replies.nothing(self.key)
    }

    fn may_change(&self) -> Result<()> {
        if self.read_only {
            let text = "this client, or all of this server, is read-only";
            return Err(Error::new(ErrorKind::ReadOnly, text));
        }
        Ok(())
    }

    /// Closes the connection, unless that was done already; returns the first reason.
    ///
    /// Called while the streams are still there: dropping them queues frames, and quinn-proto 0.11.19
    /// lets its congestion control hold back a close behind queued frames, for ever. The client would
    /// learn nothing but that the connection is lost.
    fn end(&self, end: End) -> End {
        let end = self.ended.get_or_init(|| end).clone();
        self.left.get_or_init(|| self.was_left());
        self.unwanted.set();
        self.connection.close(end.code.code(), end.text.as_bytes());
        end
    }

    async fn serve(self: &Arc<Self>, features: Features, lanes: &mut JoinSet<()>) -> End {
        let mut events = std::pin::pin!(self.send_events(features));
        loop {
            tokio::select! {
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, receive)) => {
                        lanes.spawn(lane::run(Arc::clone(self), features, send, receive));
                    }
                    Err(error) => return End::new(CloseCode::Done, error.to_string()),
                },
                Some(ended) = lanes.join_next() => if let Err(error) = ended {
                    tracing::error!(session = self.number, %error, "a lane panicked: closing its session");
                    return End::new(CloseCode::Busy, "internal error of the server");
                },
                end = &mut events => return end,
            }
        }
    }

    /// Sends changes as they come, until the stream is lost or the client is too slow.
    async fn send_events(&self, features: Features) -> End {
        if !features.contains(Features::EVENTS) {
            return std::future::pending().await;
        }
        if features.contains(Features::LEASES) {
            self.server.leases.join(self.number, &self.party.events);
        }
        let mut stream = match self.connection.open_uni().await {
            Ok(stream) => stream,
            Err(error) => return End::new(CloseCode::Done, error.to_string()),
        };
        loop {
            let Ok(events) = self.party.events.take().await else {
                let text = "this client does not take its events; connect again";
                return self.end(End::new(CloseCode::Busy, text));
            };
            for event in events {
                let (kind, body) = (event.kind(), event.encode());
                let traffic = &self.counters.traffic;
                let Ok(share) = self.memory(EVENT_BYTES).await else {
                    return self.end(End::new(CloseCode::Busy, "no memory for an event; connect again"));
                };
                let share = Arc::new(share);
                let sent = frames::write_frame_held(
                    &mut stream,
                    traffic,
                    (kind, Code::Done, RequestId(0)),
                    Bytes::from(body),
                    Vec::new(),
                    |bytes| paid(bytes, &share),
                );
                if let Err(error) = sent.await {
                    return self.end(End::from(error));
                }
            }
            tokio::time::sleep(EVENT_PAUSE).await;
        }
    }

    /// The number of a volume that is about to be opened, and its place.
    fn next_handle(&self) -> Result<(Handle, Share)> {
        let place = self.server.shared.volumes.try_take(self.key, 1);
        let place = place.ok_or_else(|| {
            let why = "this client has its share of the open volumes of this server; close some, or give lacunad more --memory";
            Error::new(ErrorKind::Exhausted, why)
        })?;
        let mut handles = self.handles.lock();
        handles.room(self.server.bounds.session_handles_max)?;
        handles.last += 1;
        Ok((Handle(handles.last), place))
    }

    fn keep(&self, handle: Handle, open: OpenNode, place: Share) -> Result<()> {
        let mut handles = self.handles.lock();
        // Again: other lanes may have filled it meanwhile.
        handles.room(self.server.bounds.session_handles_max)?;
        self.note_stream(&open);
        if let Some(lease) = open.lease() {
            lease.tell(true);
        }
        handles.open.insert(handle, (Arc::new(open), place));
        self.counters.open_volumes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn node(&self, handle: Handle) -> Result<Arc<OpenNode>> {
        let node = self
            .handles
            .lock()
            .open
            .get(&handle)
            .map(|(node, _)| Arc::clone(node));
        node.ok_or_else(|| {
            Error::new(
                ErrorKind::Stale,
                format!("no volume is open as handle {}", handle.0),
            )
        })
    }

    /// Closes what was opened for a reply that the client does not want any more: it does not know the handle.
    async fn give_up(&self, handle: Handle) {
        if let Some(lease) = self.node(handle).ok().as_ref().and_then(|node| node.lease()) {
            lease.tell(false);
        }
        if let Err(error) = self.forget(handle).await {
            tracing::debug!(session = self.number, %error, "cannot close what nobody waits for any more");
        }
    }

    /// Closing the last descriptor of a removed volume frees its extents: that can take a while.
    async fn forget(&self, handle: Handle) -> Result<()> {
        let node = self.handles.lock().open.remove(&handle);
        let node =
            node.ok_or_else(|| Error::new(ErrorKind::Stale, format!("handle {} is not open", handle.0)))?;
        self.counters.open_volumes.fetch_sub(1, Ordering::Relaxed);
        self.leave_locks_of(&node.0);
        self.blocking(move || {
            drop(node);
            Ok(())
        })
        .await
    }
}

impl Handles {
    fn room(&self, handles_max: usize) -> Result<()> {
        if self.open.len() < handles_max {
            return Ok(());
        }
        let why = format!("{handles_max} volumes are open in this session; close some");
        Err(Error::new(ErrorKind::Exhausted, why))
    }
}

/// Runs `work` where it may block. A panic in it becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            tracing::error!(%error, "a request panicked");
            Err(Error::new(
                ErrorKind::Internal,
                "a bug in the server; its log has more",
            ))
        }
        Err(_) => Err(Error::new(ErrorKind::ShuttingDown, "the server is shutting down")),
    }
}
