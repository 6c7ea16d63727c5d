//! Taking in writes: a copy into the overlay, acknowledged at once while there is room.

use std::sync::Arc;
use std::time::SystemTime;

use lacuna_transport::attr::Timestamp;
use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::range::ByteRange;

use super::shared::DetectZeroes;
use super::{State, Volume};
use crate::cache::PAGE_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::Content;
use crate::remote::Remote;

/// Answer to an attempt to write without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteNow {
    Done,
    /// There is no room yet, or another change is under way: go on with [`Volume::write`].
    Wait,
}

impl State {
    /// Shows a change at the volume's attributes and map before the server knows of it. The overlay has it
    /// already.
    pub(super) fn note_write(&mut self, range: ByteRange, content: Option<&Content>) {
        self.note_grown(range.end());
        let blocks = range.align_out(PAGE_BYTES);
        match content {
            None => {
                self.attr.allocated_bytes += self.map.hole_bytes(blocks).next_multiple_of(PAGE_BYTES);
                self.map.mark_data(range);
            }
            Some(Content::Hole) => {
                let before = self.map.held_bytes(range);
                self.map.mark_hole(range);
                self.note_freed(before - self.map.held_bytes(range));
            }
            Some(Content::Zero | Content::Data(_)) => self.map.mark_zero(range),
        }
        self.note_map_change(blocks);
        self.back.forget_times();
        let now = Timestamp::from(SystemTime::now());
        (self.attr.modified, self.attr.changed) = (now, now);
    }
}

impl<R: Remote> Volume<R> {
    /// How many of `len` bytes the volume can hold from `offset` on; `NoSpace` if it is none of them.
    pub fn fitting(&self, offset: u64, len: usize) -> Result<usize> {
        let left = self.size_max().saturating_sub(offset);
        let fitting = usize::try_from(left).map_or(len, |left| left.min(len));
        if fitting == 0 && len > 0 {
            return Err(self.no_space(offset));
        }
        Ok(fitting)
    }

    pub(super) fn no_space(&self, offset: u64) -> Error {
        let text = format!("{} cannot grow: there is no space at {offset}", self.path());
        Error::new(ErrorKind::NoSpace, text)
    }

    /// Takes in bytes if that needs no waiting, of a handle of this [fence](Self::fences). Needs a tokio context: it starts the task that sends.
    pub fn write_now(self: &Arc<Self>, fences: u64, offset: u64, bytes: &[u8]) -> Result<WriteNow> {
        match self.gate.try_read() {
            Ok(_pass) => self.try_write(fences, offset, bytes),
            Err(_) => Ok(WriteNow::Wait),
        }
    }

    /// Takes in bytes, waiting for room: the task that sends makes some.
    pub async fn write(self: &Arc<Self>, fences: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let taken_in = async {
            loop {
                // Registered before trying, so that a release in between is not missed.
                let (dirty, cache) = (shared.dirty.released(), shared.cache.released());
                let pass = self.gate.read().await;
                if self.try_write(fences, offset, bytes)? == WriteNow::Done {
                    return Ok(());
                }
                drop(pass);
                shared.make_room();
                tokio::select! {
                    () = dirty => {}
                    () = cache => {}
                    () = tokio::time::sleep(ROOM_PAUSE) => {}
                }
            }
        };
        shared.while_it_goes_on(("write", &self.path), taken_in).await
    }

    /// `Done` if there is room for another patch; an error if the server takes nothing.
    pub(super) fn takes_changes(&self, state: &State, fences: u64) -> Result<WriteNow> {
        state.check_fences(fences)?;
        if self.shared.is_closing() {
            return Err(Error::new(ErrorKind::Disconnected, "the mount has ended"));
        }
        if let Some(error) = state.back.stuck() {
            return Err(error);
        }
        let full = state.back.overlay.patch_count() > PATCHES_MAX;
        Ok(if full { WriteNow::Wait } else { WriteNow::Done })
    }

    /// Has what was taken in sent.
    pub(super) fn taken_in(self: &Arc<Self>, state: &mut State) {
        if state.back.grown_to().is_some() {
            self.shared.unsettle(self);
        }
        self.wake_writer(state);
    }

