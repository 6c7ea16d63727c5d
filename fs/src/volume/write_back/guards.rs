//! What sees to it that something under way is taken note of, whatever becomes of the task that waits for it.

use std::sync::Arc;

use crate::overlay::BatchId;
use crate::remote::Remote;
use crate::volume::Volume;

/// See [`Volume::keep`].
pub(in super::super) struct Kept<'a, R: Remote>(pub(super) &'a Arc<Volume<R>>);

impl<R: Remote> Drop for Kept<'_, R> {
    fn drop(&mut self) {
        self.0.state.lock().back.under_way -= 1;
        self.0.progress.notify_waiters();
        self.0.let_go_if_settled();
    }
}

/// A batch under way: one whose task is dropped is lost, not forgotten.
pub(super) struct Sending<'a, R: Remote> {
    pub(super) volume: &'a Volume<R>,
    pub(super) batch: Option<BatchId>,
}

impl<R: Remote> Drop for Sending<'_, R> {
    fn drop(&mut self) {
        if let Some(batch) = self.batch {
            self.volume.state.lock().back.overlay.lost(batch);
            self.volume.progress.notify_waiters();
        }
    }
}
