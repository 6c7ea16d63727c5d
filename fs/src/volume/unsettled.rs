//! All volumes with something that the server has not flushed: when that is old, in the way, or lost with a run of it.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Shared;
use crate::remote::Remote;

/// Volumes that another run of the server is told of at once.
const SETTLING_MAX: usize = 8;

/// What was applied for so long is flushed.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

impl<R: Remote> Shared<R> {
    /// Has everything sent and flushed, so that its room comes back.
    pub(super) fn make_room(&self) {
        for volume in self.all_unsettled() {
            volume.urge();
            volume.flush_in_background();
        }
    }

    /// Flushes what has been applied for long. To be called now and then.
    pub fn tend(&self) {
        for volume in self.all_unsettled() {
            let old = {
                let state = volume.state.lock();
                let since = state.back.applied_since();
                since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER)
            };
            if old {
                volume.flush_in_background();
            }
        }
    }

    /// There is another session: if it is with another run of the server, that one gets again what the last
    /// may have lost. A few volumes at a time: what is asked for meanwhile does not queue behind them.
    pub fn send_again(&self) {
        let volumes = self.all_unsettled();
        tokio::spawn(async move {
            let mut settling = JoinSet::new();
            for volume in volumes {
                if settling.len() >= SETTLING_MAX {
                    settling.join_next().await;
                }
                settling.spawn(async move {
                    let settled = volume
                        .shared
                        .within_deadline(("send again", &volume.path), volume.settle());
                    if let Err(error) = settled.await {
                        tracing::debug!(volume = %volume.path, %error, "not brought up to date yet");
                    }
                });
            }
            settling.join_all().await;
        });
    }
}
