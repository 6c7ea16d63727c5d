//! Having the server flush what it has, and what is sent last with it.
//!
//! | what is to be sent | requests of an fsync |
//! |---|---|
//! | nothing | a flush |
//! | what one write carries, and nothing is on its way | that write, flushed by the server before it answers |
//! | more, holes, a new size | all of it, then a flush |

use std::sync::Arc;

use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::id::BootId;

use super::super::Volume;
use super::super::unflushed::Unflushed;
use super::guards::Sending;
use super::{Delivered, LOST_PAUSE, WriteBack, is_gone};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::{Batch, Work};
use crate::remote::{Named, Remote};

impl WriteBack {
    /// All there is to send, if one write can carry it to this run of the server and a flush behind that is all there is
    /// to an fsync.
    fn take_last(&mut self, boot: BootId) -> Option<Batch> {
        let nothing_first = self.is_with(boot)
            && !self.behind
            && !self.times_behind
            && self.grown_to.is_none()
            && self.stuck.is_none();
        nothing_first.then(|| self.overlay.take_whole()).flatten()
    }

    /// A batch was answered just now, and flushed, as what had been answered when it was sent. What was answered
    /// meanwhile may have come too late for it.
    pub(super) fn note_flush_behind(&mut self, unflushed: Unflushed) {
        let own = unflushed.answers + 1;
        let alone = self.overlay.answers() == own;
        self.note_flush(if alone { own } else { unflushed.answers });
        self.by_others.note_flush(unflushed.by_others);
    }
}

impl<R: Remote> Volume<R> {
    /// Returns when everything written so far is on the server's stable storage.
    pub async fn flush(self: &Arc<Self>, data_only: bool) -> Result<()> {
        // Apart: every future that flushes would hold all of it.
        if Box::pin(self.write_and_flush(data_only)).await? {
            return Ok(());
        }
        loop {
            self.drain_all().await?;
            let Some(unflushed) = self.unflushed() else {
                self.let_go_if_settled();
                return Ok(());
            };
            let shared = Arc::clone(&self.shared);
            let boot = shared
                .within_deadline(("fsync", &self.path), self.settle())
                .await?;
            if unflushed.own_with.is_some_and(|run| run != boot) {
                // What was answered by another run is on its way again.
                continue;
            }
            let flushed = shared
                .within_deadline(("fsync", &self.path), self.flush_once(boot, data_only))
                .await;
            match flushed {
                Ok(attr) => {
                    let mut state = self.state.lock();
                    state.back.note_flush(unflushed.answers);
                    state.back.by_others.note_flush(unflushed.by_others);
                    self.answered_with(&mut state, attr);
                    drop(state);
                    self.let_go_if_settled();
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(error),
                Err(error) if self.passes(&error) => {
                    tracing::debug!(volume = %self.path, %error, "a flush was lost; trying again");
                    tokio::time::sleep(LOST_PAUSE).await;
                }
                Err(error) if unflushed.own_with.is_none() => return Err(error),
                Err(error) => {
                    self.send_all_again(Some(&error)).await;
                    return Err(error);
                }
            }
        }
    }

    /// Sends all there is to send as one write that is flushed with what came before. False if there is more to it, or
    /// it did not come through: nothing is lost then, and the long way tells why.
    async fn write_and_flush(self: &Arc<Self>, data_only: bool) -> Result<bool> {
        if !self.state.lock().back.overlay.has_dirty() {
            return Ok(false);
        }
        let shared = Arc::clone(&self.shared);
        let sent = async {
            // An error is met again, and told, by the task that sends.
            let Ok(boot) = self.settle().await else {
                return Ok(false);
            };
            let taken = {
                let mut state = self.state.lock();
                let unflushed = Unflushed {
                    answers: state.back.overlay.answers(),
                    own_with: Some(boot),
                    by_others: state.back.by_others.seen(),
                };
                let fences = state.fences;
                let batch = state.back.take_last(boot);
                batch.map(|batch| (batch, fences, unflushed))
            };
            match taken {
                Some((batch, fences, unflushed)) => {
                    self.send_last(&batch, fences, unflushed, data_only).await
                }
                None => Ok(false),
            }
        };
        shared.while_it_goes_on(("send", &self.path), sent).await
    }

    /// See [`Self::write_and_flush`].
    async fn send_last(
        self: &Arc<Self>,
        batch: &Batch,
        fences: u64,
        unflushed: Unflushed,
        data_only: bool,
    ) -> Result<bool> {
        let (Work::Write(ranges, slices), Some(boot)) = (batch.work.clone(), unflushed.own_with) else {
            return Ok(false);
        };
        let mut sending = Sending {
            volume: self,
            batch: Some(batch.id),
        };
        let sent = async {
            let bound = self.bound_under(fences)?;
            let remote = &self.shared.remote;
            remote
                .write_and_flush(&bound, boot, ranges, slices, data_only)
                .await
        };
        let outcome = sent.await;
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Refused) {
            // Its parts are looked at one by one.
            return Ok(false);
        }
        sending.batch = None;
        let error = outcome.as_ref().err().cloned();
        let sent_bytes = batch.work.data_bytes();
        let delivered = outcome.map(|attr| {
            self.shared.counters.sent_bytes.add(sent_bytes);
            Delivered {
                flushed: Some(unflushed),
                ..Delivered::new(boot, attr)
            }
        });
        let again = self.delivered(batch, delivered);
        match error {
            None => {
                self.let_go_if_settled();
                Ok(self.state.lock().back.is_with(boot))
            }
            Some(_) if again => {
                tokio::time::sleep(LOST_PAUSE).await;
                Ok(false)
            }
            Some(error) if is_gone(error.kind()) => Ok(false),
            Some(error) => {
                // The write or the flush: nobody knows.
                self.send_all_again(None).await;
                Err(error)
            }
        }
    }

