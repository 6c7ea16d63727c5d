//! Frames on QUIC streams, with deadlines and counted bytes.
//!
//! Nothing here waits for ever: a frame that has begun must end within [`LANE_STALL_TIMEOUT`].
//!
//! **Frames go out in the order they were begun, and small ones are let in front** of 16 MiB of large ones. Left alone, QUIC
//! takes turns between all streams, so that ten replies of 1 MiB end at the same time: whoever wants the first waits for all, then
//! asks for the next ten while nothing is under way. This holds for what QUIC has taken: a stream that waits for room in
//! the peer's window stands in no order.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes};
use quinn::{RecvStream, SendStream};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::id::RequestId;
use crate::limits::LANE_STALL_TIMEOUT;
use crate::wire::WireError;
use crate::wire::frame::{Code, HEADER_BYTES, Header, Kind, Sender};

/// Largest slice handed to QUIC at once: one that waits is charged whole to the send window.
const WRITE_SLICE_BYTES: usize = 128 << 10;
/// More than anybody waits for at once: reads of the kernel, small reads that are made together. Larger ones are fetched ahead.
const SMALL_FRAME_BYTES: usize = 256 << 10;
/// So much of what was begun before lets a small frame pass, and a large one waits for no more than this of small ones that come after it.
const HEAD_START_BYTES: u64 = 16 << 20;
/// Unit of the order: frames of one mebibyte take turns. In units of bytes an `i32` would begin anew too soon.
const ORDER_SHIFT: u32 = 20;

/// Stream bytes of a session, headers of frames included, those of QUIC and UDP not.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Bytes of all frames that were begun: the clock of their order.
    begun: AtomicU64,
}

impl Traffic {
    /// The priority of a frame that begins now. After 2 PiB it begins anew, and those that are still under way then go out when
    /// nothing else does, or their session ends.
    fn begin(&self, frame_bytes: usize) -> i32 {
        let bytes = u64::try_from(frame_bytes).unwrap_or(u64::MAX);
        let begun = self.begun.fetch_add(bytes, Ordering::Relaxed);
        let units = |bytes: u64| i32::try_from((bytes >> ORDER_SHIFT) & 0x7fff_ffff).unwrap_or(i32::MAX);
        let head_start = if frame_bytes <= SMALL_FRAME_BYTES {
            units(HEAD_START_BYTES)
        } else {
            0
        };
        head_start - units(begun)
    }

    fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Why a frame did not arrive or leave.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream or its connection is gone.
    #[error("the stream ended: {0}")]
    Lost(String),
    /// The peer sent what it must not; the session is over.
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the peer stalled for {} s in the middle of a frame", LANE_STALL_TIMEOUT.as_secs())]
    Stalled,
}

