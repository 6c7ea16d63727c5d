//! Changes of one volume that are not known to be on the server's stable storage.
//!
//! Owns, for every byte this client changed, its newest content and how far that got:
//!
//! | stage | meaning | next |
//! |---|---|---|
//! | dirty | only here | sending, when a batch takes it |
//! | sending | in a batch on the wire | applied when it is answered, dirty again when it is lost |
//! | applied | the server has it, perhaps in memory only | gone after a flush, dirty again if the server restarted |
//!
//! Pure: no IO, no clock, no lock; who calls it holds the volume's lock.
//!
//! Invariants: patches do not overlap, so the order in which they are sent does not matter and sending one
//! again is harmless; no two batches on the wire overlap, so an older content can never arrive after a newer
//! one; a byte leaves the overlay only by a flush, a cut, a truncation or a refusal.
//!
//! Left out on purpose: the size of the volume and what lies below (see `volume`).

pub mod buffer;

use std::collections::{BTreeMap, BTreeSet};

use lacuna_transport::limits::{PUNCH_RANGES_MAX, WRITE_BYTES_MAX, WRITE_RANGES_MAX};
use lacuna_transport::range::ByteRange;

use self::buffer::{Buffer, DirtyShare, Slice};

/// What a changed range holds now.
#[derive(Clone, Debug)]
pub enum Content {
    Data(Slice),
    Zero,
    Hole,
}

impl Content {
    fn skip(&self, bytes: u64) -> Self {
        match self {
            Self::Data(slice) => Self::Data(slice.skip(bytes)),
            Self::Zero => Self::Zero,
            Self::Hole => Self::Hole,
        }
    }

    fn is_data(&self) -> bool {
        matches!(self, Self::Data(_))
    }

    /// Two neighbours that one request can carry as one range without bytes.
    fn same_void(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Zero, Self::Zero) | (Self::Hole, Self::Hole))
    }
}

/// A group of patches on the wire together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dirty,
    Sending(BatchId),
    /// The number counts answers: a flush that began after this one covers it.
    Applied(u64),
}

#[derive(Clone, Debug)]
struct Patch {
    end: u64,
    content: Content,
    stage: Stage,
    /// When it was first changed, counted in changes: what a flush has to wait for.
    born: u64,
}

/// What a batch asks of the server.
#[derive(Clone, Debug)]
pub enum Work {
    /// The bytes of all ranges, in order.
    Write(Vec<ByteRange>, Vec<Slice>),
    Zero(ByteRange),
    /// All of the ranges, in order.
    Punch(Vec<ByteRange>),
}

