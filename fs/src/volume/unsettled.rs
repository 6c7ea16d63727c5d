//! After a reconnect: all volumes with something that the server has not flushed.

use tokio::task::JoinSet;

use super::Shared;
use crate::remote::Remote;

/// Volumes that another run of the server is told of at once.
const SETTLING_MAX: usize = 8;

impl<R: Remote> Shared<R> {
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
