//! Calls on the content of volumes.

use std::ops::Range;
use std::sync::Arc;

use lacuna::error::{ErrorKind, Result};
use lacuna::file_system::OpenId;
use lacuna::file_system::changes::Reach;
use lacuna::overlay::Content;
use lacuna::volume::map::Whence;
use lacuna::volume::write::WriteNow;
use lacuna_transport::attr::NewAttr;
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::id::NodeId;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use tokio::time::Instant;

use super::{Actor, Limit, Role, Told};
use crate::history::{BLOCK_CELLS, CELL_BYTES, History, Outcome, Tag, TurnId, ZEROS, fill, tag_of};

/// Most cells of one write.
const WRITE_CELLS_MAX: u64 = 12;
/// More extents than a volume can have.
const EXTENTS_MAX: usize = 1024;

/// A volume that is open for writing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    pub(super) volume: usize,
    pub(super) turn: TurnId,
    pub(super) open: OpenId,
    id: NodeId,
}

impl Actor {
    /// A volume that it has open for writing.
    pub(super) fn writing(&self, volume: usize) -> Option<Writing> {
        let handle = self.handles[volume].as_ref()?;
        let Role::Writes(turn) = handle.role else {
            return None;
        };
        Some(Writing {
            volume,
            turn,
            open: handle.open,
            id: handle.id,
        })
    }

    /// Does something with a volume that it has open for writing.
    pub(super) async fn writer_step(&mut self, volume: usize) -> Result<(), ErrorKind> {
        let Some(to) = self.writing(volume) else {
            return Ok(());
        };
        match self.random.below(100) {
            0..38 => self.write(to).await,
            38..58 => {
                self.read(volume).await;
                Ok(())
            }
            58..68 => {
                self.look_at_map(volume).await;
                Ok(())
            }
            68..80 => self.flush(volume, to.turn, to.open).await,
            80..84 => self.drain(volume, to.turn, to.open).await,
            84..94 => self.reshape(to).await,
            94..97 => self.void(to).await,
            // By its path, so it is not a change of the turn.
            _ if volume == self.shared.contested => Ok(()),
            _ => self.truncate(to).await,
        }
    }

    fn place(&mut self, most: u64) -> Range<usize> {
        let cells = self.shared.ledger.lock().volumes[self.index].cells();
        let start = usize::try_from(self.random.below(u64::try_from(cells).unwrap_or(1))).unwrap_or(0);
        let length = usize::try_from(self.random.between(1, most)).unwrap_or(1);
        start..(start + length).min(cells)
    }

    /// A place of whole blocks or of any cells.
    pub(super) fn place_of_blocks(&mut self) -> Range<usize> {
        let place = self.place(4 * u64::try_from(BLOCK_CELLS).unwrap_or(4));
        if self.random.below(2) == 0 {
            return place;
        }
        place.start / BLOCK_CELLS * BLOCK_CELLS..place.end.next_multiple_of(BLOCK_CELLS)
    }

    pub(super) fn range(cells: &Range<usize>) -> ByteRange {
        let bytes = |cells: usize| u64::try_from(cells * CELL_BYTES).unwrap_or(0);
        ByteRange::new(bytes(cells.start), bytes(cells.end)).unwrap_or(ByteRange::EMPTY)
    }

    fn begin(&self, to: Writing, cells: &Range<usize>, tag: Tag) {
        self.shared.ledger.lock().volumes[to.volume].begin(to.turn, cells.clone(), tag);
    }

    fn end(&self, to: Writing, cells: &Range<usize>, outcome: Outcome) {
        self.shared.ledger.lock().volumes[to.volume].end(to.turn, cells.clone(), outcome);
    }

    /// The server has made a change that began then.
    fn changed(&self, to: Writing, begun: Instant) {
        let mut ledger = self.shared.ledger.lock();
        let checked = ledger.holders[to.volume].changed(self.process, begun);
        ledger.expect(&format!("c{} v{}", self.index, to.volume), checked);
    }