impl Work {
    /// Bytes that go to the server.
    pub fn data_bytes(&self) -> u64 {
        match self {
            Self::Write(ranges, _) => ranges.iter().map(|range| range.len()).sum(),
            Self::Zero(_) | Self::Punch(_) => 0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub id: BatchId,
    pub work: Work,
}

#[derive(Clone, Copy, Debug)]
struct OnWire {
    end: u64,
    batch: BatchId,
    /// The oldest change in it.
    born: u64,
}

#[derive(Debug, Default)]
pub struct Overlay {
    patches: BTreeMap<u64, Patch>,
    /// Where the dirty ones begin.
    dirty: BTreeSet<u64>,
    /// The same by age: when each was first changed, and where it begins.
    dirty_by_age: BTreeSet<(u64, u64)>,
    /// Ranges on the wire by their start, whatever became of their patches since.
    wire: BTreeMap<u64, OnWire>,
    dirty_bytes: u64,
    sending_bytes: u64,
    applied_bytes: u64,
    changes: u64,
    batches: u64,
    answers: u64,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty() && self.wire.is_empty()
    }

    pub fn patch_count(&self) -> usize {
        self.patches.len()
    }

    /// Data that no server has yet, in bytes.
    pub fn unsent_bytes(&self) -> u64 {
        self.dirty_bytes + self.sending_bytes
    }

    /// Data that waits to be sent, in bytes.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Data that the server has and may not have flushed, in bytes.
    pub fn applied_bytes(&self) -> u64 {
        self.applied_bytes
    }

    /// True while there is anything no server is known to have.
    pub fn has_unsent(&self) -> bool {
        !self.dirty.is_empty() || !self.wire.is_empty()
    }

    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// True if something that was changed up to `change` waits to be sent.
    pub fn has_dirty_from(&self, change: u64) -> bool {
        self.dirty_by_age.first().is_some_and(|(born, _)| *born <= change)
    }

    /// Numbers the changes so far: see [`Self::is_unsent`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Numbers the answers so far: see [`Self::flushed`].
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Counts the answer to something that is not in the overlay, so that flushes are ordered after it.
    pub fn count_answer(&mut self) -> u64 {
        self.answers += 1;
        self.answers
    }

    /// True while anything in `range` that was changed up to `change` has not been answered.
    pub fn is_unsent(&self, range: ByteRange, change: u64) -> bool {
        let on_wire = self
            .wire
            .iter()
            .any(|(start, sent)| sent.born <= change && span(*start, sent.end).overlaps(range));
        let old_enough = || self.dirty_by_age.range(..=(change, u64::MAX));
        on_wire || old_enough().any(|(_, start)| span(*start, self.patches[start].end).overlaps(range))
    }

    /// The end of the last byte that no server has yet.
    pub fn unsent_end(&self) -> u64 {
        let dirty = self.dirty.last().map_or(0, |start| self.patches[start].end);
        let wire = self.wire.last_key_value().map_or(0, |(_, sent)| sent.end);
        dirty.max(wire)
    }

    /// `range` in order, with the content where there is one.
    pub fn pieces(&self, range: ByteRange) -> Vec<(ByteRange, Option<Content>)> {
        let mut pieces = Vec::new();
        let mut at = range.start();
        for (start, patch) in self.touching(range) {
            let part = span(start, patch.end).intersect(range);
            if at < part.start() {
                pieces.push((span(at, part.start()), None));
            }
            pieces.push((part, Some(patch.content.skip(part.start() - start))));
            at = part.end();
        }
        if at < range.end() {
            pieces.push((span(at, range.end()), None));
        }
        pieces
    }

    /// Room that writing `bytes` at `offset` takes from the budget: 0 if they go where older ones are, or
    /// behind them.
    pub fn room_needed(&self, offset: u64, bytes: u64) -> u64 {
        if self.in_place(offset, bytes).is_some() || self.behind(offset, bytes).is_some() {
            return 0;
        }
        let before = self.before(offset).map(|(_, patch)| &patch.content);
        match before {
            // A run of small writes: buffers grow with it.
            Some(Content::Data(slice)) => Buffer::room_after(slice, bytes),
            _ => Buffer::room_for(bytes),
        }
    }

    /// Takes in bytes; `room` is what [`Self::room_needed`] said, and `share` is for as much.
    pub fn write(&mut self, offset: u64, bytes: &[u8], room: u64, share: Option<DirtyShare>) {
        let len = u64::try_from(bytes.len()).expect("a write fits 64 bits");
        let range = ByteRange::at(offset, len).expect("the caller checked the end");
        if range.is_empty() {
            return;
        }
        self.changes += 1;
        if let Some(start) = self.in_place(offset, len) {
            if let Some(Patch {
                content: Content::Data(slice),
                ..
            }) = self.patches.get_mut(&start)
            {
                slice.overwrite(offset - start, bytes);
            }
            return;
        }
        self.remove(range);
        if let Some(start) = self.behind(offset, len) {
            if let Some(patch) = self.patches.get_mut(&start)
                && let Content::Data(slice) = &mut patch.content
            {
                slice.append(bytes);
                patch.end = range.end();
                self.dirty_bytes += len;
            }
            return;
        }
        let slice = Slice::new(bytes, room, share);
        self.insert(range, Content::Data(slice), Stage::Dirty, self.changes);
    }

    /// Takes in zeros or a hole, still to be sent. One that goes on where the last one ended becomes one with it.
    pub fn void(&mut self, range: ByteRange, content: Content) {
        debug_assert!(!content.is_data());
        if range.is_empty() {
            return;
        }
        self.changes += 1;
        self.remove(range);
        let before = self.before(range.start());
        let grows = before.filter(|(_, patch)| patch.content.same_void(&content));
        if let Some(start) = grows.map(|(start, _)| start)
            && let Some(patch) = self.patches.get_mut(&start)
        {
            patch.end = range.end();
            return;
        }
        self.insert(range, content, Stage::Dirty, self.changes);
    }

    /// Takes in zeros or a hole that the server has already made.
    pub fn void_applied(&mut self, range: ByteRange, content: Content) {
        debug_assert!(!content.is_data());
        self.changes += 1;
        let answer = self.count_answer();
        self.remove(range);
        self.insert(range, content, Stage::Applied(answer), self.changes);
    }

    /// Forgets changes of `range`: something newer took their place at the server.
    pub fn cut(&mut self, range: ByteRange) {
        self.remove(range);
    }

    /// Somebody else changed `range` after the server had these: what is there now is theirs.
    pub fn cut_applied(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        self.split(range.start());
        self.split(range.end());
        let applied: Vec<u64> = self
            .patches
            .range(range.start()..range.end())
            .filter(|(_, patch)| matches!(patch.stage, Stage::Applied(_)))
            .map(|(start, _)| *start)
            .collect();
        for start in applied {
            self.take_out(start);
        }
    }

    /// Takes the next batch, in ascending order. `full_only`: none that could still grow.
    pub fn take(&mut self, full_only: bool) -> Option<Batch> {
        if full_only && self.dirty_bytes < u64::from(WRITE_BYTES_MAX) {
            return None;
        }
        let first = self.dirty.iter().copied().find(|start| self.is_free(*start))?;
        let id = BatchId(self.batches);
        self.batches += 1;
        let work = if self.patches[&first].content.is_data() {
            self.take_data(first, id)
        } else {
            self.take_void(first, id)
        };
        Some(Batch { id, work })
    }

    /// Takes all there is to send, if one write can carry it and nothing is on its way: what is flushed behind it covers
    /// everything so far.
    pub fn take_whole(&mut self) -> Option<Batch> {
        let few = (1..=WRITE_RANGES_MAX).contains(&self.dirty.len());
        let small = self.dirty_bytes <= u64::from(WRITE_BYTES_MAX);
        let all_data = || {
            self.dirty
                .iter()
                .all(|start| self.patches[start].content.is_data())
        };
        if !few || !small || !self.wire.is_empty() || !all_data() {
            return None;
        }
        let batch = self.take(false);
        debug_assert!(!self.has_dirty(), "one write carries it");
        batch
    }

    /// The server has the batch.
    pub fn answered(&mut self, batch: BatchId) {
        let answer = self.count_answer();
        for range in self.off_wire(batch) {
            self.restage(range, Stage::Sending(batch), Stage::Applied(answer));
        }
    }

    /// The server will never take this part of the batch: it is dropped, but for what is newer by now. Returns how
    /// many bytes of data that is. The rest of the batch is still to be answered.
    pub fn refused(&mut self, batch: BatchId, range: ByteRange) -> u64 {
        self.split(range.start());
        self.split(range.end());
        let starts: Vec<u64> = self
            .touching(range)
            .filter(|(_, patch)| patch.stage == Stage::Sending(batch))
            .map(|(start, _)| start)
            .collect();
        let before = self.unsent_bytes();
        for start in starts {
            self.take_out(start);
        }
        before - self.unsent_bytes()
    }

    /// The batch came to nothing, or nobody knows.
    pub fn lost(&mut self, batch: BatchId) {
        for range in self.off_wire(batch) {
            self.restage(range, Stage::Sending(batch), Stage::Dirty);
        }
    }

    /// All answers up to this one are on stable storage.
    pub fn flushed(&mut self, answer: u64) {
        let done = |patch: &Patch| matches!(patch.stage, Stage::Applied(number) if number <= answer);
        let starts: Vec<u64> = self
            .patches
            .iter()
            .filter(|(_, patch)| done(patch))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            self.take_out(start);
        }
    }

