//! The write lease of a volume as this client sees it: giving it back, and what becomes of the volume when it is gone.
//!
//! A volume is *fenced* when the server says that its lease is not ours any more: another client may write to it.
//! Then, at one moment under the volume's lock:
//!
//! * what was not flushed is taken out of the overlay, counted as lost and kept in a rescue file ([`crate::rescue`]);
//! * handles that were open get an error once, at their next fsync or close, and change nothing any more: each
//!   knows how often the volume had been fenced when it was opened (`State::fences`);
//! * what is known of the content is dropped, here and in the kernel: the view is the server's again.
//!
//! Opening it again for changes takes a new lease, or fails while somebody else has it.

use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::range::ByteRange;
use tokio::time::{Instant, timeout_at};

use super::{State, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::ExtentMap;
use crate::remote::{Access, Remote};
use crate::rescue::Salvage;

/// How long after a close a lease that is asked for waits for the end of the handle. The kernel tells of it on its
/// own time, a moment later, or not at all while another descriptor of the handle is open.
const RELEASE_WAIT: Duration = Duration::from_secs(1);

/// Somebody else wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// All that was written is saved, and nobody writes here: it was given back.
    GivenBack,
    /// It is needed here.
    Needed,
}

impl State {
    /// Fails for a handle that was opened before the volume was fenced.
    pub(super) fn check_fences(&self, fences: u64) -> Result<()> {
        if self.fences == fences {
            return Ok(());
        }
        let text = "another client may write to this volume since: open it again";
        Err(Error::new(ErrorKind::Fenced, text))
    }

    /// Takes out what the server has not flushed; `None` if there is nothing.
    fn salvage(&mut self, volume: &str, why: &Error) -> Option<Salvage> {
        if !self.back.has_changes() {
            return None;
        }
        Some(Salvage {
            volume: volume.to_owned(),
            size: self.attr.size,
            pieces: self.back.salvage(),
            why: why.to_string(),
        })
    }
}

impl<R: Remote> Volume<R> {
    /// How often it was fenced so far: what a handle that is opened now may rely on.
    pub fn fences(&self) -> u64 {
        self.state.lock().fences
    }

    /// The volume as opened at the server, for a change that relies on the lease of that time.
    pub(super) fn bound_under(&self, fences: u64) -> Result<Arc<R::Volume>> {
        let bound = self.bound()?;
        // In this order: a volume that is bound under a newer lease is bound after it was fenced.
        self.state.lock().check_fences(fences)?;
        Ok(bound)
    }

    /// Acts on an error that says that the lease is gone.
    pub(super) fn heed(self: &Arc<Self>, error: &Error) {
        if error.kind() != ErrorKind::Fenced {
            return;
        }
        let mut state = self.state.lock();
        match &mut *self.bound.lock() {
            Some(bound) if bound.access == Access::ReadWrite && R::is_fenced(&bound.volume) => {
                bound.access = Access::Read;
            }
            // It was heeded before, or belongs to a lease before this one.
            Some(_) | None => return,
        }
        state.fences += 1;
        let path = self.path();
        let salvage = state.salvage(&path.to_string(), error);
        match &salvage {
            Some(salvage) => {
                let bytes = salvage.data_bytes();
                tracing::error!(volume = %path, bytes, %error, "another client may write to this volume now: what was not saved is lost to it");
                self.shared.counters.lost_bytes.add(bytes);
                self.shared.note_lost(path);
                state.back.note_loss(error);
            }
            None => {
                tracing::warn!(volume = %path, %error, "another client may write to this volume now; nothing was left to save");
            }
        }
        state.map = ExtentMap::new(state.attr.size);
        state.note_map_change(ByteRange::ALL);
        (state.followed, state.heard) = (false, false);
        state.kernel_base = None;
        self.overtake(&mut state, ByteRange::ALL);
        drop(state);
        if let Some(salvage) = salvage {
            self.shared.rescue(salvage);
        }
        self.shared.notices.post(self.id);
        self.progress.notify_waiters();
        self.arrived.notify_one();
        self.let_go_if_settled();
        let volume = Arc::clone(self);
        tokio::spawn(async move {
            if volume.is_open()
                && let Err(error) = volume.shared.within_deadline("stat", volume.resync()).await
            {
                tracing::debug!(volume = %volume.path, %error, "cannot look at it yet");
            }
        });
    }

    /// Learns from a look at the volume whether it was fenced while there was no session.
    pub(super) fn heed_look(self: &Arc<Self>, bound: &R::Volume) {
        if R::is_fenced(bound) {
            let text = format!(
                "'{}' was written by another client while there was no connection",
                self.path
            );
            self.heed(&Error::new(ErrorKind::Fenced, text));
        }
    }

    /// The server asks for the lease. True if that is new: then [`Self::give_back`] is to be called.
    pub fn is_recalled(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().recalled, true)
    }

    /// Gives the lease back if nobody here needs it: once all that was written is flushed.
    pub async fn give_back(self: &Arc<Self>) -> Result<Recalled> {
        let given = self.try_give_back().await;
        self.state.lock().recalled = false;
        given
    }

    /// A descriptor that may write is being closed.
    pub fn note_closed(&self) {
        self.state.lock().closed_at = Some(Instant::now());
    }

    /// True once nobody writes here; false if that is not about to be.
    async fn is_released(&self) -> bool {
        loop {
            let mut released = std::pin::pin!(self.progress.notified());
            released.as_mut().enable();
            let closed_at = {
                let state = self.state.lock();
                if state.writers == 0 {
                    return true;
                }
                state.closed_at
            };
            let Some(closed_at) = closed_at else {
                return false;
            };
            if timeout_at(closed_at + RELEASE_WAIT, released).await.is_err() {
                return !self.has_writers();
            }
        }
    }

    /// Flushes what was changed, and what is still under way, whose answer may be here and not taken note of.
    async fn settled(self: &Arc<Self>) -> Result<()> {
        let deadline = Instant::now() + RELEASE_WAIT;
        loop {
            let mut settled = std::pin::pin!(self.progress.notified());
            settled.as_mut().enable();
            self.flush(true).await?;
            if !self.state.lock().back.is_unsettled() || timeout_at(deadline, settled).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn try_give_back(self: &Arc<Self>) -> Result<Recalled> {
        if !self.is_released().await {
            return Ok(Recalled::Needed);
        }
        self.settled().await?;
        let _opening = self.opening.lock().await;
        let (is_needed, is_open) = {
            let state = self.state.lock();
            (state.writers > 0 || state.back.is_unsettled(), state.opens > 0)
        };
        if is_needed {
            return Ok(Recalled::Needed);
        }
        if is_open {
            let reading = self.shared.remote.open(&self.path, self.id, Access::Read);
            let (volume, attr) = self.shared.within_deadline("open", reading).await?;
            self.bind(volume, Access::Read);
            self.update(attr);
        } else {
            self.unbind_if_idle();
        }
        Ok(Recalled::GivenBack)
    }
}
