//! From a volume to a local target.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::digest::{Digest, DigestKind};
use lacuna_transport::range::ByteRange;
use tokio::sync::mpsc;

use super::compare::{self, Found};
use super::target::Target;
use super::{Hasher, QUEUE_PIECES_MAX, Tally, interrupted, thread_lost};
use crate::client::Volume;
use crate::error::Result;
use crate::remote::Remote;
use crate::zeros::Piece;

/// What is made with the target.
#[derive(Debug)]
enum Move {
    Put(Piece),
    /// It is there already.
    Keep(Bytes),
}

/// What to pull, and how.
#[derive(Debug)]
pub struct Pull {
    pub range: ByteRange,
    pub digest: Option<DigestKind>,
    /// What is in the target is compared first, and left where it is the same.
    pub compare: Option<Compare>,
    pub tally: Arc<Tally>,
}

/// The content of the target before.
#[derive(Debug)]
pub struct Compare {
    pub old: File,
    pub old_bytes: u64,
    /// Fetch no more than the blocks that differ, not the whole unit they are in.
    pub blocks: bool,
}

/// How it ended: the digest of what passed, and the target, for a message.
type Written = (Option<Digest>, io::Result<()>);

/// Pulls. When `stop` resolves, what came is made durable and the transfer ends with `Interrupted`.
pub async fn pull<R: Remote>(
    volume: &Volume<R>,
    job: Pull,
    target: Box<dyn Target>,
    name: &str,
    stop: impl Future<Output = ()>,
) -> Result<Option<Digest>> {
    Tally::add(&job.tally.total_bytes, job.range.len());
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES_MAX);
    let hasher = Hasher::new(job.digest);
    let tally = Arc::clone(&job.tally);
    let writer = tokio::task::spawn_blocking(move || write_all(receiver, target, hasher, &tally));
    let fetched = tokio::select! {
        fetched = fetch_all(volume, job, &sender) => fetched,
        () = stop => Err(interrupted()),
    };
    let moved = match fetched {
        Ok(()) => sender.send(None).await.map_err(|_| interrupted()),
        Err(error) => Err(error),
    };
    drop(sender);
    let (digest, written) = writer.await.map_err(|error| thread_lost(&error))?;
    // A target that failed ends the fetching too: its error is the cause.
    written.map_err(|error| super::local::failed("write", name, &error))?;
    moved.map(|()| digest)
}

/// Writes what comes, until `None` says that it was all.
fn write_all(
    mut moves: mpsc::Receiver<Option<Move>>,
    mut target: Box<dyn Target>,
    mut hasher: Hasher,
    tally: &Tally,
) -> Written {
    while let Some(next) = moves.blocking_recv() {
        let done = match next {
            None => return (hasher.finish(), target.finish()),
            Some(Move::Put(piece)) => {
                hasher.piece(&piece);
                let counter = match &piece {
                    Piece::Data(_) => &tally.data_bytes,
                    Piece::Hole(_) => &tally.hole_bytes,
                };
                target.put(&piece).inspect(|()| Tally::add(counter, piece.len()))
            }
            Some(Move::Keep(bytes)) => {
                let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                hasher.piece(&Piece::Data(bytes));
                target.keep(len).inspect(|()| Tally::add(&tally.same_bytes, len))
            }
        };
        if let Err(error) = done {
            return (None, Err(error));
        }
    }
    (None, target.break_off())
}

type Moves = mpsc::Sender<Option<Move>>;

async fn send(moves: &Moves, next: Move) -> Result<()> {
    moves.send(Some(next)).await.map_err(|_| interrupted())
}

async fn fetch_all<R: Remote>(volume: &Volume<R>, job: Pull, moves: &Moves) -> Result<()> {
    match job.compare {
        Some(compare) => fetch_different(volume, job.range, compare, moves).await,
        None => {
            let mut reader = volume.reader(job.range.start()..job.range.end())?;
            while let Some(piece) = reader.next().await? {
                send(moves, Move::Put(piece)).await?;
            }
            Ok(())
        }
    }
}

/// Fetches what differs from the old content of the target, several units at once.
async fn fetch_different<R: Remote>(
    volume: &Volume<R>,
    range: ByteRange,
    compare: Compare,
    moves: &Moves,
) -> Result<()> {
    let old = Arc::new(compare.old);
    let mut under_way = VecDeque::new();
    let mut units = compare::Units::new(volume.clone(), range);
    loop {
        while under_way.len() < compare::UNITS_MAX
            && let Some(found) = units.next().await?
        {
            let task = match found {
                Found::Hole(len) => Unit::Hole(len),
                Found::Data(unit) => {
                    let here = ByteRange::at_saturating(unit.start() - range.start(), unit.len());
                    let task = if here.end() > compare.old_bytes {
                        // Nothing of it is there yet, or not all.
                        tokio::spawn(fetch(volume.clone(), unit))
                    } else {
                        tokio::spawn(fetch_unit(
                            volume.clone(),
                            unit,
                            Arc::clone(&old),
                            here,
                            compare.blocks,
                        ))
                    };
                    Unit::Data(task)
                }
            };
            under_way.push_back(task);
        }
        match under_way.pop_front() {
            None => return Ok(()),
            Some(Unit::Hole(len)) => send(moves, Move::Put(Piece::Hole(len))).await?,
            Some(Unit::Data(task)) => {
                for next in task.await.map_err(|error| thread_lost(&error))?? {
                    send(moves, next).await?;
                }
            }
        }
    }
}

enum Unit {
    Hole(u64),
    Data(tokio::task::JoinHandle<Result<Vec<Move>>>),
}

async fn fetch<R: Remote>(volume: Volume<R>, range: ByteRange) -> Result<Vec<Move>> {
    let pieces = volume
        .fs()
        .read_direct(volume.open_id(), range)
        .await?
        .into_pieces();
    Ok(pieces.into_iter().map(Move::Put).collect())
}

/// Fetches of a unit what differs from `here` in the old content.
async fn fetch_unit<R: Remote>(
    volume: Volume<R>,
    unit: ByteRange,
    old: Arc<File>,
    here: ByteRange,
    blocks: bool,
) -> Result<Vec<Move>> {
    let read = move || {
        let mut bytes = vec![0; usize::try_from(here.len()).unwrap_or(0)];
        old.read_exact_at(&mut bytes, here.start())
            .map(|()| Bytes::from(bytes))
    };
    let bytes = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| thread_lost(&error))?;
    let Ok(bytes) = bytes else {
        return fetch(volume, unit).await;
    };
    let mut moves = Vec::new();
    for (part, same) in compare::differences(&volume, unit, &bytes, blocks).await? {
        if same {
            moves.push(Move::Keep(compare::part_of(&bytes, unit, part)));
        } else {
            moves.extend(fetch(volume.clone(), part).await?);
        }
    }
    Ok(moves)
}
