//! A range of a volume in order, as data and holes, with many requests on their way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::limits::{READ_BYTES_MAX, READ_RANGES_MAX};
use lacuna_transport::range::ByteRange;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::volume::read::Gathered;
use crate::zeros::{self, Piece};

/// Steps planned ahead of the one that is taken: each is at least a hole between two reads.
const STEPS_MAX: usize = 1024;
/// A smaller hole between two extents of data does not end a request.
const JOINED_HOLE_BYTES_MAX: u64 = 16 << 10;
/// What the window counts in.
const WINDOW_UNIT_BYTES: u64 = 4096;

/// What is done for a part of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Hole(u64),
    /// One request for the data in it, so many bytes.
    Read(ByteRange, u64),
}

/// Plans requests for extents in order: each for as much data as one may carry, small holes included.
fn plan(extents: &[Extent]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // A hole that a request may go on behind.
    let mut gap = 0;
    let mut ranges = 0;
    for extent in extents {
        if extent.kind != ExtentKind::Data {
            gap += extent.range.len();
            continue;
        }
        let mut rest = extent.range;
        while !rest.is_empty() {
            let joined = match steps.last_mut() {
                Some(Step::Read(span, bytes))
                    if gap <= JOINED_HOLE_BYTES_MAX
                        && *bytes < u64::from(READ_BYTES_MAX)
                        && ranges < READ_RANGES_MAX =>
                {
                    let room = u64::from(READ_BYTES_MAX) - *bytes;
                    let (part, tail) = rest.split_at(rest.start().saturating_add(room));
                    *span = ByteRange::new(span.start(), part.end()).unwrap_or(*span);
                    *bytes += part.len();
                    rest = tail;
                    true
                }
                _ => false,
            };
            if joined {
                ranges += 1;
            } else {
                if gap > 0 {
                    steps.push(Step::Hole(gap));
                }
                let at = ByteRange::new(rest.start(), rest.start()).unwrap_or(ByteRange::EMPTY);
                steps.push(Step::Read(at, 0));
                ranges = 0;
            }
            gap = 0;
        }
    }
    if gap > 0 {
        steps.push(Step::Hole(gap));
    }
    steps
}

/// A step that has begun.
#[derive(Debug)]
enum Slot {
    Hole(u64),
    Read {
        span: ByteRange,
        gathered: JoinHandle<Result<Gathered>>,
        /// Room in the window, until the bytes are taken.
        room: OwnedSemaphorePermit,
    },
}

/// The content of a range of a volume, in order. Also an `AsyncRead`, to which holes are zeros.
///
/// What it gives is what was there when each part was read: a volume that somebody writes meanwhile may come
/// out half old.
#[derive(Debug)]
pub struct SparseReader {
    slots: mpsc::Receiver<Result<Slot>>,
    /// The slot that is waited for.
    waiting: Option<(ByteRange, JoinHandle<Result<Gathered>>, OwnedSemaphorePermit)>,
    /// Came with one request and were not taken yet.
    ready: VecDeque<Piece>,
    /// Keeps the window closed for what is in `ready`.
    room: Option<OwnedSemaphorePermit>,
    planner: JoinHandle<()>,
    /// Why it gives nothing any more: what comes behind a part that is missing is never taken for all of it.
    failed: Option<Error>,
}

impl Drop for SparseReader {
    fn drop(&mut self) {
        self.planner.abort();
    }
}

impl SparseReader {
    pub(super) fn new<R: Remote>(volume: Volume<R>, range: ByteRange) -> Self {
        let (sender, slots) = mpsc::channel(STEPS_MAX);
        let planner = tokio::spawn(async move {
            if let Err(error) = start_all(&volume, range, &sender).await {
                // Nobody waits for the rest any more if this fails.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            slots,
            waiting: None,
            ready: VecDeque::new(),
            room: None,
            planner,
            failed: None,
        }
    }

    /// The next piece, `None` at the end. Data comes in pieces of at most 1 MiB, a hole in one or more. Safe to
    /// cancel: nothing is lost. After an error it fails for ever.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        std::future::poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let piece = ready!(self.poll_next_piece(context));
        self.failed = piece.as_ref().err().cloned();
        Poll::Ready(piece)
    }

    fn poll_next_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Ok(Some(piece)));
            }
            self.room = None;
            if let Some((span, gathered, _)) = &mut self.waiting {
                let result = ready!(Pin::new(gathered).poll(context));
                let gathered =
                    result.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))??;
                if gathered.len() < span.len() {
                    let text = format!("the volume became shorter while {span} of it was read");
                    return Poll::Ready(Err(Error::new(ErrorKind::Io, text)));
                }
                self.ready = gathered.into_pieces().into();
                self.room = self.waiting.take().map(|(_, _, room)| room);
                continue;
            }
            match ready!(self.slots.poll_recv(context)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(Slot::Hole(len))) => return Poll::Ready(Ok(Some(Piece::Hole(len)))),
                Some(Ok(Slot::Read { span, gathered, room })) => self.waiting = Some((span, gathered, room)),
            }
        }
    }
}

