//! Changes that wait for the server: punch, zero, allocate, resize, copy, attributes.
//!
//! Each passes the gate alone, after what was written to its range has been answered, so that the order in
//! which an application made its changes is the order at the server. What came of it is in the overlay, or
//! noted beside it, until a flush.

use std::sync::Arc;

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::id::BootId;
use lacuna_transport::limits::{COPY_BYTES_MAX, VOLUME_BYTES_MAX};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use super::void::VOIDS_MAX;
use super::write_back::LOST_PAUSE;
use super::{State, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::BLOCK_BYTES;
use crate::overlay::Content;
use crate::remote::{Named, Remote};

/// Runs a change until one run of the server has answered it. The caller has the deadline. A macro, because
/// the future of a generic function over async closures is not known to be `Send`.
macro_rules! carried {
    ($volume:expr, $fences:expr, $range:expr, |$boot:ident, $bound:ident| $change:expr) => {
        loop {
            let $boot: BootId = $volume.settle().await?;
            // Also what another run of the server had lost and gets again: sent later it would undo the change.
            $volume.drain($range).await?;
            let $bound = $volume.bound_under($fences)?;
            let $bound = &*$bound;
            match $change.await {
                Err(error) if $volume.passes(&error) => {
                    tracing::debug!(volume = %$volume.path, %error, "a change was lost; sending it again");
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                other => {
                    other.as_ref().err().into_iter().for_each(|error| $volume.heed(error));
                    break ($boot, other?);
                }
            }
        }
    };
}

impl State {
    /// False if the answer of this run of the server is not the last word on `range`: another run is known by
    /// now, or older bytes are on their way again. Then the change is made again, to the same effect.
    fn is_last_word(&self, boot: BootId, range: ByteRange) -> bool {
        self.back.is_with(boot) && !self.back.overlay.is_unsent(range, u64::MAX)
    }

    /// The volume reaches at least to `end` now.
    pub(super) fn note_grown(&mut self, end: u64) {
        if end > self.attr.size {
            self.attr.size = end;
            let before = self.map.size();
            self.map.resize(end);
            self.note_map_change(ByteRange::new(before, end).unwrap_or(ByteRange::EMPTY));
        }
    }
}

/// Gaps that are cleared one by one when a cut is made again: each costs a round trip.
const GAPS_MAX: usize = 64;

impl<R: Remote> Volume<R> {
    /// Another run of the server may have what was cut off at `lowest`. What was written there since is sent again in any
    /// case, so only the gaps in it are cleared, if they are few: who reads meanwhile is not shown less than before.
    pub(super) async fn cut_again(
        &self,
        bound: &R::Volume,
        boot: BootId,
        lowest: u64,
        size: u64,
    ) -> Result<()> {
        let remote = &self.shared.remote;
        let size_there = remote.stat_open(bound).await?.size;
        let beyond = ByteRange::new(lowest, size.min(size_there)).unwrap_or(ByteRange::EMPTY);
        let pieces = self.state.lock().back.overlay.pieces(beyond);
        let gaps = || pieces.iter().filter(|(_, content)| content.is_none());
        if gaps().count() > GAPS_MAX {
            remote.resize(bound, boot, lowest).await?;
            return Ok(());
        }
        if size_there > size {
            remote.resize(bound, boot, size).await?;
        }
        for (gap, _) in gaps() {
            remote.reshape(bound, boot, Reshape::Punch, *gap, false).await?;
        }
        Ok(())
    }

    /// Punches, zeroes or allocates. `grow`: the volume becomes at least as large as the range ends.
    pub async fn reshape(
        self: &Arc<Self>,
        fences: u64,
        how: Reshape,
        range: ByteRange,
        grow: bool,
    ) -> Result<()> {
        if range.is_empty() || range.end() > VOLUME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{range} of {}", self.path()),
            ));
        }
        let alone = self.gate.write().await;
        let _kept = self.keep();
        let shared = Arc::clone(&self.shared);
        let flush_now = loop {
            let (boot, attr): (BootId, Attr) = carried!(self, fences, range, |boot, bound| shared
                .remote
                .reshape(bound, boot, how, range, grow));
            if let Some(flush_now) = self.reshaped(boot, how, range, grow, attr) {
                break flush_now;
            }
        };
        drop(alone);
        if flush_now {
            self.flush(true).await?;
        }
        Ok(())
    }

    /// Takes note of what the server did; true if so much is noted that a flush is due. `None`: it is not the
    /// last word, see [`State::is_last_word`].
    fn reshaped(&self, boot: BootId, how: Reshape, range: ByteRange, grow: bool, attr: Attr) -> Option<bool> {
        let mut state = self.state.lock();
        if !state.is_last_word(boot, range) {
            return None;
        }
        if grow {
            state.note_grown(range.end());
        }
        let inside = range.intersect(ByteRange::up_to(state.attr.size));
        let mut room = true;
        match how {
            Reshape::Punch => {
                state.back.overlay.void_applied(inside, Content::Hole);
                state.map.mark_hole(inside);
            }
            Reshape::Zero => {
                state.back.overlay.void_applied(inside, Content::Zero);
                state.map.mark_zero(inside);
            }
            Reshape::Allocate => {
                // Sent again, a hole made before would take the space away.
                for (part, content) in state.back.overlay.pieces(inside) {
                    if matches!(content, Some(Content::Hole)) {
                        state.back.overlay.void_applied(part, Content::Zero);
                    }
                }
                room = state.back.note_reservation(range, grow);
            }
        }
        state.carried.note(boot, how);
        state.back.note_answer();
        state.note_map_change(inside.align_out(BLOCK_BYTES));
        self.overtake(&mut state, range);
        self.answered_with(&mut state, attr);
        Some(state.back.overlay.patch_count() > VOIDS_MAX || !room)
    }

    /// Gives the volume another size.
    pub async fn resize(self: &Arc<Self>, fences: u64, size: u64) -> Result<()> {
        if size > VOLUME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{size} bytes for {}", self.path()),
            ));
        }
        let alone = self.gate.write().await;
        self.resize_alone(fences, size).await?;
        drop(alone);
        let flush_now = self.state.lock().back.cuts.are_many();
        if flush_now {
            self.flush(true).await?;
        }
        Ok(())
    }

    /// The caller holds the gate.
    async fn resize_alone(self: &Arc<Self>, fences: u64, size: u64) -> Result<()> {
        let _kept = self.keep();
        let shared = Arc::clone(&self.shared);
        loop {
            let (boot, attr): (BootId, Attr) = carried!(self, fences, ByteRange::ALL, |boot, bound| shared
                .remote
                .resize(bound, boot, size));
            if self.resized(boot, size, attr) {
                return Ok(());
            }
        }
    }

    fn resized(&self, boot: BootId, size: u64, attr: Attr) -> bool {
        let mut state = self.state.lock();
        if !state.is_last_word(boot, ByteRange::ALL) {
            return false;
        }
        let beyond = ByteRange::new(size.min(state.attr.size), u64::MAX).unwrap_or(ByteRange::EMPTY);
        state.back.overlay.cut(beyond);
        state.back.note_resize(size);
        state.attr.size = size;
        state.map.resize(size);
        state.note_map_change(beyond);
        self.overtake(&mut state, beyond);
        self.answered_with(&mut state, attr);
        true
    }

    /// Tells the server of a size that only a hole made, unless it has changed again meanwhile.
    pub(super) async fn grow(self: &Arc<Self>, size: u64) -> Result<()> {
        let _alone = self.gate.write().await;
        // What was written meanwhile may reach further.
        self.drain(ByteRange::ALL).await?;
        let (grown_to, now, fences) = {
            let state = self.state.lock();
            (state.back.grown_to(), state.attr.size, state.fences)
        };
        match grown_to {
            Some(_) => self.resize_alone(fences, size.max(now)).await,
            None => Ok(()),
        }
    }

    /// Copies `range` of `source` to `offset` of this volume, at the server and durably. Returns how many
    /// bytes: less than asked for at the end of the source, or for a long range.
    pub async fn copy_from(
        self: &Arc<Self>,
        fences: u64,
        source: &Arc<Self>,
        range: ByteRange,
        offset: u64,
    ) -> Result<u64> {
        let range = range.split_at(range.start().saturating_add(COPY_BYTES_MAX)).0;
        let target = ByteRange::at(offset, range.len()).filter(|range| range.end() <= VOLUME_BYTES_MAX);
        let too_large = || Error::new(ErrorKind::TooLarge, format!("{} bytes at {offset}", range.len()));
        let target = target.ok_or_else(too_large)?;
        let same = Arc::ptr_eq(self, source);
        if same && range.overlaps(target) {
            return Err(Error::new(ErrorKind::Invalid, "a copy onto itself"));
        }
        if range.is_empty() {
            return Ok(0);
        }
        // The end of the source too, and before the gate: it may be this very volume.
        source.drain_all().await?;
        let _alone = self.gate.write().await;
        let _kept = self.keep();
        let shared = Arc::clone(&self.shared);
        let done = loop {
            let (boot, (bytes, attr)): (BootId, (u64, Attr)) =
                carried!(self, fences, ByteRange::ALL, |boot, bound| async {
                    // A run that lost what the source had not flushed gets it first.
                    source.settle().await?;
                    source.drain(ByteRange::ALL).await?;
                    let from = source.bound()?;
                    shared.remote.copy(boot, (&*from, range), (bound, offset)).await
                });
            let done = target.split_at(offset.saturating_add(bytes)).0;
            if self.copied(boot, done, attr) {
                break done;
            }
        };
        if !done.is_empty() {
            self.start_loading_map();
        }
        Ok(done.len())
    }

    /// False if it is not the last word, see [`State::is_last_word`].
    fn copied(&self, boot: BootId, done: ByteRange, attr: Attr) -> bool {
        let mut state = self.state.lock();
        if !state.is_last_word(boot, ByteRange::ALL) {
            return false;
        }
        state.note_grown(done.end());
        state.back.overlay.cut(done);
        // The server flushed the target, and with it what was answered before.
        let answer = state.back.note_answer();
        state.back.note_flush(answer);
        let blocks = done.align_out(BLOCK_BYTES);
        state.map.forget(blocks);
        state.note_map_change(blocks);
        self.overtake(&mut state, done);
        self.answered_with(&mut state, attr);
        true
    }

    /// Sets mode, owner and times, after what was written so far: a time that is set stays.
    pub async fn set_attr(self: &Arc<Self>, attr: NewAttr) -> Result<()> {
        let _alone = self.gate.write().await;
        self.drain(ByteRange::ALL).await?;
        let shared = Arc::clone(&self.shared);
        let times = NewAttr {
            mode: None,
            uid: None,
            gid: None,
            ..attr
        };
        let attr = match self.bound() {
            Ok(bound) => shared.remote.set_attr(Named::Open(&*bound), attr).await?,
            Err(_) => shared.remote.set_attr(Named::Path(&self.path()), attr).await?,
        };
        let mut state = self.state.lock();
        if times != NewAttr::default() {
            state.back.note_times(times);
        }
        self.answered_with(&mut state, attr);
        Ok(())
    }
}