    /// The server may have lost what it had not flushed: all of it is to be sent again.
    pub fn unapply(&mut self) {
        let starts: Vec<u64> = self
            .patches
            .iter()
            .filter(|(_, patch)| matches!(patch.stage, Stage::Applied(_)))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            if let Some(mut patch) = self.take_out(start) {
                patch.stage = Stage::Dirty;
                self.put_in(start, patch);
            }
        }
    }

    /// All changes in ascending order, each with whether the server has taken it.
    pub fn all(&self) -> impl Iterator<Item = (ByteRange, Content, bool)> {
        self.patches.iter().map(|(start, patch)| {
            let is_taken = matches!(patch.stage, Stage::Applied(_));
            (span(*start, patch.end), patch.content.clone(), is_taken)
        })
    }

    /// Gives everything up; returns how many bytes of data no server had.
    pub fn clear(&mut self) -> u64 {
        let unsent = self.unsent_bytes();
        self.patches.clear();
        self.dirty.clear();
        self.dirty_by_age.clear();
        (self.dirty_bytes, self.sending_bytes, self.applied_bytes) = (0, 0, 0);
        unsent
    }

    fn take_data(&mut self, first: u64, id: BatchId) -> Work {
        let mut left = u64::from(WRITE_BYTES_MAX);
        let mut ranges: Vec<ByteRange> = Vec::new();
        let mut slices = Vec::new();
        let mut born = u64::MAX;
        for start in self.dirty_from(first) {
            if left == 0 {
                break;
            }
            if !self.is_free(start) || !self.patches[&start].content.is_data() {
                continue;
            }
            let touches = ranges.last().is_some_and(|last| last.end() == start);
            if !touches && ranges.len() == WRITE_RANGES_MAX {
                break;
            }
            let end = self.patches[&start].end.min(start.saturating_add(left));
            self.split(end);
            let Some(mut patch) = self.take_out(start) else {
                break;
            };
            patch.stage = Stage::Sending(id);
            born = born.min(patch.born);
            if let Content::Data(slice) = &patch.content {
                slices.push(slice.clone());
            }
            self.put_in(start, patch);
            left -= end - start;
            match ranges.last_mut() {
                Some(last) if touches => *last = span(last.start(), end),
                _ => ranges.push(span(start, end)),
            }
        }
        for range in &ranges {
            let sent = OnWire {
                end: range.end(),
                batch: id,
                born,
            };
            self.wire.insert(range.start(), sent);
        }
        Work::Write(ranges, slices)
    }

    /// Where the next dirty patches begin, as many as one batch looks at.
    fn dirty_from(&self, first: u64) -> Vec<u64> {
        let starts = self.dirty.range(first..).copied();
        starts.take(MERGED_PATCHES_MAX).collect()
    }

    /// A hole that is far from the next one takes that along.
    fn take_void(&mut self, first: u64, id: BatchId) -> Work {
        let content = self.patches[&first].content.clone();
        let mut ranges = vec![self.take_run(first, &content, id)];
        if !matches!(content, Content::Hole) {
            return Work::Zero(ranges[0]);
        }
        for start in self.dirty_from(ranges[0].end()) {
            if ranges.len() == PUNCH_RANGES_MAX {
                break;
            }
            // Those that the last run took along do not fit any more.
            if self.fits_run(start, &content) {
                ranges.push(self.take_run(start, &content, id));
            }
        }
        Work::Punch(ranges)
    }

    fn fits_run(&self, start: u64, content: &Content) -> bool {
        let patch = self.patches.get(&start);
        patch.is_some_and(|patch| patch.stage == Stage::Dirty && patch.content.same_void(content))
            && self.is_free(start)
    }

    /// Puts on the wire what touches the patch at `first` and is as void.
    fn take_run(&mut self, first: u64, content: &Content, id: BatchId) -> ByteRange {
        let (mut end, mut born) = (first, u64::MAX);
        while self.fits_run(end, content) {
            let (start, patch) = (end, &self.patches[&end]);
            (end, born) = (patch.end, born.min(patch.born));
            self.restage(span(start, end), Stage::Dirty, Stage::Sending(id));
        }
        let sent = OnWire { end, batch: id, born };
        self.wire.insert(first, sent);
        span(first, end)
    }

    /// True if the patch at `start` overlaps nothing that is on the wire.
    fn is_free(&self, start: u64) -> bool {
        let range = span(start, self.patches[&start].end);
        let before = self.wire.range(..range.end()).next_back();
        before.is_none_or(|(_, sent)| sent.end <= range.start())
    }

    fn off_wire(&mut self, batch: BatchId) -> Vec<ByteRange> {
        let mine = self.wire.extract_if(.., |_, sent| sent.batch == batch);
        mine.map(|(start, sent)| span(start, sent.end)).collect()
    }

    /// Moves the patches within `range` from one stage to another.
    fn restage(&mut self, range: ByteRange, from: Stage, to: Stage) {
        let starts: Vec<u64> = self.touching(range).map(|(start, _)| start).collect();
        for start in starts {
            if self.patches[&start].stage == from
                && let Some(mut patch) = self.take_out(start)
            {
                patch.stage = to;
                self.put_in(start, patch);
            }
        }
    }

    /// The dirty data patch that holds all of these bytes and that nobody else looks at.
    fn in_place(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset.checked_add(bytes)?;
        let (start, patch) = self.patches.range(..=offset).next_back()?;
        let whole = patch.stage == Stage::Dirty && patch.end >= end;
        match &patch.content {
            Content::Data(slice) if whole && slice.is_alone() => Some(*start),
            Content::Data(_) | Content::Zero | Content::Hole => None,
        }
    }

    /// The dirty data patch that ends at `offset` and has room for `bytes` more.
    fn behind(&self, offset: u64, bytes: u64) -> Option<u64> {
        let (start, patch) = self.patches.range(..offset).next_back()?;
        let touches = patch.stage == Stage::Dirty && patch.end == offset;
        match &patch.content {
            Content::Data(slice) if touches && slice.has_room_for(bytes) => Some(*start),
            Content::Data(_) | Content::Zero | Content::Hole => None,
        }
    }

    fn before(&self, offset: u64) -> Option<(u64, &Patch)> {
        let (start, patch) = self.patches.range(..offset).next_back()?;
        (patch.end == offset && patch.stage == Stage::Dirty).then_some((*start, patch))
    }

    fn touching(&self, range: ByteRange) -> impl Iterator<Item = (u64, &Patch)> {
        let first = self
            .patches
            .range(..=range.start())
            .next_back()
            .filter(|(_, patch)| patch.end > range.start())
            .map_or(range.start(), |(start, _)| *start);
        let end = if range.is_empty() { first } else { range.end() };
        self.patches
            .range(first..end)
            .map(|(start, patch)| (*start, patch))
    }

    /// Cuts the patch that goes across `offset` in two.
    fn split(&mut self, offset: u64) {
        let Some((start, patch)) = self.patches.range_mut(..offset).next_back() else {
            return;
        };
        if patch.end <= offset {
            return;
        }
        let tail = Patch {
            end: patch.end,
            content: patch.content.skip(offset - start),
            stage: patch.stage,
            born: patch.born,
        };
        patch.end = offset;
        if let Content::Data(slice) = &mut patch.content {
            slice.cut(offset - start);
        }
        if tail.stage == Stage::Dirty {
            self.dirty.insert(offset);
            self.dirty_by_age.insert((tail.born, offset));
        }
        self.patches.insert(offset, tail);
    }

    fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        self.split(range.start());
        self.split(range.end());
        let starts: Vec<u64> = self
            .patches
            .range(range.start()..range.end())
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            self.take_out(start);
        }
    }

    fn insert(&mut self, range: ByteRange, content: Content, stage: Stage, born: u64) {
        if !range.is_empty() {
            let end = range.end();
            self.put_in(
                range.start(),
                Patch {
                    end,
                    content,
                    stage,
                    born,
                },
            );
        }
    }

    fn put_in(&mut self, start: u64, patch: Patch) {
        if patch.stage == Stage::Dirty {
            self.dirty.insert(start);
            self.dirty_by_age.insert((patch.born, start));
        }
        if patch.content.is_data() {
            *self.bytes_of(patch.stage) += patch.end - start;
        }
        self.patches.insert(start, patch);
    }

    fn take_out(&mut self, start: u64) -> Option<Patch> {
        let patch = self.patches.remove(&start)?;
        self.dirty.remove(&start);
        self.dirty_by_age.remove(&(patch.born, start));
        if patch.content.is_data() {
            *self.bytes_of(patch.stage) -= patch.end - start;
        }
        Some(patch)
    }

    fn bytes_of(&mut self, stage: Stage) -> &mut u64 {
        match stage {
            Stage::Dirty => &mut self.dirty_bytes,
            Stage::Sending(_) => &mut self.sending_bytes,
            Stage::Applied(_) => &mut self.applied_bytes,
        }
    }
}

/// Most patches one batch is made of: bounds the time under the lock.
const MERGED_PATCHES_MAX: usize = 4096;

fn span(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).expect("patches are in order")
}

#[cfg(test)]
mod tests;
