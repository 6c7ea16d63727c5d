//! From a local source into a volume.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::digest::{Digest, DigestKind};
use lacuna_transport::range::ByteRange;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::compare;
use super::range::PushPlan;
use super::source::Source;
use super::{Hasher, QUEUE_PIECES_MAX, Sparse, Tally, interrupted, local, thread_lost};
use crate::client::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::zeros::Piece;

/// What to push, and how.
#[derive(Debug)]
pub struct Push {
    pub plan: PushPlan,
    pub sparse: Sparse,
    pub digest: Option<DigestKind>,
    /// What is in the volume is compared first, and left where it is the same; `true`: block by block.
    pub compare: Option<bool>,
    pub tally: Arc<Tally>,
}

/// What was pushed.
#[derive(Clone, Copy, Debug)]
pub struct Pushed {
    pub range: ByteRange,
    pub digest: Option<Digest>,
}

/// Pushes, and has all of it flushed. When `stop` resolves, what was taken in is flushed and the transfer ends
/// with `Interrupted`.
pub async fn push<R: Remote>(
    volume: &Volume<R>,
    job: Push,
    source: Box<dyn Source>,
    name: &str,
    stop: impl Future<Output = ()>,
) -> Result<Pushed> {
    let plan = job.plan;
    if plan.exact {
        Tally::add(&job.tally.total_bytes, plan.range.len());
    }
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES_MAX);
    let hasher = Hasher::new(job.digest);
    let name = name.to_owned();
    let told = name.clone();
    let reader = tokio::task::spawn_blocking(move || read_all(source, &sender, hasher, plan, &told));
    let written = tokio::select! {
        written = write_all(volume, &job, receiver) => written,
        () = stop => Err(interrupted()),
    };
    // A source that failed ends the writing too: its error is the cause. One that still waits for a pipe is
    // left alone: nothing can end its read.
    if written.is_err() {
        volume.flush().await.ok();
        written?;
    }
    let (bytes, digest) = reader.await.map_err(|error| thread_lost(&error))??;
    if plan.exact && bytes < plan.range.len() {
        let wanted = plan.range.len();
        let text = format!("{name} ended early: {bytes} of {wanted} bytes arrived; they are in the volume");
        volume.flush().await?;
        return Err(Error::new(ErrorKind::Io, text));
    }
    let range = plan.range.split_at(plan.range.start().saturating_add(bytes)).0;
    if plan.fit_size && volume.size() != range.end() {
        volume.resize(range.end()).await?;
    }
    volume.flush().await?;
    Ok(Pushed { range, digest })
}

/// Reads the source to its end, or to the end of what is wanted; tells how many bytes that was.
fn read_all(
    mut source: Box<dyn Source>,
    pieces: &mpsc::Sender<Piece>,
    mut hasher: Hasher,
    plan: PushPlan,
    name: &str,
) -> Result<(u64, Option<Digest>)> {
    let mut bytes = 0_u64;
    while let Some(piece) = source
        .next()
        .map_err(|error| local::failed("read", name, &error))?
    {
        let left = plan.range.len() - bytes;
        if piece.len() > left && !plan.exact {
            let text = format!(
                "{name} has more than the {} bytes from {} to the end of the volume (--resize makes it larger)",
                plan.range.len(),
                plan.range.start()
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let piece = front(piece, left);
        if piece.is_empty() {
            break;
        }
        hasher.piece(&piece);
        bytes += piece.len();
        if pieces.blocking_send(piece).is_err() {
            return Err(interrupted());
        }
    }
    Ok((bytes, hasher.finish()))
}

/// The first `len` bytes of a piece.
fn front(piece: Piece, len: u64) -> Piece {
    match piece {
        Piece::Hole(hole) => Piece::Hole(hole.min(len)),
        Piece::Data(bytes) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
            Piece::Data(bytes.slice(..len))
        }
    }
}

/// Puts what comes into the volume.
async fn write_all<R: Remote>(
    volume: &Volume<R>,
    job: &Push,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<()> {
    let mut at = job.plan.range.start();
    // Units that are compared, in the order of their bytes.
    let mut compared: VecDeque<JoinHandle<Result<u64>>> = VecDeque::new();
    while let Some(piece) = pieces.recv().await {
        let range = ByteRange::at_saturating(at, piece.len());
        at = range.end();
        match (piece, job.compare) {
            (Piece::Hole(_), _) => {
                match job.sparse {
                    Sparse::Never => volume.zero_later(range).await?,
                    Sparse::Auto | Sparse::Always => volume.punch_later(range).await?,
                }
                Tally::add(&job.tally.hole_bytes, range.len());
            }
            (Piece::Data(bytes), None) => {
                volume.write(range.start(), &bytes).await?;
                Tally::add(&job.tally.data_bytes, range.len());
            }
            (Piece::Data(bytes), Some(blocks)) => {
                if compared.len() == compare::UNITS_MAX {
                    take_first(&mut compared).await?;
                }
                let (volume, tally) = (volume.clone(), Arc::clone(&job.tally));
                compared.push_back(tokio::spawn(async move {
                    write_different(&volume, range, &bytes, blocks, &tally).await
                }));
            }
        }
    }
    while !compared.is_empty() {
        take_first(&mut compared).await?;
    }
    Ok(())
}

async fn take_first(compared: &mut VecDeque<JoinHandle<Result<u64>>>) -> Result<()> {
    if let Some(task) = compared.pop_front() {
        task.await.map_err(|error| thread_lost(&error))??;
    }
    Ok(())
}

/// Writes what of a unit the volume does not have; tells how many bytes.
async fn write_different<R: Remote>(
    volume: &Volume<R>,
    range: ByteRange,
    bytes: &Bytes,
    blocks: bool,
    tally: &Tally,
) -> Result<u64> {
    let inside = range.end() <= volume.size();
    let parts = if inside {
        compare::differences(volume, range, bytes, blocks).await?
    } else {
        vec![(range, false)]
    };
    let mut written = 0;
    for (part, same) in parts {
        if same {
            Tally::add(&tally.same_bytes, part.len());
        } else {
            volume
                .write(part.start(), &compare::part_of(bytes, range, part))
                .await?;
            Tally::add(&tally.data_bytes, part.len());
            written += part.len();
        }
    }
    Ok(written)
}
