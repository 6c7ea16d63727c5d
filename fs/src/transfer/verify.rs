//! The digest of what the server has.

use std::collections::VecDeque;

use lacuna_transport::digest::{Digest, DigestKind, InOrder, Tree, UNIT_BYTES, UNIT_LOG2, UnitHash, Units};
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::limits::DIGEST_BYTES_MAX;
use lacuna_transport::range::ByteRange;
use tokio::sync::mpsc;

use super::thread_lost;
use crate::client::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Remote, UnitRange};
use crate::zeros::Piece;

/// Requests at once: the server hashes with as many threads as it has cores.
const REQUESTS_MAX: usize = 4;
/// A smaller hole between two units does not end a request: the server tells of it without reading.
const JOINED_HOLE_BYTES_MAX: u64 = 1 << 20;
/// More zeros than this are not hashed to make a digest that nobody asked for by name: about half a second.
pub const HASHED_HOLE_BYTES_MAX: u64 = 1 << 30;

/// The digest for a transfer of so many bytes of holes, if nobody chose one.
pub fn kind_for(hole_bytes: u64) -> DigestKind {
    if hole_bytes <= HASHED_HOLE_BYTES_MAX {
        DigestKind::Blake3
    } else {
        DigestKind::Tree
    }
}

/// The digest of a range as the server has it, made there; a server that knows no digests has its bytes read.
/// What was written here must be flushed before.
pub async fn digest_of<R: Remote>(volume: &Volume<R>, range: ByteRange, kind: DigestKind) -> Result<Digest> {
    match ask(volume, range, kind).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => read(volume, range, kind).await,
        other => other,
    }
}

async fn ask<R: Remote>(volume: &Volume<R>, range: ByteRange, kind: DigestKind) -> Result<Digest> {
    let units = Units::new(kind, range.len());
    let (hashed, receiver) = mpsc::channel(REQUESTS_MAX);
    // Zeros are hashed here, and may be many.
    let folded = tokio::task::spawn_blocking(move || fold(Tree::new(kind, range.len()), receiver));
    let mut under_way = VecDeque::new();
    let mut wanted = wanted(volume, range, units).await?.into_iter();
    loop {
        while under_way.len() < REQUESTS_MAX
            && let Some(part) = wanted.next()
        {
            let volume = volume.clone();
            let asked = UnitRange {
                origin: range.start(),
                range: part,
                unit_log2: UNIT_LOG2,
                how: units.hashing(),
            };
            under_way.push_back((part, tokio::spawn(async move { volume.digest(asked).await })));
        }
        let Some((part, task)) = under_way.pop_front() else {
            break;
        };
        let hashes = task.await.map_err(|error| thread_lost(&error))??;
        let first = (part.start() - range.start()) / UNIT_BYTES;
        // Fails only if that thread is gone, which is told below.
        hashed.send((first, hashes)).await.ok();
    }
    drop(hashed);
    folded.await.map_err(|error| thread_lost(&error))
}

/// Takes the hashes of runs of units, each with the index of its first, in order.
fn fold(mut tree: Tree, mut hashed: mpsc::Receiver<(u64, Vec<UnitHash>)>) -> Digest {
    while let Some((first, hashes)) = hashed.blocking_recv() {
        for (index, hash) in (first..).zip(hashes) {
            tree.set(index, hash);
        }
    }
    tree.finish()
}

/// The units with data, joined to ranges that one request covers.
async fn wanted<R: Remote>(volume: &Volume<R>, range: ByteRange, units: Units) -> Result<Vec<ByteRange>> {
    let mut wanted: Vec<ByteRange> = Vec::new();
    let mut rest = range;
    while !rest.is_empty() {
        let extents = volume.take_extents(&mut rest).await?;
        let data = extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
        for extent in data {
            let (first, last) = (
                (extent.range.start() - range.start()) / UNIT_BYTES,
                (extent.range.end() - 1 - range.start()) / UNIT_BYTES,
            );
            for index in first..=last {
                let unit = units.range(index);
                let at = |offset: u64| offset.saturating_add(range.start());
                let unit = ByteRange::new(at(unit.start()), at(unit.end())).unwrap_or(ByteRange::EMPTY);
                match wanted.last_mut() {
                    Some(before) if before.end() > unit.start() => {}
                    Some(before)
                        if unit.start() - before.end() <= JOINED_HOLE_BYTES_MAX
                            && unit.end() - before.start() <= DIGEST_BYTES_MAX =>
                    {
                        *before = ByteRange::new(before.start(), unit.end()).unwrap_or(*before);
                    }
                    _ => wanted.push(unit),
                }
            }
        }
    }
    Ok(wanted)
}

async fn read<R: Remote>(volume: &Volume<R>, range: ByteRange, kind: DigestKind) -> Result<Digest> {
    let mut digest = InOrder::new(kind);
    let mut reader = volume.reader(range.start()..range.end())?;
    while let Some(piece) = reader.next().await? {
        match piece {
            Piece::Data(bytes) => digest.data(&bytes),
            Piece::Hole(len) => digest.zeros(len),
        }
    }
    Ok(digest.finish())
}

/// An error unless both ends have the same.
pub fn compare(here: Digest, there: Digest, what: &str) -> Result<()> {
    if here == there {
        return Ok(());
    }
    let text =
        format!("{what}: the two ends differ: {here} here, {there} at the server; was it written meanwhile?");
    Err(Error::new(ErrorKind::Io, text))
}
