//! SIGINT and SIGTERM to a transfer: the first ends it in good order, the second at once.
//!
//! Signals are counted from when this is made, so that none is lost between two steps that look for them.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// See the module. Clones count the same signals.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// Takes the signals from here on; without it they end the program. Needs a runtime.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut terminates = signal(SignalKind::terminate())?;
        let (sender, count) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminates.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(count))
    }

    /// Resolves when the user, or the system, wants an end.
    pub(super) async fn once(&self) {
        self.at_least(1).await;
    }

    /// Resolves when they do not want to wait for it.
    pub(super) async fn twice(&self) {
        self.at_least(2).await;
    }

    async fn at_least(&self, wanted: u32) {
        let reached = self.0.clone().wait_for(|count| *count >= wanted).await.is_ok();
        if !reached {
            // The runtime ends: nobody listens any more.
            std::future::pending().await
        }
    }
}
