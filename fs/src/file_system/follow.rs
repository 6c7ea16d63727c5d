//! What goes on beside the calls, for as long as there is a file system: taking in what the server tells, and
//! having flushed what is old.
//!
//! After a reconnect every open volume is looked at again: by whoever asks something of it, at once, and all others
//! in the background, a few at a time. However many are open, a request waits for its own volume alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::Handle;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::FileSystem;
use crate::error::ErrorKind;
use crate::remote::{Event, Remote};
use crate::volume::Volume;
use crate::volume::lease::Recalled;

/// How often old changes are looked for.
const TEND_PAUSE: Duration = Duration::from_millis(500);

/// After a reconnect: volumes that are looked at in the background at once. They leave the lanes to those who wait.
pub const LOOKS_MAX: usize = 4;
/// How long one look at a volume may take, and the pause before the next try.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A handle whose lease is asked for, and that is not known yet, is looked for this often, with this pause: well
/// within the time that the server waits for an answer.
const RECALL_LOOKS_MAX: usize = 20;
const RECALL_PAUSE: Duration = Duration::from_millis(100);
/// Handles that are looked for at once. Who asked for the lease of one more waits in vain.
const RECALLS_EARLY_MAX: usize = 64;

/// Takes in what the server tells. Ends with the link.
pub async fn follow<R: Remote>(fs: Arc<FileSystem<R>>, mut events: mpsc::Receiver<Event>) {
    let due = Arc::new(Due::default());
    let early = Arc::new(Semaphore::new(RECALLS_EARLY_MAX));
    // They end with this.
    let mut lookers = JoinSet::new();
    for _ in 0..LOOKS_MAX {
        lookers.spawn(Arc::clone(&due).look());
    }
    while let Some(event) = events.recv().await {
        match event {
            Event::Changed(change) => fs.changed(&change),
            Event::Recalled(session, handle) => {
                if let Some(volume) = fs.volume_bound(session, handle) {
                    recalled(&fs, volume);
                } else if let Ok(permit) = Arc::clone(&early).try_acquire_owned() {
                    let fs = Arc::clone(&fs);
                    tokio::spawn(async move {
                        recalled_early(&fs, session, handle).await;
                        drop(permit);
                    });
                }
            }
            Event::LocksFreed => fs.locks_freed(),
            Event::Reconnected => {
                // Changes may have been missed: until a volume was looked at again, nothing about it is
                // answered as if the server would tell.
                let volumes = fs.open_volumes();
                for volume in &volumes {
                    volume.unfollow();
                }
                due.replace(volumes);
                fs.lock_again();
                // Another run of the server gets again what it may have lost.
                fs.shared().send_again();
            }
        }
    }
}

/// The server asks for the lease of a handle whose open it has answered, and the answer was not taken in yet. A handle
/// that is not found for long was closed.
async fn recalled_early<R: Remote>(fs: &Arc<FileSystem<R>>, session: u64, handle: Handle) {
    for _ in 0..RECALL_LOOKS_MAX {
        tokio::time::sleep(RECALL_PAUSE).await;
        if let Some(volume) = fs.volume_bound(session, handle) {
            return recalled(fs, volume);
        }
    }
}

fn recalled<R: Remote>(fs: &Arc<FileSystem<R>>, volume: Arc<Volume<R>>) {
    if volume.is_recalled() {
        tokio::spawn(give_back(Arc::clone(fs), volume));
    }
}

/// Gives the write lease of a volume back, or says that it is needed.
async fn give_back<R: Remote>(fs: Arc<FileSystem<R>>, volume: Arc<Volume<R>>) {
    match volume.give_back().await {
        Ok(Recalled::GivenBack) => return,
        Ok(Recalled::Needed) => {}
        Err(error) => tracing::debug!(volume = %volume.path(), %error, "cannot give the write lease back"),
    }
    if let Ok(bound) = volume.bound() {
        fs.shared().remote.keep_lease(&bound).await;
    }
}

/// Open volumes that were not looked at since the last reconnect, in the order in which that is done: at most as many
/// as are open.
#[derive(Debug)]
struct Due<R: Remote> {
    /// Not before the time that comes with it.
    queue: Mutex<VecDeque<(Instant, Arc<Volume<R>>)>>,
    arrived: Notify,
}

impl<R: Remote> Default for Due<R> {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Notify::new(),
        }
    }
}

impl<R: Remote> Due<R> {
    fn replace(&self, volumes: Vec<Arc<Volume<R>>>) {
        let now = Instant::now();
        let all = volumes.into_iter().map(|volume| (now, volume)).collect();
        let before = std::mem::replace(&mut *self.queue.lock(), all);
        drop(before);
        self.arrived.notify_waiters();
    }

    async fn look(self: Arc<Self>) {
        loop {
            let arrived = self.arrived.notified();
            let next = self.queue.lock().pop_front();
            let Some((not_before, volume)) = next else {
                arrived.await;
                continue;
            };
            // Whoever asked something of it has looked at it already, or it was closed.
            if !volume.is_open() || volume.is_followed() {
                continue;
            }
            tokio::time::sleep_until(not_before).await;
            if !look_at(&volume).await {
                self.queue.lock().push_back((Instant::now() + LOOK_PAUSE, volume));
            }
        }
    }
}

/// Opens a volume in the new session and takes in what changed meanwhile. False if it is to be tried again.
async fn look_at<R: Remote>(volume: &Arc<Volume<R>>) -> bool {
    match tokio::time::timeout(LOOK_TIMEOUT, volume.resync()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {
            tracing::warn!(volume = %volume.path(), %error, "was removed or replaced while there was no connection");
            true
        }
        Ok(Err(error)) => {
            tracing::debug!(volume = %volume.path(), %error, "cannot look at it yet");
            false
        }
        Err(_) => {
            tracing::debug!(volume = %volume.path(), "no answer yet");
            false
        }
    }
}

/// Has what was written long ago flushed, now and then.
pub async fn tend<R: Remote>(fs: Arc<FileSystem<R>>) {
    loop {
        tokio::time::sleep(TEND_PAUSE).await;
        fs.shared().tend();
    }
}

#[cfg(test)]
mod tests;
