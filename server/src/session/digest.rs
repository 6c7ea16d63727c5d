//! `Digest`: hashes of units of a volume, and the base they belong to, as with a read.
//!
//! Holes and zeros are not read. The bytes go through one buffer of a bounded size, and of all sessions
//! together only so many digests are made at once: the others wait, without a thread.

use std::sync::Arc;

use lacuna_transport::digest::{InUnits, UnitHash};
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::id::Generation;
use lacuna_transport::limits::{DIGEST_UNITS_MAX, REPLY_TIMEOUT};
use lacuna_transport::quic::frames::FrameError;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::digest::{DigestRequest, encode_reply};

use super::Session;
use super::lane::Reply;
use crate::backend::OpenVolume;
use crate::buffers::BufferPool;
use crate::catalog::OpenNode;
use crate::error::{Error, ErrorKind, Result};

/// As a read is made again. After the last attempt the hashes go out as of the base before them.
const ATTEMPTS: usize = 3;
/// Read at once: few calls for each mebibyte, and the bytes are still in the processor's cache when they are hashed.
const PIECE_BYTES: u64 = 256 << 10;
/// Extents asked of the backend at once.
const RUNS_MAX: usize = 1024;
/// Memory of one digest: the piece, the extents, the hashes and the reply with them.
const DIGEST_BYTES: u64 = PIECE_BYTES + (64 << 10) + 2 * DIGEST_UNITS_MAX * 32;

impl Session {
    pub(super) async fn digest(
        self: &Arc<Self>,
        request: DigestRequest,
        reply: &mut Reply<'_>,
    ) -> Result<(), FrameError> {
        reply.pay(DIGEST_BYTES).await?;
        let body = self.hashes(request).await;
        reply.done(body).await
    }

    async fn hashes(&self, request: DigestRequest) -> Result<Vec<u8>> {
        let node = self.node(request.handle)?;
        let permit = self.server.shared.digests.take(self.key, 1, REPLY_TIMEOUT).await;
        let permit = permit.ok_or_else(|| Error::new(ErrorKind::Exhausted, "other digests take too long"))?;
        let buffers = Arc::clone(&self.server.buffers);
        let work = move || {
            // Held until the work has ended, whoever still waits for it.
            let _budget = permit;
            hash(&node, &request, &buffers)
        };
        let (base, hashes) = self.blocking(work).await?;
        Ok(encode_reply(base, &hashes))
    }
}

/// The hashes, again while others change the volume. Blocks.
fn hash(
    node: &OpenNode,
    request: &DigestRequest,
    buffers: &Arc<BufferPool>,
) -> Result<(Generation, Vec<UnitHash>)> {
    let mut buffer = buffers.take(in_memory(request.range().len().min(PIECE_BYTES))?);
    let mut base = node.look()?.base;
    let mut attempt = 1;
    loop {
        let hashes = hash_once(node.volume(), request, &mut buffer)?;
        let now = node.look()?.base;
        if now == base || attempt == ATTEMPTS {
            return Ok((base, hashes));
        }
        tracing::trace!("a volume changed while it was hashed: hashing again");
        base = now;
        attempt += 1;
    }
}

fn hash_once(volume: &dyn OpenVolume, request: &DigestRequest, buffer: &mut [u8]) -> Result<Vec<UnitHash>> {
    let mut hashes = InUnits::new(request.how, request.offset(), request.unit_bytes());
    let mut rest = request.range();
    while !rest.is_empty() {
        let extents = volume.extents(rest, RUNS_MAX)?;
        if extents.is_empty() {
            // Beyond the end.
            hashes.zeros(rest.len());
            break;
        }
        for extent in extents {
            match extent.kind {
                ExtentKind::Hole | ExtentKind::Zero => hashes.zeros(extent.range.len()),
                ExtentKind::Data => hash_data(volume, extent.range, buffer, &mut hashes)?,
            }
            rest = rest.split_at(extent.range.end()).1;
        }
    }
    Ok(hashes.finish())
}

fn hash_data(
    volume: &dyn OpenVolume,
    range: ByteRange,
    buffer: &mut [u8],
    hashes: &mut InUnits,
) -> Result<()> {
    let mut rest = range;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.start().saturating_add(PIECE_BYTES));
        let bytes = &mut buffer[..in_memory(piece.len())?];
        volume.read_at(bytes, piece.start())?;
        hashes.data(bytes);
        rest = after;
    }
    Ok(())
}

fn in_memory(len: u64) -> Result<usize> {
    let text = "a digest needs more than the memory of this machine";
    usize::try_from(len).map_err(|_| Error::new(ErrorKind::Exhausted, text))
}
