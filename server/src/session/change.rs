//! Changes of open volumes: write, reshape, resize, copy, flush, set attributes.
//!
//! A request has an effect once it is here whole, never before: the payload of a write is received into memory
//! of a bounded budget, then applied in one go on the blocking pool.

use std::sync::Arc;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::Handle;
use lacuna_transport::quic::frames::{self, FrameError};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::frame::Header;
use lacuna_transport::wire::message::{
    Copied, CopyRequest, Features, FlushRequest, Reshape, ReshapeRequest, ResizeRequest, SetAttrRequest,
    Subject,
};
use lacuna_transport::wire::write::{Flush, HEAD_BYTES, WriteRequest};
use quinn::RecvStream;

use super::Session;
use crate::buffers::{self, Buffer};
use crate::catalog::events::hull;
use crate::catalog::{Change, OpenNode};
use crate::error::{Error, ErrorKind, Result};
use crate::fair::pool::Share;

/// A write that has arrived whole.
#[derive(Debug)]
pub(super) struct Received {
    request: WriteRequest,
    payload: Buffer,
    _share: Share,
}

impl Session {
    /// Receives the body of a write and unpacks its payload. Its parts are what the header says, or the session is
    /// over.
    pub(super) async fn receive_write(
        &self,
        receive: &mut RecvStream,
        header: &Header,
        features: Features,
    ) -> Result<Received, FrameError> {
        let traffic = &self.counters.traffic;
        let body_bytes = usize::try_from(header.body_bytes).unwrap_or(usize::MAX);
        let mut fixed = [0; HEAD_BYTES];
        let after_fixed = body_bytes.checked_sub(HEAD_BYTES);
        let after_fixed = after_fixed.ok_or(WireError::Truncated)?;
        frames::read_exact(receive, traffic, &mut fixed).await?;
        let ranges_bytes = WriteRequest::ranges_bytes(&fixed)?;
        let payload_bytes = after_fixed.checked_sub(ranges_bytes);
        let payload_bytes = payload_bytes.ok_or(WireError::Truncated)?;
        let mut head = vec![0; HEAD_BYTES + ranges_bytes];
        head[..HEAD_BYTES].copy_from_slice(&fixed);
        frames::read_exact(receive, traffic, &mut head[HEAD_BYTES..]).await?;
        let request = WriteRequest::decode_head(&head)?;
        let payload_u32 = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
        request.check_payload(payload_u32)?;
        let codec = request.codec();
        if codec.is_some_and(|codec| !features.contains(codec.feature())) {
            return Err(WireError::OutOfBounds("codec that this session does not have").into());
        }
        if request.flush().is_some() && !features.contains(Features::WRITE_FLUSH) {
            return Err(WireError::OutOfBounds("flush that this session does not have").into());
        }
        let bytes = usize::try_from(request.bytes()).unwrap_or(usize::MAX);
        // What is packed is there together with what it unpacks to.
        let needed = buffers::cost(bytes) + codec.map_or(0, |_| payload_bytes);
        let share = self.memory_to_write(u64::try_from(needed).unwrap_or(u64::MAX));
        let share = share.await?;
        let mut payload = self.server.buffers.take(bytes);
        match codec {
            None => frames::read_exact(receive, traffic, &mut payload).await?,
            Some(codec) => {
                let packed = frames::read_bytes(receive, traffic, payload_bytes).await?;
                payload = self.server.packing.unpack(codec, packed, payload).await?;
            }
        }
        Ok(Received {
            request,
            payload,
            _share: share,
        })
    }

    pub(super) async fn write(self: &Arc<Self>, received: Received) -> Result<Attr> {
        let node = self.node_to_change(received.request.handle)?;
        self.blocking(move || {
            let ranges = received.request.ranges();
            let all = ranges.iter().copied().reduce(hull).unwrap_or(ByteRange::EMPTY);
            let ((), attr) = node.change(
                |before| touched(before, all),
                |volume| {
                    let mut left: &[u8] = &received.payload;
                    for range in ranges {
                        let len = usize::try_from(range.len()).map_or(left.len(), |len| len.min(left.len()));
                        let (bytes, rest) = left.split_at(len);
                        volume.write_at(bytes, range.start())?;
                        left = rest;
                    }
                    Ok(())
                },
            )?;
            // Here, and not in a hand-over of its own: who asks for it waits for both.
            if let Some(flush) = received.request.flush() {
                node.flush(flush == Flush::Data)?;
            }
            Ok(attr)
        })
        .await
    }

