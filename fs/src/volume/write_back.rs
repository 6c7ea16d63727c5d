//! Sending what was written, and having the server flush it (`flush`).
//!
//! One task for each volume with dirty data takes batches out of the overlay and sends several at once. It
//! waits a moment for a batch to fill, unless somebody waits for it. Flushes are asked for by fsync, when
//! half of the room is taken, and for what is old ([`super::Shared::tend`]).
//!
//! | what happens | what becomes of the changes |
//! |---|---|
//! | the server answers | applied: kept until a flush |
//! | the session is lost | dirty again: sent in the next one; sent twice they have the same effect |
//! | another run of the server | all that was applied is dirty again, sizes and reservations come first |
//! | the server cannot (no space, bad disk) | dirty, tried again with growing pauses; one error for each handle |
//! | it never will (too late for a stream) | that part dropped, as below; the rest is sent (`refused`) |
//! | the volume is gone at the server | dropped, counted as lost, an error for each handle |
//! | another client may write (fenced) | the same, and kept in a rescue file (`lease`) |
//!
//! Nothing that was acknowledged is dropped but in the last three cases.

mod flush;
mod guards;

use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewTime, Timestamp};
use lacuna_transport::id::BootId;
use lacuna_transport::limits::WRITE_BYTES_MAX;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::guards::{Kept, Sending};
use super::refused::Refused;
use super::unflushed::{ByOthers, Cuts, Unflushed};
use super::{State, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::BLOCK_BYTES;
use crate::overlay::{Batch, Overlay, Work};
use crate::remote::Remote;
use crate::rescue::Piece;

/// Batches of one volume on the wire at once.
const BATCHES_MAX: usize = 16;
/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_millis(10);
/// First and longest pause before trying again what the server could not do.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Pause after a change was lost with its session, so that a server that ends each session is not flooded.
pub(super) const LOST_PAUSE: Duration = Duration::from_millis(50);
/// How long a volume that is not found any more may be on its way to another name: a rename that was lost with
/// its session is sent again by then.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Reservations of space kept for another run of the server; more of them cause a flush.
const RESERVATIONS_MAX: usize = 1024;

/// What a volume has to send and to flush.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    pub(super) overlay: Overlay,
    /// The run of the server that has what is applied.
    boot: Option<BootId>,
    /// Another run has not been told of sizes and reservations yet.
    behind: bool,
    pub(super) cuts: Cuts,
    reserved: Vec<(ByteRange, bool, u64)>,
    /// Answers up to this one are flushed.
    flushed: u64,
    applied_since: Option<Instant>,
    by_others: ByOthers,
    stuck: Option<Stuck>,
    /// Something failed since all was last sent: more errors until then are the same one.
    failing: bool,
    /// Errors so far: each handle reports those that came after it was opened, once.
    failures: u64,
    last_failure: Option<Error>,
    /// Tries that failed, also of the same error.
    failed_tries: u64,
    /// Since when the server does not find the volume.
    gone_since: Option<Instant>,
    /// Times that were set since the last flush: what is sent again moves them.
    times: Option<NewAttr>,
    /// Another run has not got them yet.
    times_behind: bool,
    running: bool,
    flushing: bool,
    /// What was changed up to here does not wait for its batch to be filled: somebody waits for it, or it
    /// has waited long enough.
    due: u64,
    /// The size the server does not know of, when nothing but its end is new: zeros that became a hole.
    grown_to: Option<u64>,
    /// Changes under way that are noted here when they are answered: see [`Kept`].
    under_way: usize,
}

/// The server could not do it.
#[derive(Debug)]
struct Stuck {
    error: Error,
    pause: Duration,
    again: Instant,
}

/// What came of a batch.
#[derive(Debug)]
struct Delivered {
    /// The run of the server that has it.
    boot: BootId,
    attr: Attr,
    /// What it will never take.
    refused: Option<Refused>,
    /// It was flushed, and all this with it.
    flushed: Option<Unflushed>,
}