    /// A flush failed: what the server had may be gone from its memory too; here it is not. `error`: if it was not taken
    /// note of yet.
    async fn send_all_again(self: &Arc<Self>, error: Option<&Error>) {
        // Beside a change that waits for its answer it must not be sent again.
        let _pass = self.gate.read().await;
        let mut state = self.state.lock();
        state.back.overlay.unapply();
        error.into_iter().for_each(|error| state.back.note_failure(error));
        self.wake_writer(&mut state);
    }

    /// Has the server flush what it has answered, and sets times before that what was sent again has moved.
    async fn flush_once(&self, boot: BootId, data_only: bool) -> Result<Attr> {
        let (remote, bound) = (&self.shared.remote, self.bound()?);
        if let Some(times) = self.times_behind() {
            remote.set_attr(Named::Open(&*bound), times).await?;
            self.state.lock().back.times_behind = false;
        }
        remote.flush(&*bound, boot, data_only).await
    }

    /// Times to set again, once all that moves them was sent again.
    fn times_behind(&self) -> Option<NewAttr> {
        let back = &self.state.lock().back;
        back.times.filter(|_| back.times_behind)
    }

    /// What a flush has to cover now, if there is something.
    fn unflushed(&self) -> Option<Unflushed> {
        let state = self.state.lock();
        let (back, own) = (&state.back, state.back.is_unflushed());
        // Of a closed volume nobody asks but for what was written here.
        let others = state.opens > 0 && back.by_others.is_unflushed();
        (own || others).then(|| Unflushed {
            answers: back.overlay.answers(),
            own_with: back.boot.filter(|_| own),
            by_others: back.by_others.seen(),
        })
    }

    pub(in super::super) fn flush_in_background(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let wanted = state.back.is_unflushed() && !state.back.flushing;
        state.back.flushing |= wanted;
        drop(state);
        if !wanted {
            return;
        }
        let volume = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = volume.flush(true).await {
                tracing::warn!(volume = %volume.path, %error, "cannot flush in the background");
            }
            let mut state = volume.state.lock();
            state.back.flushing = false;
        });
    }
}
