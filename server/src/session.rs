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
mod list;
mod lock;
mod map;
mod name;
mod read;
mod stream;
mod work;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lacuna_transport::id::{Handle, RequestId};
use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::quic::frames::{self, FrameError, Traffic};
use lacuna_transport::quic::identity::KeyId;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::message::Features;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::work::Work;
use crate::backend::stream::Stream;
use crate::catalog::events::EventQueue;
use crate::catalog::{OpenNode, Party};
use crate::error::{Error, ErrorKind, Result};
use crate::operations::InstanceKey;
use crate::serve::Server;

/// Changes are collected for so long, so that a volume under constant change costs 20 events a second.
const EVENT_PAUSE: Duration = Duration::from_millis(50);
/// Listings of one session in memory at once: they can be large, and a client may take them slowly.
const LISTINGS_MAX: usize = 2;

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
    number: u64,
    read_only: bool,
    counters: Arc<Counters>,
    handles: Mutex<Handles>,
    party: Party,
    /// Set by a hello.
    features: OnceLock<Features>,
    /// Set by a hello that names one.
    instance: OnceLock<InstanceKey>,
    work: Work,
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
    open: HashMap<Handle, Arc<OpenNode>>,
}

impl Session {
    pub(crate) fn new(
        server: Arc<Server>,
        connection: Connection,
        key: KeyId,
        number: u64,
        read_only: bool,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            connection,
            key,
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
            work: Work::new(),
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
        let closed = self.blocking(move || {
            drop(open);
            Ok(())
        });
        // Nobody waits for the outcome but the next session, below.
        drop(closed.await);
        drop(serving);
        self.work.ended().await;
        self.leave_streams();
        self.leave_locks();
        end
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// As the free function, as work of this session.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let under_way = self.work.begin();
        blocking(move || {
            let done = work();
            drop(under_way);
            done
        })
        .await
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
                let traffic = &self.counters.traffic;
                let sent = frames::write_frame(
                    &mut stream,
                    traffic,
                    event.kind(),
                    Code::Done,
                    RequestId(0),
                    event.encode(),
                );
                if let Err(error) = sent.await {
                    return self.end(End::from(error));
                }
            }
            tokio::time::sleep(EVENT_PAUSE).await;
        }
    }

    fn next_handle(&self) -> Result<Handle> {
        let mut handles = self.handles.lock();
        handles.room(self.server.bounds.session_handles_max)?;
        handles.last += 1;
        Ok(Handle(handles.last))
    }

    fn keep(&self, handle: Handle, open: OpenNode) -> Result<()> {
        let mut handles = self.handles.lock();
        // Again: other lanes may have filled it meanwhile.
        handles.room(self.server.bounds.session_handles_max)?;
        self.note_stream(&open);
        handles.open.insert(handle, Arc::new(open));
        self.counters.open_volumes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn node(&self, handle: Handle) -> Result<Arc<OpenNode>> {
        let node = self.handles.lock().open.get(&handle).map(Arc::clone);
        node.ok_or_else(|| {
            Error::new(
                ErrorKind::Stale,
                format!("no volume is open as handle {}", handle.0),
            )
        })
    }

    /// Closing the last descriptor of a removed volume frees its extents: that can take a while.
    async fn forget(&self, handle: Handle) -> Result<()> {
        let node = self.handles.lock().open.remove(&handle);
        let node =
            node.ok_or_else(|| Error::new(ErrorKind::Stale, format!("handle {} is not open", handle.0)))?;
        self.counters.open_volumes.fetch_sub(1, Ordering::Relaxed);
        self.leave_locks_of(&node);
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