impl Delivered {
    fn new(boot: BootId, attr: Attr) -> Self {
        Self {
            boot,
            attr,
            refused: None,
            flushed: None,
        }
    }
}

/// What the sending task does next.
#[derive(Debug)]
enum Next {
    /// Under the lease of that time.
    Send(Batch, u64),
    /// Until a batch is answered or something arrives; at the latest then.
    Wait(Option<Instant>),
    Done,
}

impl WriteBack {
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// The error of the last try, if nothing came through since.
    pub(super) fn stuck(&self) -> Option<Error> {
        self.stuck.as_ref().map(|stuck| stuck.error.clone())
    }

    /// True while there is something the server has not flushed.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.overlay.is_empty()
            || self.running
            || self.is_unflushed()
            || self.grown_to.is_some()
            || self.under_way > 0
    }

    /// The volume ends at `size` now, or later, with a hole.
    pub(super) fn grow_to(&mut self, size: u64) {
        self.grown_to = self.grown_to.max(Some(size));
    }

    pub(super) fn grown_to(&self) -> Option<u64> {
        self.grown_to
    }

    /// The server says that the volume is so large.
    pub(super) fn has_grown_to(&mut self, size: u64) {
        self.grown_to = self.grown_to.filter(|wanted| *wanted > size);
    }

    /// True if the changes so far are with this run of the server.
    pub(super) fn is_with(&self, boot: BootId) -> bool {
        self.boot == Some(boot)
    }

    /// True if this run of the server may lack what an earlier one had.
    pub(super) fn is_ahead_of(&self, run: Option<BootId>) -> bool {
        self.is_unflushed() && (self.behind || self.boot != run)
    }

    /// Since when the server has something that it was not asked to flush.
    pub(super) fn applied_since(&self) -> Option<Instant> {
        self.applied_since
    }

    fn is_unflushed(&self) -> bool {
        self.overlay.answers() > self.flushed
    }

    /// Somebody else changed the volume.
    pub(super) fn note_other(&mut self) {
        self.by_others.note();
    }

    /// Nothing of it can be sent any more, or needs to be; returns how many bytes of data no server had.
    fn discard(&mut self) -> u64 {
        let bytes = self.overlay.clear();
        self.note_flush(self.overlay.answers());
        bytes
    }

    /// True while there is a change that the server has not flushed, and may not have at all.
    pub(super) fn has_changes(&self) -> bool {
        self.overlay.patch_count() > 0 || self.is_unflushed() || self.grown_to.is_some()
    }

    /// Takes out all that is to be sent or flushed.
    pub(super) fn salvage(&mut self) -> Vec<Piece> {
        let pieces = self.overlay.all().map(|(range, content, is_taken)| Piece {
            range,
            content,
            is_taken,
        });
        let pieces = pieces.collect();
        self.discard();
        (self.grown_to, self.stuck, self.failing, self.behind) = (None, None, false, false);
        pieces
    }

    /// The server changed something that is not in the overlay.
    pub(super) fn note_answer(&mut self) -> u64 {
        self.applied_since.get_or_insert_with(Instant::now);
        self.overlay.count_answer()
    }

    pub(super) fn note_resize(&mut self, size: u64) {
        self.grown_to = None;
        let answer = self.note_answer();
        self.cuts.note(size, answer);
        // Reserved again, what was cut off would come back.
        for (range, _, _) in &mut self.reserved {
            *range = range.intersect(ByteRange::up_to(size));
        }
        self.reserved.retain(|(range, _, _)| !range.is_empty());
    }

    /// Times were set; a write after it moves them again.
    pub(super) fn note_times(&mut self, attr: NewAttr) {
        let times = self.times.unwrap_or_default();
        self.times = Some(NewAttr {
            accessed: attr.accessed.or(times.accessed),
            modified: attr.modified.or(times.modified),
            ..NewAttr::default()
        });
    }

    /// The time of the last change as it was set, while the server may have another one.
    pub(super) fn modified_behind(&self) -> Option<Timestamp> {
        match self.times.filter(|_| self.times_behind)?.modified? {
            NewTime::At(time) => Some(time),
            NewTime::Now => None,
        }
    }

    pub(super) fn forget_times(&mut self) {
        self.times = None;
    }

    /// False if there are too many: flush now.
    pub(super) fn note_reservation(&mut self, range: ByteRange, grow: bool) -> bool {
        let answer = self.note_answer();
        self.reserved.push((range, grow, answer));
        self.reserved.len() < RESERVATIONS_MAX
    }

    pub(super) fn note_flush(&mut self, answers: u64) {
        self.overlay.flushed(answers);
        self.flushed = self.flushed.max(answers);
        self.cuts.note_flush(answers);
        self.reserved.retain(|(_, _, answer)| *answer > answers);
        if !self.is_unflushed() {
            (self.times, self.times_behind) = (None, false);
        }
        self.applied_since = self.is_unflushed().then(Instant::now);
    }

    /// Data was dropped: an error for each handle, and no reason to wait.
    pub(super) fn note_loss(&mut self, error: &Error) {
        self.failures += 1;
        self.last_failure = Some(error.clone());
    }

    fn note_failure(&mut self, error: &Error) {
        self.failed_tries += 1;
        if !self.failing {
            self.failing = true;
            self.failures += 1;
            self.last_failure = Some(error.clone());
        }
        let pause = self
            .stuck
            .as_ref()
            .map_or(RETRY_MIN, |stuck| (stuck.pause * 2).min(RETRY_MAX));
        self.stuck = Some(Stuck {
            error: error.clone(),
            pause,
            again: Instant::now() + pause,
        });
    }

    fn retry_now(&mut self) {
        if let Some(stuck) = &mut self.stuck {
            stuck.again = Instant::now();
        }
    }

    fn next(&mut self, on_wire: usize, fences: u64) -> Next {
        let now = Instant::now();
        if let Some(stuck) = self.stuck.as_ref().filter(|stuck| stuck.again > now) {
            if on_wire == 0 && !self.overlay.has_dirty() {
                return Next::Done;
            }
            return Next::Wait(Some(stuck.again));
        }
        // While the server refuses, one try at a time is enough.
        let batches_max = if self.stuck.is_some() { 1 } else { BATCHES_MAX };
        let due = self.overlay.has_dirty_from(self.due);
        if on_wire < batches_max
            && let Some(batch) = self.overlay.take(!due)
        {
            return Next::Send(batch, fences);
        }
        if on_wire == 0 && !self.overlay.has_dirty() {
            return Next::Done;
        }
        let linger = self.overlay.has_dirty() && on_wire < batches_max && !due;
        Next::Wait(linger.then(|| now + LINGER))
    }
}