    pub(super) async fn write(&mut self, to: Writing) -> Result<(), ErrorKind> {
        let cells = self.place(WRITE_CELLS_MAX);
        let tag = self.shared.ledger.lock().number();
        let mut bytes = vec![0; cells.len() * CELL_BYTES];
        for (cell, bytes) in cells.clone().zip(bytes.chunks_exact_mut(CELL_BYTES)) {
            fill(cell, tag, bytes);
        }
        let reach = match self.random.below(10) {
            0 => Reach::Server,
            1 => Reach::Storage,
            _ => Reach::Here,
        };
        self.begin(to, &cells, tag);
        let begun = Instant::now();
        let offset = Self::range(&cells).start();
        let what = format!("write v{} {cells:?} {tag} {reach:?}", to.volume);
        let written = self.client.fs.write(to.open, offset, &bytes, reach);
        let written = self.timed(&what, Limit::GoesOn, written).await;
        let outcome = match (written, reach) {
            (Ok(()), _) => Outcome::Done,
            // Nothing is taken in by halves.
            (Err(_), Reach::Here) => Outcome::Undone,
            (Err(_), Reach::Server | Reach::Storage) => Outcome::Unknown,
        };
        self.end(to, &cells, outcome);
        if written.is_ok() && reach != Reach::Here {
            self.changed(to, begun);
        }
        if written.is_err()
            && reach != Reach::Here
            && let Some(handle) = self.handles[to.volume].as_mut()
            && handle.told == Told::No
        {
            handle.told = Told::Perhaps;
        }
        if written.is_ok() && reach == Reach::Storage {
            self.saved(to.volume, |history| history.reached_disk(&history.sure(to.turn)));
        }
        written
    }

    async fn reshape(&mut self, to: Writing) -> Result<(), ErrorKind> {
        let cells = self.place_of_blocks();
        let how = match self.random.below(8) {
            0..5 => Reshape::Punch,
            5..7 => Reshape::Zero,
            _ => Reshape::Allocate,
        };
        let changes = how != Reshape::Allocate;
        if changes {
            self.begin(to, &cells, ZEROS);
        }
        let begun = Instant::now();
        let range = Self::range(&cells);
        // Taken in, as a write is: then the server knows nothing of it yet.
        let taken_in = changes
            && matches!(
                self.client.fs.reshape_now(to.open, how, range),
                Ok(WriteNow::Done)
            );
        let reshaped = async {
            match taken_in {
                true => Ok(()),
                false => self.client.fs.reshape(to.open, how, range, false).await,
            }
        };
        let here = if taken_in { " Here" } else { "" };
        let what = format!("{how:?} v{} {cells:?}{here}", to.volume);
        let reshaped = self.timed(&what, Limit::GoesOn, reshaped).await;
        if changes {
            self.end(to, &cells, outcome(&reshaped));
        }
        if reshaped.is_ok() && !taken_in {
            self.changed(to, begun);
        }
        reshaped
    }

    /// A hole that is sent later.
    async fn void(&mut self, to: Writing) -> Result<(), ErrorKind> {
        let cells = self.place_of_blocks();
        self.begin(to, &cells, ZEROS);
        let made = self.client.fs.void(to.open, Self::range(&cells), Content::Hole);
        let what = format!("hole v{} {cells:?}", to.volume);
        let made = self.timed(&what, Limit::GoesOn, made).await;
        let outcome = if made.is_ok() {
            Outcome::Done
        } else {
            Outcome::Undone
        };
        self.end(to, &cells, outcome);
        made
    }

    /// Cuts the volume and makes it as long as it was.
    async fn truncate(&mut self, to: Writing) -> Result<(), ErrorKind> {
        let cut = self.place(1).start;
        let all = self.shared.ledger.lock().volumes[to.volume].cells();
        let cells = cut..all;
        self.begin(to, &cells, ZEROS);
        let size = Self::range(&cells).start();
        let shorter = self.client.fs.set_attr(to.id, Some(size), NewAttr::default());
        let shorter = self
            .timed(&format!("truncate to {cut}"), Limit::GoesOn, shorter)
            .await;
        self.end(to, &cells, outcome(&shorter));
        shorter?;
        // Should it fail, what is beyond reads as zeros all the same.
        self.lengthen(to).await
    }

    /// Makes a volume as long as it is to be.
    pub(super) async fn lengthen(&self, to: Writing) -> Result<(), ErrorKind> {
        let all = self.shared.ledger.lock().volumes[to.volume].cells();
        let size = Self::range(&(0..all)).end();
        let longer = self.client.fs.set_attr(to.id, Some(size), NewAttr::default());
        self.timed("lengthen", Limit::GoesOn, longer).await.map(drop)
    }

    /// Reads a part or all of a volume and checks every cell of it.
    pub(super) async fn read(&mut self, volume: usize) {
        let all = self.shared.ledger.lock().volumes[volume].cells();
        let cells = match self.random.below(3) {
            0 => 0..all,
            _ => {
                let place = self.place(16);
                place.start.min(all - 1)..place.end.min(all).max(place.start.min(all - 1) + 1)
            }
        };
        if let Some(tags) = self.tags(volume, &cells).await {
            self.check(volume, &cells, &tags);
        }
    }

