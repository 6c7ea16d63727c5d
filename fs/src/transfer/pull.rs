//! From a volume to a local target.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lacuna_transport::digest::{Digest, DigestKind};
use lacuna_transport::range::ByteRange;
use tokio::sync::mpsc;

use super::compare::{self, Found};
use super::target::Target;
use super::{Hasher, QUEUE_PIECES_MAX, Sparse, Tally, interrupted, thread_lost};
use crate::client::Volume;
use crate::error::Result;
use crate::remote::Remote;
use crate::zeros::{self, Piece};

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
    pub sparse: Sparse,
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

/// Holes that take time, because they are written or hashed as zeros, are taken in parts of this many bytes, so
/// that progress is shown and an end is noticed.
const HOLE_PART_BYTES: u64 = 256 << 20;
/// So much data is written at once, if it is there.
const RUN_BYTES_MAX: u64 = 1 << 20;
/// How long a pipe that nobody reads may hold up an end that the user wants.
const LEAVE_AFTER: Duration = Duration::from_millis(100);

/// How the writing ended.
#[derive(Debug)]
enum Written {
    /// All came; the digest of it.
    Whole(Option<Digest>),
    BrokenOff,
}

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
    let may_block = target.may_block();
    let stopped = Arc::new(AtomicBool::new(false));
    let writer = Writer {
        slow_holes: target.writes_holes() || job.digest == Some(DigestKind::Blake3),
        target,
        find_zeros: job.sparse == Sparse::Always,
        left: job.range.len(),
        at: 0,
        run: Vec::new(),
        run_bytes: 0,
        hasher: Hasher::new(job.digest),
        tally: Arc::clone(&job.tally),
        stopped: Arc::clone(&stopped),
    };
    let mut writer = tokio::task::spawn_blocking(move || writer.write_all(receiver));
    let both = async {
        let moved = match fetch_all(volume, job, &sender).await {
            Ok(()) => sender.send(None).await.map_err(|_| interrupted()),
            Err(error) => Err(error),
        };
        drop(sender);
        (moved, (&mut writer).await)
    };
    let ended = tokio::select! {
        ended = both => Some(ended),
        () = stop => None,
    };
    let (moved, written) = match ended {
        Some(ended) => ended,
        None => {
            stopped.store(true, Ordering::Relaxed);
            // Nothing can end a write to a pipe that nobody reads: it is left alone.
            let limit = if may_block { LEAVE_AFTER } else { Duration::MAX };
            match tokio::time::timeout(limit, writer).await {
                Ok(written) => (Err(interrupted()), written),
                Err(_) => return Err(interrupted()),
            }
        }
    };
    // A target that failed ends the fetching too: its error is the cause.
    let written = written
        .map_err(|error| thread_lost(&error))?
        .map_err(|error| super::local::failed("write", name, &error))?;
    match written {
        Written::Whole(digest) => Ok(digest),
        Written::BrokenOff => Err(moved.err().unwrap_or_else(interrupted)),
    }
}

/// The side of the target.
struct Writer {
    target: Box<dyn Target>,
    /// Data may be zeros too.
    find_zeros: bool,
    at: u64,
    /// Bytes still to come.
    left: u64,
    /// Data that came and is to be written together, before anything else and before this waits.
    run: Vec<Bytes>,
    run_bytes: u64,
    hasher: Hasher,
    tally: Arc<Tally>,
    /// The user wants an end.
    stopped: Arc<AtomicBool>,
    slow_holes: bool,
}

impl Writer {
    /// Writes what comes, until `None` says that it was all.
    fn write_all(mut self, mut moves: mpsc::Receiver<Option<Move>>) -> io::Result<Written> {
        while let Some(next) = self.next(&mut moves)? {
            match next {
                None => {
                    self.write_run()?;
                    self.target.finish()?;
                    return Ok(Written::Whole(self.hasher.finish()));
                }
                Some(Move::Put(Piece::Hole(len))) => self.hole(len)?,
                Some(Move::Put(Piece::Data(bytes))) if self.find_zeros => {
                    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    for piece in zeros::split(self.at, &bytes, self.left == len) {
                        match piece {
                            Piece::Hole(len) => self.hole(len)?,
                            Piece::Data(bytes) => self.data(bytes)?,
                        }
                    }
                }
                Some(Move::Put(Piece::Data(bytes))) => self.data(bytes)?,
                Some(Move::Keep(bytes)) => {
                    self.write_run()?;
                    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.hasher.piece(&Piece::Data(bytes));
                    self.target.keep(len)?;
                    Tally::add(&self.tally.same_bytes, len);
                    self.advance(len);
                }
            }
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        self.write_run()?;
        self.target.break_off().map(|()| Written::BrokenOff)
    }

    /// What came already, or what comes: then nothing that came is held back meanwhile.
    fn next(&mut self, moves: &mut mpsc::Receiver<Option<Move>>) -> io::Result<Option<Option<Move>>> {
        if let Ok(next) = moves.try_recv() {
            return Ok(Some(next));
        }
        self.write_run()?;
        Ok(moves.blocking_recv())
    }

    fn write_run(&mut self) -> io::Result<()> {
        if !self.run.is_empty() {
            self.target.put_run(&self.run)?;
            Tally::add(&self.tally.data_bytes, self.run_bytes);
            self.run.clear();
            self.run_bytes = 0;
        }
        Ok(())
    }

    fn advance(&mut self, len: u64) {
        self.at += len;
        self.left = self.left.saturating_sub(len);
    }

    fn data(&mut self, bytes: Bytes) -> io::Result<()> {
        let piece = Piece::Data(bytes);
        self.hasher.piece(&piece);
        let len = piece.len();
        if let Piece::Data(bytes) = piece {
            self.run.push(bytes);
        }
        self.run_bytes += len;
        self.advance(len);
        if self.run_bytes >= RUN_BYTES_MAX {
            self.write_run()?;
        }
        Ok(())
    }

    fn hole(&mut self, len: u64) -> io::Result<()> {
        let most = if self.slow_holes {
            HOLE_PART_BYTES
        } else {
            u64::MAX
        };
        self.write_run()?;
        let mut left = len;
        while left > 0 && !self.stopped.load(Ordering::Relaxed) {
            let part = left.min(most);
            self.hasher.piece(&Piece::Hole(part));
            self.target.put(&Piece::Hole(part))?;
            Tally::add(&self.tally.hole_bytes, part);
            self.advance(part);
            left -= part;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests;
