//! What a session has under way, so that its successor can wait for the end of it.
//!
//! Work on the blocking pool outlives the task that waits for it: it is waited for, and only what asks whether it is
//! still wanted ([`crate::wanted`]) ends early.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what is under way.
#[derive(Clone, Debug)]
pub(super) struct Work(Arc<watch::Sender<usize>>);

/// Something is under way until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<watch::Sender<usize>>);

impl Work {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub(super) fn begin(&self) -> UnderWay {
        self.0.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(&self.0))
    }

    /// Waits until nothing is.
    pub(super) async fn ended(&self) {
        // The sender is right here: this cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