    /// Of several ranges the first may be done when a later one fails: whoever asks again asks for all of them.
    pub(super) async fn reshape(self: &Arc<Self>, request: ReshapeRequest) -> Result<Attr> {
        let node = self.node_to_change(request.handle)?;
        self.blocking(move || {
            let all = request.ranges().reduce(hull).unwrap_or(ByteRange::EMPTY);
            let ((), attr) = node.change(
                |before| touched(before, all),
                |volume| match request.how {
                    Reshape::Punch => request.ranges().try_for_each(|range| volume.punch(range)),
                    Reshape::Zero => volume.zero(all, request.grow),
                    Reshape::Allocate => volume.allocate(all, request.grow),
                },
            )?;
            Ok(attr)
        })
        .await
    }

    pub(super) async fn resize(self: &Arc<Self>, request: ResizeRequest) -> Result<Attr> {
        let node = self.node_to_change(request.handle)?;
        self.blocking(move || {
            let beyond = |before: &Attr| {
                let end = before.size.min(request.size);
                ByteRange::new(end, u64::MAX).unwrap_or(ByteRange::ALL)
            };
            let ((), attr) = node.change(beyond, |volume| volume.resize(request.size))?;
            Ok(attr)
        })
        .await
    }

    pub(super) async fn copy(self: &Arc<Self>, request: CopyRequest) -> Result<Copied> {
        let target = self.node_to_change(request.target)?;
        let source = self.node(request.source)?;
        let from = ByteRange::at_saturating(request.source_offset, request.length);
        let to = ByteRange::at_saturating(request.target_offset, request.length);
        if source.is_same(&target) && from.overlaps(to) {
            let text = format!("cannot copy {from} to {to} of the same volume: they overlap");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let backend = Arc::clone(&self.server.backend);
        self.blocking(move || {
            let (bytes, attr) = target.change(
                |before| touched(before, to),
                |volume| backend.copy(source.volume(), from, volume, to.start()),
            )?;
            if bytes > 0 {
                target.flush(false)?;
            }
            Ok(Copied { bytes, attr })
        })
        .await
    }

    /// Changes nothing that can be read: a handle opened for reading will do.
    pub(super) async fn flush(self: &Arc<Self>, request: FlushRequest) -> Result<Attr> {
        let node = self.node(request.handle)?;
        self.blocking(move || {
            node.flush(request.data_only)?;
            node.look()
        })
        .await
    }

    /// Of an open volume or of what a path names; as fchmod(2), through a handle opened for reading too.
    pub(super) async fn set_attr(self: &Arc<Self>, request: SetAttrRequest) -> Result<Attr> {
        self.may_change()?;
        let new = request.attr;
        match request.subject {
            Subject::Open(handle) => {
                let node = self.node(handle)?;
                self.blocking(move || node.set_attr(&new)).await
            }
            Subject::Path(path) => {
                let (server, session) = (Arc::clone(&self.server), self.party.session);
                self.blocking(move || {
                    let before = server.backend.stat(&path)?;
                    let change = server.catalog.change_attr(&before, session);
                    let attr = server.backend.set_attr(&path, &new);
                    let ended = change.map(Change::end).transpose();
                    let attr = attr?;
                    ended?;
                    Ok(server.catalog.with_generation(attr, session))
                })
                .await
            }
        }
    }

    fn node_to_change(&self, handle: Handle) -> Result<Arc<OpenNode>> {
        self.may_change()?;
        let node = self.node(handle)?;
        if !node.is_for_change() {
            let text = format!("handle {} was opened for reading", handle.0);
            return Err(Error::new(ErrorKind::Denied, text));
        }
        Ok(node)
    }
}

/// What a change of `range` can change: with it, what lies between the end before and its start.
fn touched(before: &Attr, range: ByteRange) -> ByteRange {
    let start = range.start().min(before.size);
    if range.end() > before.size {
        ByteRange::new(start, range.end()).unwrap_or(range)
    } else {
        range
    }
}
