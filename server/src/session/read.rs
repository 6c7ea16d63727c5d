//! `Read`: bytes of one or more ranges, and the base they belong to: the generation of the latest change that
//! another than this session made. Its own changes, also those under way, are its own to order.
//!
//! The base is looked at before and after; if they differ the bytes are read again. A volume that
//! never stands still gets the base from *before* its bytes: whoever keeps them under that number
//! drops them when told of the next. (Bytes under a number from after them would stay wrong for ever.)

use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::id::Generation;
use lacuna_transport::quic::frames::FrameError;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::message::Features;
use lacuna_transport::wire::read::ReadRequest;

use super::Session;
use super::lane::Reply;
use crate::buffers::{self, Buffer, BufferPool};
use crate::catalog::OpenNode;
use crate::error::{Error, ErrorKind, Result};

const ATTEMPTS: usize = 3;
/// Memory for the ranges of a read and the head of its reply.
const HEAD_BYTES: u64 = 8 << 10;

/// What a request still needs: bytes from `filled` on of the buffer all ranges share.
struct Partial {
    buffer: Buffer,
    filled: usize,
    base: Generation,
}

impl Session {
    pub(super) async fn read(
        self: &Arc<Self>,
        request: ReadRequest,
        features: Features,
        reply: &mut Reply<'_>,
    ) -> Result<(), FrameError> {
        let offer = request.offer();
        if offer.is_some_and(|offer| !features.contains(offer.features())) {
            return Err(WireError::OutOfBounds("codec that this session does not have").into());
        }
        let bytes = usize::try_from(request.bytes()).unwrap_or(usize::MAX);
        let bytes = u64::try_from(buffers::cost(bytes)).unwrap_or(u64::MAX);
        reply.pay(HEAD_BYTES + bytes).await?;
        let node = match self.node(request.handle) {
            Ok(node) => node,
            Err(error) => return reply.failed(&error).await,
        };
        match self.read_bytes(&node, &request).await {
            Ok((base, payload)) => {
                let (packing, probe) = (&self.server.packing, node.shrinking());
                let (payload, codec) = packing.pack(offer, probe, &self.connection, vec![payload]).await;
                let head = Bytes::from(request.encode_reply_head(base, codec));
                reply.frame_of(Code::Done, head, payload).await
            }
            Err(error) => reply.failed(&error).await,
        }
    }

    async fn read_bytes(&self, node: &Arc<OpenNode>, request: &ReadRequest) -> Result<(Generation, Bytes)> {
        // What the page cache has is copied right here: a hand-over to another thread costs more.
        let begun = begin(&self.server.buffers, node, request)?;
        if begun.filled == begun.buffer.len() && node.is_still(begun.base) {
            return Ok((begun.base, Bytes::from_owner(begun.buffer)));
        }
        let (node, request) = (Arc::clone(node), request.clone());
        self.blocking(move || finish(&node, &request, begun)).await
    }
}

/// A read without its session and on this thread, also where it has to wait: for counting what it executes.
#[cfg(feature = "testing")]
pub fn read_here(
    buffers: &Arc<BufferPool>,
    node: &Arc<OpenNode>,
    request: &ReadRequest,
) -> Result<(Generation, Bytes)> {
    finish(node, request, begin(buffers, node, request)?)
}

/// Copies as much as can be had without waiting.
fn begin(buffers: &Arc<BufferPool>, node: &Arc<OpenNode>, request: &ReadRequest) -> Result<Partial> {
    let bytes = usize::try_from(request.bytes()).map_err(|_| {
        Error::new(
            ErrorKind::Exhausted,
            "a read is larger than the memory of this machine",
        )
    })?;
    let mut buffer = buffers.take(bytes);
    // Whoever is done with it looks: what was changed until then is noticed, before the read or during it.
    let base = node.last_base()?;
    let mut filled = 0;
    for range in request.ranges() {
        let slice = rest_of(&mut buffer, filled, range.len());
        let wanted = slice.len();
        let count = node.volume().read_cached(slice, range.start())?;
        filled += count;
        if count < wanted {
            break;
        }
    }
    Ok(Partial { buffer, filled, base })
}

/// Reads what is missing, and all of it again while the volume changes. Blocks.
fn finish(node: &Arc<OpenNode>, request: &ReadRequest, begun: Partial) -> Result<(Generation, Bytes)> {
    let Partial {
        mut buffer,
        mut filled,
        mut base,
    } = begun;
    if let [_, rest @ ..] = missing(request, filled) {
        node.volume().will_read(rest);
    }
    let mut attempt = 1;
    loop {
        let mut at = 0;
        for range in request.ranges() {
            let slice = rest_of(&mut buffer, at, range.len());
            let len = slice.len();
            let skip = filled.saturating_sub(at).min(len);
            if skip < len {
                let offset = u64::try_from(skip)
                    .ok()
                    .and_then(|skip| range.start().checked_add(skip));
                let offset =
                    offset.ok_or_else(|| Error::new(ErrorKind::Invalid, "a read ends beyond any volume"))?;
                node.volume().read_at(&mut slice[skip..], offset)?;
            }
            at += len;
        }
        let now = node.look()?.base;
        if now == base || attempt == ATTEMPTS {
            return Ok((base, Bytes::from_owner(buffer)));
        }
        tracing::trace!("a volume changed while it was read: reading again");
        (filled, base) = (0, now);
        attempt += 1;
    }
}

/// The ranges of which the first `filled` bytes of the reply do not have all.
fn missing(request: &ReadRequest, filled: usize) -> &[ByteRange] {
    let mut left = u64::try_from(filled).unwrap_or(u64::MAX);
    let is_filled = |range: &&ByteRange| {
        let whole = left >= range.len();
        left = left.saturating_sub(range.len());
        whole
    };
    let whole = request.ranges().iter().take_while(is_filled).count();
    &request.ranges()[whole..]
}

/// The `len` bytes of `buffer` from `at`. The ranges of a request fill it exactly.
fn rest_of(buffer: &mut Buffer, at: usize, len: u64) -> &mut [u8] {
    let end = usize::try_from(len).map_or(buffer.len(), |len| (at + len).min(buffer.len()));
    &mut buffer[at..end]
}