impl<R: Remote> Volume<R> {
    /// Data that the server has not flushed, in bytes.
    pub fn unflushed_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.back.overlay.unsent_bytes() + state.back.overlay.applied_bytes()
    }

    /// Data that no server has, in bytes.
    pub fn unsent_bytes(&self) -> u64 {
        self.state.lock().back.overlay.unsent_bytes()
    }

    /// The error that a handle has not reported yet, if there is one; `seen` is what it has reported.
    pub fn failure_since(&self, seen: u64) -> Option<(u64, Error)> {
        let state = self.state.lock();
        let failures = state.back.failures;
        (failures > seen).then(|| {
            let error = state.back.last_failure.clone();
            let unknown = || Error::new(ErrorKind::Io, "a write in the background failed");
            (failures, error.unwrap_or_else(unknown))
        })
    }

    /// Starts the task that sends, or tells it that there is more.
    pub(super) fn wake_writer(self: &Arc<Self>, state: &mut State) {
        if !state.back.overlay.has_dirty() {
            return;
        }
        if state.back.running {
            // A small write can wait for the task to look by itself.
            if state.back.overlay.dirty_bytes() >= u64::from(WRITE_BYTES_MAX) {
                self.arrived.notify_one();
            }
            return;
        }
        state.back.running = true;
        self.shared.unsettle(self);
        let volume = Arc::clone(self);
        tokio::spawn(async move { volume.send_all().await });
    }

    /// Somebody waits for what is dirty now.
    pub(super) fn urge(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.back.overlay.has_dirty() {
            state.back.due = state.back.overlay.changes();
            state.back.retry_now();
            self.wake_writer(&mut state);
            self.arrived.notify_one();
        }
    }

    async fn send_all(self: Arc<Self>) {
        let mut on_wire = JoinSet::new();
        loop {
            let next = {
                let mut state = self.state.lock();
                let fences = state.fences;
                let next = state.back.next(on_wire.len(), fences);
                if matches!(next, Next::Done) {
                    state.back.running = false;
                }
                next
            };
            match next {
                Next::Send(batch, fences) => {
                    on_wire.spawn(Arc::clone(&self).send(batch, fences));
                }
                Next::Wait(until) => {
                    let until = until.unwrap_or_else(|| Instant::now() + RETRY_MAX);
                    tokio::select! {
                        Some(_) = on_wire.join_next() => {}
                        () = self.arrived.notified() => {}
                        () = tokio::time::sleep_until(until) => {
                            let back = &mut self.state.lock().back;
                            back.due = back.overlay.changes();
                        }
                    }
                }
                Next::Done => break,
            }
        }
        self.let_go_if_settled();
    }

    /// Sends one batch and takes note of what became of it.
    async fn send(self: Arc<Self>, batch: Batch, fences: u64) {
        let mut sending = Sending {
            volume: &self,
            batch: Some(batch.id),
        };
        let outcome = self.deliver(batch.work.clone(), fences).await;
        sending.batch = None;
        let lost = self.delivered(&batch, outcome);
        drop(batch);
        if lost {
            tokio::time::sleep(LOST_PAUSE).await;
        }
    }

    async fn deliver(self: &Arc<Self>, work: Work, fences: u64) -> Result<Delivered> {
        let boot = self.settle().await?;
        let bound = self.bound_under(fences)?;
        match self.send_work(&bound, boot, work.clone()).await {
            Err(error) if error.kind() == ErrorKind::Refused => {
                let (attr, refused) = self.send_parts(&bound, boot, &work, error).await?;
                Ok(Delivered {
                    refused: Some(refused),
                    ..Delivered::new(boot, attr)
                })
            }
            sent => Ok(Delivered::new(boot, sent?)),
        }
    }

    pub(super) async fn send_work(&self, bound: &R::Volume, boot: BootId, work: Work) -> Result<Attr> {
        let remote = &self.shared.remote;
        match work {
            Work::Write(ranges, slices) => {
                let bytes = ranges.iter().map(|range| range.len()).sum();
                let attr = remote.write(bound, boot, ranges, slices).await?;
                self.shared.counters.sent_bytes.add(bytes);
                Ok(attr)
            }
            Work::Zero(range) => {
                let zero = remote.reshape(bound, boot, Reshape::Zero, range, true);
                zero.await
            }
            Work::Punch(ranges) => remote.punch(bound, boot, &ranges).await,
        }
    }

    /// True if the batch is to be sent again after a pause.
    fn delivered(self: &Arc<Self>, batch: &Batch, outcome: Result<Delivered>) -> bool {
        let passing = matches!(&outcome, Err(error) if self.passes(error));
        let fenced = outcome
            .as_ref()
            .err()
            .filter(|error| error.kind() == ErrorKind::Fenced)
            .cloned();
        let mut state = self.state.lock();
        match outcome {
            // Another run of the server is known by now, and it may lack this.
            Ok(done) if state.back.boot != Some(done.boot) => state.back.overlay.lost(batch.id),
            Ok(done) => {
                state.back.gone_since = None;
                if let Some(refused) = &done.refused {
                    self.drop_refused(&mut state, batch, refused);
                }
                state.back.overlay.answered(batch.id);
                state.back.stuck = None;
                state.back.failing &= state.back.overlay.has_unsent();
                state.back.applied_since.get_or_insert_with(Instant::now);
                let ranges = match &batch.work {
                    Work::Write(ranges, _) | Work::Punch(ranges) => &ranges[..],
                    Work::Zero(range) => std::slice::from_ref(range),
                };
                for range in ranges {
                    // A page of the map that is on its way may be older.
                    state.note_map_change(range.align_out(BLOCK_BYTES));
                    self.overtake(&mut state, *range);
                }
                if let Some(unflushed) = done.flushed {
                    state.back.note_flush_behind(unflushed);
                }
                self.answered_with(&mut state, done.attr);
            }
            Err(error) if passing => {
                tracing::debug!(volume = %self.path, %error, "a batch was lost; sending it again");
                state.back.overlay.lost(batch.id);
            }
            Err(_) if fenced.is_some() => state.back.overlay.lost(batch.id),
            Err(error) if is_gone(error.kind()) => {
                state.back.overlay.lost(batch.id);
                self.give_up(&mut state, &error);
            }
            Err(error) => {
                tracing::warn!(volume = %self.path, %error, "the server cannot take what was written; trying again");
                state.back.overlay.lost(batch.id);
                state.back.note_failure(&error);
            }
        }
        let flush = self.shared.is_half_dirty();
        drop(state);
        fenced.iter().for_each(|error| self.heed(error));
        self.progress.notify_waiters();
        if flush {
            self.shared.make_room();
        }
        passing || fenced.is_some()
    }

    /// True if the same is to be sent again after a pause.
    pub(super) fn passes(&self, error: &Error) -> bool {
        if is_passing(error.kind()) {
            return true;
        }
        let mut state = self.state.lock();
        if !is_gone(error.kind()) || state.attr.links == 0 {
            return false;
        }
        let since = *state.back.gone_since.get_or_insert_with(Instant::now);
        since.elapsed() < GONE_AFTER
    }

    /// The server applied a change of `range`: what was fetched of it before is older.
    pub(super) fn overtake(&self, state: &mut State, range: ByteRange) {
        let pages = range.align_out(crate::cache::PAGE_BYTES);
        state.flights.retain(|flight| !flight.go_stale(pages));
        self.shared.cache.remove(self.key, pages);
    }

    /// Takes over the attributes of an answered change, if nothing newer is known.
    pub(super) fn answered_with(&self, state: &mut State, attr: Attr) {
        if attr.generation >= state.attr.generation {
            state.adopt(attr);
            state.heard = true;
        }
    }

    /// The volume does not exist any more: nobody can take the data.
    fn give_up(&self, state: &mut State, error: &Error) {
        let bytes = state.back.discard();
        self.shared.counters.lost_bytes.add(bytes);
        state.back.note_failure(error);
        state.back.stuck = None;
        state.back.failing = false;
        if bytes > 0 {
            self.shared.note_lost(self.path());
        }
        if bytes > 0 && state.attr.links > 0 {
            tracing::error!(volume = %self.path, bytes, %error, "data that was written is lost");
        }
    }

    /// Forgets what nobody can read any more: the volume has no name and is closed.
    pub fn discard_if_unlinked(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.opens > 0 || state.attr.links > 0 {
            return;
        }
        state.back.discard();
        drop(state);
        self.let_go_if_settled();
    }

    /// Waits until what was written to `range` so far is at the server.
    pub async fn drain(self: &Arc<Self>, range: ByteRange) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (change, tries) = {
            let state = self.state.lock();
            (state.back.overlay.changes(), state.back.failed_tries)
        };
        let drained = async {
            loop {
                let progress = self.progress.notified();
                self.urge();
                {
                    let state = self.state.lock();
                    if !state.back.overlay.is_unsent(range, change) {
                        return Ok(());
                    }
                    if state.back.failed_tries > tries
                        && let Some(error) = state.back.stuck()
                    {
                        return Err(error);
                    }
                }
                progress.await;
            }
        };
        shared.while_it_goes_on(("send", &self.path), drained).await
    }

    /// As [`Self::drain`], of everything, the size included.
    pub async fn drain_all(self: &Arc<Self>) -> Result<()> {
        self.drain(ByteRange::ALL).await?;
        let grown_to = self.state.lock().back.grown_to;
        match grown_to {
            Some(size) => self.grow(size).await,
            None => Ok(()),
        }
    }

    /// Makes sure that the run of the server there is has sizes and reservations that another run may have
    /// lost, and has what was applied sent again.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<BootId> {
        loop {
            match self.try_settle().await {
                Err(error) if self.passes(&error) => {
                    tracing::debug!(volume = %self.path, %error, "not brought up to date yet");
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                other => {
                    other
                        .as_ref()
                        .err()
                        .into_iter()
                        .for_each(|error| self.heed(error));
                    return other;
                }
            }
        }
    }

    async fn try_settle(self: &Arc<Self>) -> Result<BootId> {
        let boot = self.shared.remote.boot().await?;
        if self.is_settled(boot) {
            return Ok(boot);
        }
        let _one = self.settling.lock().await;
        if self.is_settled(boot) {
            return Ok(boot);
        }
        let (lowest, size, reserved) = {
            let mut state = self.state.lock();
            let back = &mut state.back;
            if back.boot != Some(boot) {
                tracing::info!(volume = %self.path, "another run of the server: sending again what it may have lost");
                back.overlay.unapply();
                back.boot = Some(boot);
                back.behind = true;
                back.times_behind = back.times.is_some();
            }
            (back.cuts.lowest(), state.attr.size, state.back.reserved.clone())
        };
        let (remote, bound) = (&self.shared.remote, self.bound()?);
        if let Some(lowest) = lowest {
            self.cut_again(&bound, boot, lowest, size).await?;
        }
        // A hole that was made at the end does not make the volume larger by itself.
        if remote.stat_open(&bound).await?.size < size {
            remote.resize(&bound, boot, size).await?;
        }
        for (range, grow, _) in reserved {
            let reserve = remote.reshape(&bound, boot, Reshape::Allocate, range, grow);
            match reserve.await {
                Err(error) if !is_passing(error.kind()) && !is_gone(error.kind()) => {
                    tracing::warn!(volume = %self.path, %range, %error, "cannot reserve the space again");
                }
                other => drop(other?),
            }
        }
        let mut state = self.state.lock();
        state.back.behind = false;
        self.wake_writer(&mut state);
        if state.back.times_behind {
            drop(state);
            self.flush_in_background();
        }
        Ok(boot)
    }

    /// True if this run of the server needs nothing; the first one never does.
    fn is_settled(&self, boot: BootId) -> bool {
        let mut state = self.state.lock();
        let back = &mut state.back;
        if !back.is_unflushed() && back.boot != Some(boot) {
            back.boot = Some(boot);
            back.behind = false;
        }
        back.boot == Some(boot) && !back.behind
    }

    /// Has what changes looked after from now on until it is flushed; the guard sees to it that a change that
    /// failed leaves nothing to look after.
    pub(super) fn keep(self: &Arc<Self>) -> Kept<'_, R> {
        let mut state = self.state.lock();
        state.back.under_way += 1;
        self.shared.unsettle(self);
        Kept(self)
    }

    pub(super) fn let_go_if_settled(self: &Arc<Self>) {
        let state = self.state.lock();
        let settled = !state.back.is_unsettled();
        if settled {
            // Under the lock: a change that begins meanwhile has it looked after again.
            self.shared.settle(self);
        }
        drop(state);
        if settled {
            self.progress.notify_waiters();
            self.unbind_if_idle();
        }
    }
}

/// Errors after which the same is simply sent again.
pub(super) fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Disconnected | ErrorKind::TimedOut)
}

/// Errors after which nobody can take the data any more.
fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Stale | ErrorKind::NotFound)
}