impl From<quinn::WriteError> for FrameError {
    fn from(error: quinn::WriteError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<quinn::ReadExactError> for FrameError {
    fn from(error: quinn::ReadExactError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<quinn::ReadError> for FrameError {
    fn from(error: quinn::ReadError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Sends one frame whose body is in memory.
pub async fn write_frame(
    stream: &mut SendStream,
    traffic: &Traffic,
    kind: Kind,
    code: Code,
    request: RequestId,
    body: Vec<u8>,
) -> Result<(), FrameError> {
    write_frame_parts(
        stream,
        traffic,
        kind,
        code,
        request,
        Bytes::from(body),
        Bytes::new(),
    )
    .await
}

/// Sends one frame whose body is `head` followed by `payload`, without joining them.
pub async fn write_frame_parts(
    stream: &mut SendStream,
    traffic: &Traffic,
    kind: Kind,
    code: Code,
    request: RequestId,
    head: Bytes,
    payload: Bytes,
) -> Result<(), FrameError> {
    let payload = if payload.is_empty() { vec![] } else { vec![payload] };
    write_frame_pieces(stream, traffic, kind, code, request, head, payload).await
}

/// Sends one frame whose body is `head` followed by all of `payload`, without joining them.
pub async fn write_frame_pieces(
    stream: &mut SendStream,
    traffic: &Traffic,
    kind: Kind,
    code: Code,
    request: RequestId,
    head: Bytes,
    payload: Vec<Bytes>,
) -> Result<(), FrameError> {
    write_frame_held(stream, traffic, (kind, code, request), head, payload, |bytes| {
        bytes
    })
    .await
}

/// As [`write_frame_pieces`]; `hold` may wrap each piece of memory, to learn when QUIC has let go of it.
pub async fn write_frame_held(
    stream: &mut SendStream,
    traffic: &Traffic,
    (kind, code, request): (Kind, Code, RequestId),
    head: Bytes,
    payload: Vec<Bytes>,
    hold: impl Fn(Bytes) -> Bytes,
) -> Result<(), FrameError> {
    let payload_bytes = payload.iter().map(Bytes::len).sum::<usize>();
    let body_bytes = u32::try_from(head.len() + payload_bytes).map_err(|_| WireError::OutOfBounds("body"))?;
    let header = Header {
        body_bytes,
        kind,
        code,
        request,
    }
    .encode();
    // Small frames leave in one write: one wake-up of the connection, not two.
    let mut first = Vec::with_capacity(HEADER_BYTES + head.len());
    first.extend_from_slice(&header);
    first.extend_from_slice(&head);
    let write = async {
        let frame_bytes = first.len() + payload_bytes;
        Traffic::add(&traffic.sent, frame_bytes);
        // Nothing of an earlier frame is left on a stream that begins another. One that is gone says so when it is written to.
        stream.set_priority(traffic.begin(frame_bytes)).ok();
        let mut slices = Vec::with_capacity(1 + payload.len());
        slices.push(hold(Bytes::from(first)));
        for piece in payload {
            let mut piece = hold(piece);
            while !piece.is_empty() {
                slices.push(piece.split_to(piece.len().min(WRITE_SLICE_BYTES)));
            }
        }
        stream.write_all_chunks(&mut slices).await
    };
    Ok(timeout(LANE_STALL_TIMEOUT, write)
        .await
        .map_err(|_| FrameError::Stalled)??)
}

/// Waits for the next header; `None` if the peer ended the stream between two frames.
///
/// Waiting for the first byte has no deadline of its own (a lane may idle); the caller sets one.
pub async fn read_header(
    stream: &mut RecvStream,
    traffic: &Traffic,
    sender: Sender,
) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; HEADER_BYTES];
    let Some(first) = stream.read(&mut bytes).await? else {
        return Ok(None);
    };
    if first < HEADER_BYTES {
        timeout(LANE_STALL_TIMEOUT, stream.read_exact(&mut bytes[first..]))
            .await
            .map_err(|_| FrameError::Stalled)??;
    }
    Traffic::add(&traffic.received, HEADER_BYTES);
    Ok(Some(Header::decode(&bytes, sender)?))
}

/// Reads the body of a frame whole. Its length was bounded when the header was decoded.
pub async fn read_body(
    stream: &mut RecvStream,
    traffic: &Traffic,
    header: &Header,
) -> Result<Vec<u8>, FrameError> {
    let len = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
    read_bytes(stream, traffic, len).await
}

/// Reads the next `len` bytes, which the caller has bounded, into memory that is not zeroed first.
pub async fn read_bytes(
    stream: &mut RecvStream,
    traffic: &Traffic,
    len: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(len);
    let read = async {
        while bytes.len() < len {
            let missing = len - bytes.len();
            let mut rest = (&mut bytes).limit(missing);
            let count = stream.read_buf(&mut rest).await;
            if count.map_err(|error| FrameError::Lost(error.to_string()))? == 0 {
                return Err(FrameError::Lost("it ended early".to_owned()));
            }
        }
        Ok(())
    };
    timeout(LANE_STALL_TIMEOUT, read)
        .await
        .map_err(|_| FrameError::Stalled)??;
    Traffic::add(&traffic.received, len);
    Ok(bytes)
}

/// Fills `buffer` from the stream.
pub async fn read_exact(
    stream: &mut RecvStream,
    traffic: &Traffic,
    buffer: &mut [u8],
) -> Result<(), FrameError> {
    if !buffer.is_empty() {
        timeout(LANE_STALL_TIMEOUT, stream.read_exact(buffer))
            .await
            .map_err(|_| FrameError::Stalled)??;
        Traffic::add(&traffic.received, buffer.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::task::JoinSet;

    use super::*;
    use crate::quic::endpoint;
    use crate::quic::identity::Identity;

    const MIB: usize = 1 << 20;

    #[test]
    fn frames_are_in_order_and_small_ones_have_a_head_start() {
        let traffic = Traffic::default();
        let large: Vec<i32> = (0..3).map(|_| traffic.begin(MIB)).collect();
        assert_eq!(large, [0, -1, -2]);
        assert_eq!(traffic.begin(SMALL_FRAME_BYTES), 13, "in front of all three");
        assert_eq!(traffic.begin(SMALL_FRAME_BYTES + 1), -3);
    }

    /// However many small ones come, a large one has its turn.
    #[test]
    fn a_large_frame_waits_for_no_more_than_the_head_start() {
        let traffic = Traffic::default();
        let large = traffic.begin(MIB);
        let mut passed = 0;
        while traffic.begin(SMALL_FRAME_BYTES) > large {
            passed += SMALL_FRAME_BYTES;
        }
        assert_eq!(passed + MIB, usize::try_from(HEAD_START_BYTES).unwrap());
    }

    #[test]
    fn the_order_begins_anew_after_two_pebibytes() {
        let traffic = Traffic::default();
        traffic.begun.store((1 << 51) - 1, Ordering::Relaxed);
        assert_eq!(traffic.begin(MIB), -i32::MAX);
        assert_eq!(traffic.begin(MIB), 0);
    }

    /// Of frames that are there at the same time, the last has nothing sent when the first is complete.
    #[tokio::test]
    async fn a_large_frame_does_not_wait_for_the_next_ones() {
        const FRAMES: usize = 6;
        const FRAME_BYTES: usize = MIB;
        let identity = Identity::generate();
        let server = endpoint::open_server(&identity, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = server.local_addr().unwrap();
        let client = endpoint::client(address).unwrap();
        let (config, _) = endpoint::client_config(&identity, identity.id());
        let connecting = client
            .connect_with(config, address, crate::quic::tls::SERVER_NAME)
            .unwrap();
        let accepting = async { server.accept().await.unwrap().await.unwrap() };
        let (connection, accepted) = tokio::join!(connecting, accepting);
        let connection = connection.unwrap();

        // Each reader counts what it has, and the first one looks at the last when it has all.
        let counts: Arc<[AtomicUsize; FRAMES]> = Arc::default();
        let mut readers = JoinSet::new();
        let mut senders = Vec::new();
        for number in 0..FRAMES {
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            send.write_all(b"lane").await.unwrap();
            senders.push((send, accepted.accept_bi().await.unwrap()));
            let counts = Arc::clone(&counts);
            readers.spawn(async move {
                let len = HEADER_BYTES + FRAME_BYTES;
                while counts[number].load(Ordering::Relaxed) < len {
                    let chunk = receive.read_chunk(len, true).await.unwrap().unwrap();
                    counts[number].fetch_add(chunk.bytes.len(), Ordering::Relaxed);
                }
                (number == 0).then(|| counts[FRAMES - 1].load(Ordering::Relaxed))
            });
        }
        let traffic = Traffic::default();
        for (_, (send, _)) in &mut senders {
            let payload = vec![Bytes::from(vec![7; FRAME_BYTES])];
            write_frame_pieces(
                send,
                &traffic,
                Kind::Read,
                Code::Done,
                RequestId(1),
                Bytes::new(),
                payload,
            )
            .await
            .unwrap();
        }
        let seen: Vec<usize> = readers.join_all().await.into_iter().flatten().collect();
        assert!(seen.len() == 1 && seen[0] < FRAME_BYTES / 2, "{seen:?}");
    }
}
