//! Frames on QUIC streams, with deadlines and counted bytes.
//!
//! Nothing here waits for ever: a frame that has begun must end within [`LANE_STALL_TIMEOUT`].
//!
//! **Small frames go first, and bulk one after the other.** Left alone, QUIC takes turns between all streams, so that ten replies of
//! 1 MiB end at the same time: whoever wants the first waits for all, then asks for the next ten while nothing is under way.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
/// Payloads of so many bytes are bulk.
const BULK_BYTES_MIN: usize = 64 << 10;
/// What streams have by themselves, and frames that are not bulk.
const PRIORITY_FIRST: i32 = 0;

/// Stream bytes of a session, headers of frames included, those of QUIC and UDP not.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    bulk_frames: AtomicU32,
}

impl Traffic {
    /// The priority of a frame: of bulk, the one that began first. It begins anew after two thousand million of them, which
    /// is out of order once.
    fn priority(&self, payload_bytes: usize) -> i32 {
        if payload_bytes < BULK_BYTES_MIN {
            return PRIORITY_FIRST;
        }
        let number = self.bulk_frames.fetch_add(1, Ordering::Relaxed) & i32::MAX.cast_unsigned();
        -1 - number.cast_signed()
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
        Traffic::add(&traffic.sent, first.len() + payload_bytes);
        // Nothing of an earlier frame is left on a stream that begins another. One that is gone says so when it is written to.
        stream.set_priority(traffic.priority(payload_bytes)).ok();
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
    use super::*;

    #[test]
    fn bulk_goes_in_order_and_behind_what_is_small() {
        let traffic = Traffic::default();
        let bulk: Vec<i32> = (0..3).map(|_| traffic.priority(BULK_BYTES_MIN)).collect();
        assert_eq!(bulk, [-1, -2, -3]);
        assert_eq!(traffic.priority(BULK_BYTES_MIN - 1), PRIORITY_FIRST);
        traffic
            .bulk_frames
            .store(i32::MAX.cast_unsigned(), Ordering::Relaxed);
        assert_eq!(traffic.priority(1 << 20), i32::MIN);
        assert_eq!(traffic.priority(1 << 20), -1, "anew");
    }
}
