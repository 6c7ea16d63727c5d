//! Lanes: request streams of one session, one request in flight on each.
//!
//! A lane goes back to the pool only after a reply was read to its end; whoever gives up half way
//! drops the lane, and with it whatever is still to come on it. The last one used is used next, so that
//! a single reader stays on one stream. At most [`LANES_MAX`] exist at once; further requests wait.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lacuna_transport::id::RequestId;
use lacuna_transport::limits::{LANES_KEPT, LANES_MAX, REPLY_TIMEOUT};
use lacuna_transport::quic::busy_poll::{BusyPoll, UnderWay};
use lacuna_transport::quic::frames::{self, FrameError, Traffic};
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::session::RequestError;

/// Lanes that writes may use at once: enough to fill a path, and they leave the reads theirs.
const LANES_WRITING: u32 = 24;

/// Lanes that digests may use at once: as many as a server makes, and the next ones on their way. More would
/// wait there for longer than a reply may take.
const LANES_DIGESTING: u32 = 8;

#[derive(Debug)]
struct Lane {
    /// In front, so that it is dropped first: the server is to hear that the reply is not wanted before it hears that
    /// nothing more is asked, for then it undoes what it opened.
    receive: RecvStream,
    send: SendStream,
}

#[derive(Debug)]
pub struct Lanes {
    connection: quinn::Connection,
    idle: Mutex<Vec<Lane>>,
    free: Semaphore,
    /// A read needs one of these too.
    free_reads: Semaphore,
    /// And a write one of these.
    free_writes: Semaphore,
    /// And a digest one of these.
    free_digests: Semaphore,
    next_request: AtomicU64,
    busy_poll: BusyPoll,
}

/// A request under way on its lane.
#[derive(Debug)]
pub struct Exchange<'a> {
    lanes: &'a Lanes,
    lane: Lane,
    traffic: &'a Traffic,
    kind: Kind,
    request: RequestId,
    permit: (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>),
    _under_way: UnderWay,
}

impl Lanes {
    pub fn new(connection: quinn::Connection, busy_poll: BusyPoll) -> Self {
        let permits = |lanes| Semaphore::new(usize::try_from(lanes).unwrap_or(1));
        Self {
            connection,
            idle: Mutex::default(),
            free: permits(LANES_MAX),
            free_reads: permits(LANES_MAX - LANES_KEPT),
            free_writes: permits(LANES_WRITING),
            free_digests: permits(LANES_DIGESTING),
            next_request: AtomicU64::new(1),
            busy_poll,
        }
    }

    /// Sends a request on a free lane.
    pub async fn request<'a>(
        &'a self,
        traffic: &'a Traffic,
        kind: Kind,
        body: Vec<u8>,
    ) -> Result<Exchange<'a>, RequestError> {
        self.request_with(traffic, kind, Bytes::from(body), Vec::new())
            .await
    }

    /// Sends a request whose body goes on with `payload`.
    pub async fn request_with<'a>(
        &'a self,
        traffic: &'a Traffic,
        kind: Kind,
        head: Bytes,
        payload: Vec<Bytes>,
    ) -> Result<Exchange<'a>, RequestError> {
        let closed = |_| RequestError::lost("the session is closed");
        let bulk = match kind {
            Kind::Read => Some(self.free_reads.acquire().await.map_err(closed)?),
            Kind::Write => Some(self.free_writes.acquire().await.map_err(closed)?),
            Kind::Digest => Some(self.free_digests.acquire().await.map_err(closed)?),
            _ => None,
        };
        let permit = (self.free.acquire().await.map_err(closed)?, bulk);
        let idle = self.idle.lock().pop();
        let mut lane = match idle {
            Some(lane) => lane,
            None => {
                let (send, receive) = self.connection.open_bi().await.map_err(RequestError::lost)?;
                Lane { receive, send }
            }
        };
        let under_way = self.busy_poll.begin();
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        let send = &mut lane.send;
        frames::write_frame_pieces(send, traffic, kind, Code::Done, request, head, payload).await?;
        Ok(Exchange {
            lanes: self,
            lane,
            traffic,
            kind,
            request,
            permit,
            _under_way: under_way,
        })
    }
}

impl<'a> Exchange<'a> {
    /// The header of the next frame of the reply. A failure reply is an error, after which the lane is
    /// free again.
    pub async fn header(mut self) -> Result<(Header, Self), RequestError> {
        let header = frames::read_header(&mut self.lane.receive, self.traffic, Sender::Server);
        let header = tokio::time::timeout(REPLY_TIMEOUT, header).await;
        let header = header.map_err(|_| RequestError::lost("no reply"))??;
        let header = header.ok_or_else(|| RequestError::lost("the server ended the lane"))?;
        if header.kind != self.kind || header.request != self.request {
            let (expected, got) = (self.kind.word(), header.kind.word());
            return Err(FrameError::Wire(WireError::Unexpected { expected, got }).into());
        }
        if let Code::Failed(code) = header.code {
            let (text, exchange) = self.body(&header).await?;
            exchange.done();
            return Err(RequestError::Failed(
                code,
                String::from_utf8_lossy(&text).into_owned(),
            ));
        }
        Ok((header, self))
    }

    /// The body of a frame, whole.
    pub async fn body(mut self, header: &Header) -> Result<(Vec<u8>, Self), RequestError> {
        let body = frames::read_body(&mut self.lane.receive, self.traffic, header).await?;
        Ok((body, self))
    }

    /// The next `len` bytes of a body.
    pub async fn take(&mut self, len: usize) -> Result<Vec<u8>, RequestError> {
        Ok(frames::read_bytes(&mut self.lane.receive, self.traffic, len).await?)
    }

    /// The reply was read to its end: the lane can be used again.
    pub fn done(self) {
        self.lanes.idle.lock().push(self.lane);
        drop(self.permit);
    }
}
