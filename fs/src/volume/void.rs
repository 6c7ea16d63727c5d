//! Taking in holes and zeros: acknowledged at once, and sent behind as writes are.
//!
//! `-o detect-zeroes` and the crate for programs always have them taken in. A punch or a zeroing that an application
//! asks for by fallocate(2) may be refused for what the server cannot do, and programs go another way then. So it
//! waits for the server ([`Volume::reshape`]) until this run of the server has carried out one of its kind, and also
//!
//! * if it reaches beyond the end: blocks there are the server's to know;
//! * to make zeros where there is a hole, or may be: it needs space, which may be missing;
//! * if the server could not do what was sent last: what frees space must get through;
//! * if there are too many holes and zeros to keep: a flush is due.

use std::sync::Arc;

use lacuna_transport::id::BootId;
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use super::write::{ROOM_PAUSE, WriteNow};
use super::{State, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::BLOCK_BYTES;
use crate::overlay::Content;
use crate::remote::Remote;

/// Holes and zeros kept until a flush; more of them cause one.
pub(super) const VOIDS_MAX: usize = 16 << 10;

/// What a run of the server has carried out of a volume, and so can do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    run: Option<BootId>,
    punch: bool,
    zero: bool,
}

impl Carried {
    pub(super) fn note(&mut self, run: BootId, how: Reshape) {
        if self.run != Some(run) {
            *self = Self {
                run: Some(run),
                ..Self::default()
            };
        }
        match how {
            Reshape::Punch => self.punch = true,
            Reshape::Zero => self.zero = true,
            Reshape::Allocate => {}
        }
    }

    /// `run`: the one there is, if there is a session.
    fn can(&self, run: Option<BootId>, how: Reshape) -> bool {
        let same_run = run.is_none() || self.run == run;
        same_run
            && match how {
                Reshape::Punch => self.punch,
                Reshape::Zero => self.zero,
                Reshape::Allocate => false,
            }
    }
}

impl State {
    /// Takes in zeros or a hole. A hole beyond the end is nothing to send but the new size.
    pub(super) fn void(&mut self, range: ByteRange, content: &Content) {
        let hole = matches!(content, Content::Hole);
        let inside = if hole {
            range.split_at(self.attr.size).0
        } else {
            range
        };
        if hole && range.end() > self.attr.size {
            self.back.grow_to(range.end());
        }
        let covered = |(_, found): &(ByteRange, Option<Content>)| matches!(found, None | Some(Content::Hole));
        let already = hole
            && self.map.hole_bytes(inside) == inside.len()
            && self.back.overlay.pieces(inside).iter().all(covered);
        if !already {
            self.put_void(inside, content);
        }
        self.note_write(range, Some(content));
    }

    /// Has zeros or a hole within the size sent.
    fn put_void(&mut self, range: ByteRange, content: &Content) {
        // The bytes that made the volume so large may never be sent now, and a hole does not say where it ends.
        let size = self.attr.size;
        let ends = matches!(content, Content::Hole) && range.end() == size;
        if ends && self.back.overlay.unsent_end() == size {
            self.back.grow_to(size);
        }
        self.back.overlay.void(range, content.clone());
    }

    /// A hole that was taken in frees so much of what storage is known to hold, once the server has made it. Until then
    /// a volume that had space shows some: programs take one without any for a single hole.
    pub(super) fn note_freed(&mut self, bytes: u64) {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        let before = self.attr.allocated_bytes;
        self.attr.allocated_bytes = before.saturating_sub(bytes).max(before.min(BLOCK_BYTES));
        self.freed_bytes += before - self.attr.allocated_bytes;
    }

    /// True if a punch or a zeroing need not wait for the server, which can do it.
    fn takes_in(&self, how: Reshape, range: ByteRange) -> bool {
        let needs_space = || how == Reshape::Zero && self.map.held_bytes(range) < range.len();
        !range.is_empty()
            && range.end() <= self.attr.size
            && self.back.stuck().is_none()
            && self.back.overlay.patch_count() <= VOIDS_MAX
            && !needs_space()
    }
}

impl<R: Remote> Volume<R> {
    /// Takes in a punch or a zeroing of a mount if the server can do it and that needs no waiting, of a handle of this
    /// [fence](Self::fences); else go on with [`Self::reshape`]. Needs a tokio context: it starts the task that sends.
    pub fn reshape_now(self: &Arc<Self>, fences: u64, how: Reshape, range: ByteRange) -> Result<WriteNow> {
        let content = match how {
            Reshape::Punch => Content::Hole,
            Reshape::Zero => Content::Zero,
            Reshape::Allocate => return Ok(WriteNow::Wait),
        };
        let Ok(_pass) = self.gate.try_read() else {
            return Ok(WriteNow::Wait);
        };
        let run = self.shared.remote.boot_now();
        let mut state = self.state.lock();
        if !state.carried.can(run, how) || !state.takes_in(how, range) {
            return Ok(WriteNow::Wait);
        }
        if self.takes_changes(&state, fences)? == WriteNow::Wait {
            return Ok(WriteNow::Wait);
        }
        // Also where there is a hole already: there may be space that was reserved.
        state.put_void(range, &content);
        state.note_write(range, Some(&content));
        self.taken_in(&mut state);
        Ok(WriteNow::Done)
    }

    /// Takes in zeros or a hole, waiting while there is too much to send.
    pub async fn void(self: &Arc<Self>, fences: u64, range: ByteRange, content: &Content) -> Result<()> {
        if range.end() > VOLUME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{range} of {}", self.path()),
            ));
        }
        if range.end() > self.size_max() {
            return Err(self.no_space(range.start()));
        }
        let shared = Arc::clone(&self.shared);
        let taken_in = async {
            loop {
                let pass = self.gate.read().await;
                if self.try_void(fences, range, content)? == WriteNow::Done {
                    return Ok(());
                }
                drop(pass);
                shared.make_room();
                tokio::time::sleep(ROOM_PAUSE).await;
            }
        };
        shared.while_it_goes_on(("punch", &self.path), taken_in).await
    }

    fn try_void(self: &Arc<Self>, fences: u64, range: ByteRange, content: &Content) -> Result<WriteNow> {
        let mut state = self.state.lock();
        match self.takes_changes(&state, fences)? {
            WriteNow::Done if !range.is_empty() => {
                state.void(range, content);
                self.taken_in(&mut state);
                Ok(WriteNow::Done)
            }
            answer => Ok(answer),
        }
    }
}
