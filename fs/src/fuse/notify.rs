//! Tells the kernel to drop what it caches of changed volumes.
//!
//! On a thread of its own: a notification locks pages, and the kernel may wait for one of our answers
//! while it holds them, so it must never be sent by a thread that answers requests.

use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::remote::Remote;
use crate::volume::Shared;

/// Runs until the notices are closed.
pub fn start<R: Remote>(shared: Arc<Shared<R>>, notifier: Notifier) -> std::io::Result<JoinHandle<()>> {
    shared.notices.attach();
    std::thread::Builder::new()
        .name("notify".to_owned())
        .spawn(move || {
            while let Some(notice) = shared.notices.take() {
                // From offset 0 without a length: all pages, and the attributes.
                if let Err(error) = notifier.inval_inode(INodeNo(notice.id.0), 0, 0) {
                    tracing::debug!(node = notice.id.0, %error, "the kernel did not take a notification");
                }
            }
        })
}