    fn try_write(self: &Arc<Self>, fences: u64, offset: u64, bytes: &[u8]) -> Result<WriteNow> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let range = ByteRange::at(offset, len).filter(|range| range.end() <= VOLUME_BYTES_MAX);
        let too_large = || Error::new(ErrorKind::TooLarge, format!("a write of {len} bytes at {offset}"));
        let range = range.ok_or_else(too_large)?;
        if range.end() > self.size_max() {
            return Err(self.no_space(offset));
        }
        let mut state = self.state.lock();
        if self.takes_changes(&state, fences)? == WriteNow::Wait {
            return Ok(WriteNow::Wait);
        }
        let overlay = &state.back.overlay;
        let runs = runs_of(self.shared.detect_zeroes, offset, bytes, |head| {
            overlay
                .pieces(head)
                .iter()
                .all(|(_, found)| found.as_ref().is_some_and(reads_zero))
        });
        for run in runs {
            match run {
                Run::Data(range, bytes) => {
                    let room = state.back.overlay.room_needed(range.start(), range.len());
                    let share = if room == 0 {
                        None
                    } else {
                        match self.shared.dirty_share(room) {
                            Some(share) => Some(share),
                            // What was taken in so far is taken in again, to the same effect.
                            None => return Ok(WriteNow::Wait),
                        }
                    };
                    state.back.overlay.write(range.start(), bytes, room, share);
                    state.note_write(range, None);
                }
                Run::Zeros(range, content) => state.void(range, &content),
            }
        }
        self.shared.counters.written_bytes.add(range.len());
        self.taken_in(&mut state);
        Ok(WriteNow::Done)
    }
}

/// Longest wait for room without looking again: a release may have come between two looks.
pub(super) const ROOM_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Most patches of one volume: about 150 bytes each, also of holes, which need no room in the budget.
const PATCHES_MAX: usize = 64 << 10;

/// Part of a write.
#[derive(Debug)]
enum Run<'a> {
    Data(ByteRange, &'a [u8]),
    Zeros(ByteRange, Content),
}

fn reads_zero(content: &Content) -> bool {
    match content {
        Content::Data(slice) => slice.as_ref().iter().all(|byte| *byte == 0),
        Content::Zero | Content::Hole => true,
    }
}

/// Splits a write into data and whole blocks of zeros. The kernel may cut a write anywhere: a block whose first
/// part was written as zeros before (`zeros_before`) becomes whole with its last part.
fn runs_of(
    detect: DetectZeroes,
    offset: u64,
    bytes: &[u8],
    zeros_before: impl Fn(ByteRange) -> bool,
) -> Vec<Run<'_>> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let whole = ByteRange::at_saturating(offset, len);
    let content = match detect {
        DetectZeroes::Off => return vec![Run::Data(whole, bytes)],
        DetectZeroes::On => Content::Zero,
        DetectZeroes::Unmap => Content::Hole,
    };
    let mut runs: Vec<Run<'_>> = Vec::new();
    let slice = |range: ByteRange| {
        let at = |offset: u64| usize::try_from(offset - whole.start()).unwrap_or(bytes.len());
        &bytes[at(range.start())..at(range.end())]
    };
    let mut rest = whole;
    while !rest.is_empty() {
        let (part, tail) = rest.split_at((rest.start() / PAGE_BYTES + 1).saturating_mul(PAGE_BYTES));
        let block = part.align_out(PAGE_BYTES);
        let head = block.split_at(part.start()).0;
        let zeros = part.end() == block.end()
            && slice(part).iter().all(|byte| *byte == 0)
            && (head.is_empty() || zeros_before(head));
        rest = tail;
        let part = if zeros { block } else { part };
        match runs.last_mut() {
            Some(Run::Data(last, held)) if !zeros => {
                *last = ByteRange::new(last.start(), part.end()).unwrap_or(*last);
                *held = slice(*last);
            }
            Some(Run::Zeros(last, _)) if zeros => {
                *last = ByteRange::new(last.start(), part.end()).unwrap_or(*last);
            }
            _ if zeros => runs.push(Run::Zeros(part, content.clone())),
            _ => runs.push(Run::Data(part, slice(part))),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(detect: DetectZeroes, offset: u64, bytes: &[u8], before: bool) -> Vec<(u64, u64, bool)> {
        runs_of(detect, offset, bytes, |_| before)
            .iter()
            .map(|run| match run {
                Run::Data(range, held) => {
                    assert_eq!(held.len() as u64, range.len());
                    (range.start(), range.end(), false)
                }
                Run::Zeros(range, _) => (range.start(), range.end(), true),
            })
            .collect()
    }

    #[test]
    fn only_whole_aligned_blocks_become_zeros() {
        let mut bytes = vec![0; 5 * 4096];
        bytes[0] = 1;
        let off = shape(DetectZeroes::Off, 0, &bytes, false);
        assert_eq!(off, [(0, 5 * 4096, false)]);
        let on = shape(DetectZeroes::On, 0, &bytes, false);
        assert_eq!(on, [(0, 4096, false), (4096, 5 * 4096, true)]);
        let apart = shape(DetectZeroes::Unmap, 100, &bytes[..3 * 4096], false);
        assert_eq!(
            apart,
            [
                (100, 4096, false),
                (4096, 3 * 4096, true),
                (3 * 4096, 3 * 4096 + 100, false)
            ]
        );
    }

    #[test]
    fn a_block_that_was_cut_becomes_whole_with_its_last_part() {
        let zeros = vec![0; 4096];
        assert_eq!(
            shape(DetectZeroes::On, 100, &zeros, true),
            [(0, 4096, true), (4096, 4196, false)]
        );
        assert_eq!(shape(DetectZeroes::On, 100, &zeros, false), [(100, 4196, false)]);
    }
}