/// Starts one request after the other, as the window allows.
async fn start_all<R: Remote>(
    volume: &Volume<R>,
    range: ByteRange,
    slots: &mpsc::Sender<Result<Slot>>,
) -> Result<()> {
    let units_max =
        usize::try_from(volume.window_bytes() / WINDOW_UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
    let window = Arc::new(Semaphore::new(units_max.min(Semaphore::MAX_PERMITS)));
    let closed = |_| Error::new(ErrorKind::Internal, "nobody reads any more");
    let mut rest = range;
    while !rest.is_empty() {
        let extents = volume.take_extents(&mut rest).await?;
        for step in plan(&extents) {
            let slot = match step {
                Step::Hole(len) => Slot::Hole(len),
                Step::Read(span, bytes) => {
                    let units = u32::try_from(bytes.div_ceil(WINDOW_UNIT_BYTES)).unwrap_or(u32::MAX);
                    let room = Arc::clone(&window).acquire_many_owned(units).await;
                    let room = room.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
                    let volume = volume.clone();
                    let read = async move { volume.fs().read_direct(volume.open_id(), span).await };
                    let gathered = tokio::spawn(read);
                    Slot::Read { span, gathered, room }
                }
            };
            slots.send(Ok(slot)).await.map_err(closed)?;
        }
    }
    Ok(())
}

impl AsyncRead for SparseReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let piece = match ready!(self.poll_piece(context)) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        let left = give(&piece, buffer);
        if !left.is_empty() {
            self.ready.push_front(left);
        }
        Poll::Ready(Ok(()))
    }
}

/// Fills `buffer` from the front of `piece` and gives back what is left of it.
fn give(piece: &Piece, buffer: &mut ReadBuf<'_>) -> Piece {
    match piece {
        Piece::Data(bytes) => {
            let len = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..len]);
            Piece::Data(bytes.slice(len..))
        }
        Piece::Hole(hole) => {
            let mut left = *hole;
            while left > 0 && buffer.remaining() > 0 {
                let zeros = zeros::at_hand(left);
                let zeros = &zeros[..zeros.len().min(buffer.remaining())];
                buffer.put_slice(zeros);
                left -= u64::try_from(zeros.len()).unwrap_or(left);
            }
            Piece::Hole(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(parts: &[(u64, ExtentKind)]) -> Vec<Extent> {
        let mut at = 0;
        let extent = |(len, kind): &(u64, ExtentKind)| {
            let range = ByteRange::at(at, *len).unwrap();
            at += len;
            Extent::new(range, *kind)
        };
        parts.iter().map(extent).collect()
    }

    fn read(start: u64, end: u64, bytes: u64) -> Step {
        Step::Read(ByteRange::new(start, end).unwrap(), bytes)
    }

    #[test]
    fn small_holes_do_not_end_a_request_and_large_ones_do() {
        use ExtentKind::{Data, Hole, Zero};
        let found = extents(&[
            (4096, Data),
            (8192, Hole),
            (4096, Data),
            (1 << 20, Zero),
            (4096, Data),
        ]);
        let base = 16384 + (1 << 20);
        assert_eq!(
            plan(&found),
            [
                read(0, 16384, 8192),
                Step::Hole(1 << 20),
                read(base, base + 4096, 4096)
            ]
        );
        assert_eq!(plan(&extents(&[(1 << 62, Hole)])), [Step::Hole(1 << 62)]);
    }

    #[test]
    fn no_request_is_larger_than_one_may_be() {
        use ExtentKind::{Data, Hole};
        let mib = u64::from(READ_BYTES_MAX);
        let large = plan(&extents(&[(5 * mib / 2, Data)]));
        assert_eq!(
            large,
            [
                read(0, mib, mib),
                read(mib, 2 * mib, mib),
                read(2 * mib, 5 * mib / 2, mib / 2)
            ]
        );
        let many: Vec<_> = (0..2000)
            .map(|index| (4096, if index % 2 == 0 { Data } else { Hole }))
            .collect();
        let steps = plan(&extents(&many));
        let mut data = 0;
        for step in &steps {
            if let Step::Read(span, bytes) = step {
                assert!(*bytes <= mib);
                let ranges = span.len().div_ceil(8192);
                assert!(ranges <= READ_RANGES_MAX as u64, "{ranges} ranges");
                data += bytes;
            }
        }
        assert_eq!(data, 1000 * 4096);
    }
}
