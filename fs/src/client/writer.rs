//! A range of a volume written in order, as data and holes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use lacuna_transport::range::ByteRange;
use tokio::io::AsyncWrite;

use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::remote::quic::QuicRemote;
use crate::zeros::{self, Piece};

/// Most bytes that one `poll_write` takes.
const TAKEN_BYTES_MAX: usize = 1 << 20;

type Work<R> = Pin<Box<dyn Future<Output = (Cursor<R>, Result<()>)> + Send>>;

/// Takes the content of a range in order. Also an `AsyncWrite`, which finds the zeros in what it is given;
/// its `shutdown` is [`Self::finish`].
///
/// Writes are taken in while the window of the client has room, and are on stable storage after
/// [`Self::finish`].
///
/// ```no_run
/// use lacuna::client::{Access, Client};
/// use tokio::io::AsyncWriteExt;
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let from = client.open("debian.raw", Access::Read).await?;
/// let to = client.create("copy.raw", from.size()).await?;
/// // As data and holes: a hole is one piece of any length.
/// let mut pieces = from.reader(0..1 << 30)?;
/// let mut writer = to.writer(0..1 << 30)?;
/// while let Some(piece) = pieces.next().await? {
///     writer.write(piece).await?;
/// }
/// writer.finish().await?;
/// // As bytes alone, for programs that know nothing else: zeros become holes again.
/// let mut bytes = from.reader(1 << 30..from.size())?;
/// let mut writer = to.writer(1 << 30..from.size())?;
/// tokio::io::copy(&mut bytes, &mut writer).await?;
/// writer.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub struct SparseWriter<R: Remote = QuicRemote> {
    state: State<R>,
}

enum State<R: Remote> {
    Idle(Cursor<R>),
    Busy(Work<R>),
    /// Busy with the flush of a shutdown.
    Flushing(Work<R>),
    /// A call was dropped or failed in the middle: what of it was written is not known.
    Lost,
}

#[derive(Debug)]
struct Cursor<R: Remote> {
    volume: Volume<R>,
    /// What is left to be written.
    rest: ByteRange,
}

impl<R: Remote> std::fmt::Debug for SparseWriter<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparseWriter").finish_non_exhaustive()
    }
}

impl<R: Remote> Cursor<R> {
    async fn put(&mut self, piece: &Piece) -> Result<()> {
        let (part, rest) = self.rest.split_at(self.rest.start().saturating_add(piece.len()));
        if part.len() < piece.len() {
            let text = format!(
                "{} bytes at {} go beyond the end of the range, {}",
                piece.len(),
                self.rest.start(),
                self.rest.end()
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        match piece {
            Piece::Data(bytes) => self.volume.write(part.start(), bytes).await?,
            Piece::Hole(_) => self.volume.punch_later(part).await?,
        }
        self.rest = rest;
        Ok(())
    }

    async fn put_bytes(&mut self, bytes: &Bytes) -> Result<()> {
        let is_end = self.rest.len() == u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        for piece in zeros::split(self.rest.start(), bytes, is_end) {
            self.put(&piece).await?;
        }
        Ok(())
    }
}

impl<R: Remote> SparseWriter<R> {
    pub(super) fn new(volume: Volume<R>, range: ByteRange) -> Self {
        Self {
            state: State::Idle(Cursor { volume, rest: range }),
        }
    }

    /// Writes data, or makes a hole that frees what was there, and goes on behind it.
    pub async fn write(&mut self, piece: Piece) -> Result<()> {
        let mut cursor = self.idle().await?;
        let written = cursor.put(&piece).await;
        self.state = State::Idle(cursor);
        written
    }

    /// Returns when all of it is on the server's stable storage.
    pub async fn finish(mut self) -> Result<()> {
        self.idle().await?.volume.flush().await
    }

    /// Takes the cursor, once what is under way has ended.
    async fn idle(&mut self) -> Result<Cursor<R>> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(cursor) => Ok(cursor),
            State::Busy(work) | State::Flushing(work) => {
                let (cursor, result) = work.await;
                result.map(|()| cursor)
            }
            State::Lost => Err(lost()),
        }
    }

    /// Waits for the work under way.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.state {
            State::Idle(_) => Poll::Ready(Ok(())),
            State::Busy(work) | State::Flushing(work) => {
                let (cursor, result) = ready!(work.as_mut().poll(context));
                self.state = State::Idle(cursor);
                Poll::Ready(result)
            }
            State::Lost => Poll::Ready(Err(lost())),
        }
    }

    /// Begins work, as [`State::Busy`] or [`State::Flushing`], once nothing else is under way.
    fn begin(&mut self, work: impl FnOnce(Cursor<R>) -> State<R>) {
        self.state = match std::mem::replace(&mut self.state, State::Lost) {
            State::Idle(cursor) => work(cursor),
            other => other,
        };
    }
}

fn lost() -> Error {
    let text = "a write was given up half way: write the range again from its beginning";
    Error::new(ErrorKind::Internal, text)
}

impl<R: Remote> AsyncWrite for SparseWriter<R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_idle(context))?;
        let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(TAKEN_BYTES_MAX)]);
        let len = bytes.len();
        self.begin(|mut cursor| {
            State::Busy(Box::pin(async move {
                let result = cursor.put_bytes(&bytes).await;
                (cursor, result)
            }))
        });
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(context).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.state, State::Flushing(_)) {
            ready!(self.poll_idle(context))?;
            self.begin(|cursor| {
                State::Flushing(Box::pin(async move {
                    let result = cursor.volume.flush().await;
                    (cursor, result)
                }))
            });
        }
        self.poll_idle(context).map_err(Into::into)
    }
}