    /// What the cells have; `None` if they could not be read. What is not whole is told.
    pub(super) async fn tags(&mut self, volume: usize, cells: &Range<usize>) -> Option<Vec<Tag>> {
        let open = self.handles[volume].as_ref()?.open;
        let range = Self::range(cells);
        let read = async {
            match self.random.clone().below(4) {
                0 => self.client.fs.read_direct(open, range).await,
                _ => self.client.fs.read(open, range).await,
            }
        };
        let what = format!("read v{volume} {cells:?}");
        let gathered = self.timed(&what, Limit::Deadline, read).await.ok()?;
        let mut bytes = gathered.with_slice(<[u8]>::to_vec);
        // Beyond the end there is nothing but zeros.
        bytes.resize(cells.len() * CELL_BYTES, 0);
        let mut tags = Vec::with_capacity(cells.len());
        for (cell, bytes) in cells.clone().zip(bytes.chunks_exact(CELL_BYTES)) {
            match tag_of(cell, bytes) {
                Ok(tag) => tags.push(tag),
                Err(error) => {
                    let text = format!("c{} {what}: {error}", self.index);
                    self.shared.ledger.lock().violation(text);
                    return None;
                }
            }
        }
        Some(tags)
    }

    pub(super) fn check(&mut self, volume: usize, cells: &Range<usize>, tags: &[Tag]) {
        let shared = Arc::clone(&self.shared);
        let mut ledger = shared.ledger.lock();
        let certain = self.is_certain(&ledger, volume);
        let Some(handle) = &mut self.handles[volume] else {
            return;
        };
        let who = format!("c{} reads v{volume}", self.index);
        for (cell, tag) in cells.clone().zip(tags) {
            let checked = handle.role.check(&ledger.volumes[volume], cell, *tag, certain);
            ledger.expect(&who, checked);
        }
    }

    /// Walks the map of a volume: nothing in a hole may be data.
    pub(super) async fn look_at_map(&mut self, volume: usize) {
        let Some(open) = self.handles[volume].as_ref().map(|handle| handle.open) else {
            return;
        };
        let all = self.shared.ledger.lock().volumes[volume].cells();
        let whole = Self::range(&(0..all));
        let holes = if self.random.below(2) == 0 {
            let what = format!("extents of v{volume}");
            let extents = self.client.fs.extents(open, whole, EXTENTS_MAX);
            let Ok(extents) = self.timed(&what, Limit::Deadline, extents).await else {
                return;
            };
            let empty = extents.iter().filter(|extent| extent.kind != ExtentKind::Data);
            empty.map(|extent| extent.range).collect()
        } else {
            self.seek_holes(volume, open, whole.end()).await
        };
        let Some(handle) = &self.handles[volume] else {
            return;
        };
        let mut ledger = self.shared.ledger.lock();
        let certain = self.is_certain(&ledger, volume);
        for hole in holes {
            let cell_of = |bytes: u64| usize::try_from(bytes).unwrap_or(0) / CELL_BYTES;
            for cell in cell_of(hole.start())..cell_of(hole.end()).min(all) {
                let checked = handle.role.may_be_zero(&ledger.volumes[volume], cell, certain);
                let who = format!("c{} v{volume}: data is called a hole", self.index);
                ledger.expect(&who, checked);
            }
        }
    }

    /// The holes that SEEK_DATA and SEEK_HOLE tell of, up to the first call that fails.
    async fn seek_holes(&self, volume: usize, open: OpenId, end: u64) -> Vec<ByteRange> {
        let (mut holes, mut at) = (Vec::new(), 0);
        let seek = |from, whence| self.client.fs.seek(open, from, whence);
        while at < end {
            let what = format!("seek v{volume} {at}");
            let data = match self.timed(&what, Limit::Deadline, seek(at, Whence::Data)).await {
                Ok(data) => data,
                Err(ErrorKind::NoExtent) => end,
                Err(_) => break,
            };
            holes.extend(ByteRange::new(at, data));
            if data >= end {
                break;
            }
            match self.timed(&what, Limit::Deadline, seek(data, Whence::Hole)).await {
                Ok(hole) => at = hole,
                Err(_) => break,
            }
        }
        holes
    }
}

impl Role {
    fn check(&mut self, history: &History, cell: usize, tag: Tag, certain: bool) -> Result<(), String> {
        match self {
            Self::Writes(turn) => history.own(*turn, cell, tag, certain),
            Self::Reads(view) => history.seen(view, cell, tag),
            Self::Looks => history.settled(cell, tag),
        }
    }

    /// As if zeros were read, but a hole is not as good as that for what is seen later.
    fn may_be_zero(&self, history: &History, cell: usize, certain: bool) -> Result<(), String> {
        match self {
            Self::Reads(view) => history.seen(&mut view.clone(), cell, ZEROS),
            Self::Writes(turn) => history.own(*turn, cell, ZEROS, certain),
            Self::Looks => history.settled(cell, ZEROS),
        }
    }
}

fn outcome<T>(result: &Result<T, ErrorKind>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(_) => Outcome::Unknown,
    }
}
