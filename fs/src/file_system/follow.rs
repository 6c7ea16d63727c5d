//! What goes on beside the calls, for as long as there is a file system: taking in what the server tells, and
//! having flushed what is old.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::FileSystem;
use crate::error::ErrorKind;
use crate::remote::link::Event;
use crate::remote::quic::QuicRemote;
use crate::volume::Volume;

/// How often old changes are looked for.
const TEND_PAUSE: Duration = Duration::from_millis(500);

/// After a reconnect: how long one look at a volume may take, and the pause before the next try.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Takes in what the server tells. Ends with the link.
pub async fn follow(fs: Arc<FileSystem<QuicRemote>>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Changed(change) => fs.changed(&change),
            Event::LocksFreed => fs.locks_freed(),
            Event::Reconnected => {
                // Changes may have been missed: until a volume was looked at again, nothing about it is
                // answered as if the server would tell.
                for volume in fs.open_volumes() {
                    volume.unfollow();
                    tokio::spawn(look_again(volume));
                }
                fs.lock_again();
                // Another run of the server gets again what it may have lost.
                fs.shared().send_again();
            }
        }
    }
}

/// Opens a volume in the new session and takes in what changed meanwhile; tries until it works, the
/// volume is closed, or it is gone.
async fn look_again(volume: Arc<Volume<QuicRemote>>) {
    while volume.is_open() {
        match tokio::time::timeout(LOOK_TIMEOUT, volume.resync()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {
                tracing::warn!(volume = %volume.path(), %error, "was removed or replaced while there was no connection");
                return;
            }
            Ok(Err(error)) => {
                tracing::debug!(volume = %volume.path(), %error, "cannot look at it yet");
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            Err(_) => tracing::debug!(volume = %volume.path(), "no answer yet"),
        }
    }
}

/// Has what was written long ago flushed, now and then.
pub async fn tend(fs: Arc<FileSystem<QuicRemote>>) {
    loop {
        tokio::time::sleep(TEND_PAUSE).await;
        fs.shared().tend();
    }
}
