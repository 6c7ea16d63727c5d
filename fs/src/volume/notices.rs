//! Volumes whose kernel caches are out of date, on their way to the kernel.
//!
//! A set: bounded by the number of volumes the kernel knows, and one that changes often is told once.
//! Posted by whoever learns of a change, taken by the one thread that may talk to the kernel. An open
//! waits until what was posted is delivered, so that the kernel's old size is gone before the first call
//! on the new handle.

use std::collections::BTreeSet;
use std::time::Duration;

use lacuna_transport::id::NodeId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};

/// How long an open waits for the kernel. It answers in microseconds, but for a page that is locked by a
/// read whose data is still on its way.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a seek waits for dirty pages of a mapping: they may have to wait for room.
const LAUNDER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Queue {
    posted: BTreeSet<NodeId>,
    /// Taken and not done.
    taken: Option<NodeId>,
    /// Someone takes them: without a mount nobody does, and nobody waits.
    attached: bool,
}

#[derive(Debug, Default)]
pub struct Notices {
    queue: Mutex<Queue>,
    arrived: Condvar,
    delivered: watch::Sender<()>,
}

/// A notice on its way to the kernel; dropping it says that it has arrived.
#[derive(Debug)]
pub struct Taken<'a> {
    notices: &'a Notices,
    pub id: NodeId,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.notices.queue.lock().taken = None;
        self.notices.delivered.send_replace(());
    }
}

impl Notices {
    pub fn post(&self, id: NodeId) {
        self.queue.lock().posted.insert(id);
        self.arrived.notify_one();
    }

    /// Someone is about to take them.
    pub fn attach(&self) {
        self.queue.lock().attached = true;
    }

    /// Waits for the next one; `None` once closed.
    pub fn take(&self) -> Option<Taken<'_>> {
        let mut queue = self.queue.lock();
        loop {
            if !queue.attached {
                return None;
            }
            if let Some(id) = queue.posted.pop_first() {
                queue.taken = Some(id);
                return Some(Taken { notices: self, id });
            }
            self.arrived.wait(&mut queue);
        }
    }

    pub fn is_attached(&self) -> bool {
        self.queue.lock().attached
    }

    /// Has the kernel write back and drop its pages of `id`.
    pub async fn launder(&self, id: NodeId) -> Result<()> {
        if !self.is_attached() {
            return Ok(());
        }
        self.post(id);
        if self.delivered_within(id, LAUNDER_TIMEOUT).await {
            return Ok(());
        }
        let text = "the kernel does not hand out the pages that were dirtied through a mapping";
        Err(Error::new(ErrorKind::TimedOut, text))
    }

    /// Waits until nothing about `id` is on its way, or for long enough.
    pub async fn delivered(&self, id: NodeId) {
        if !self.delivered_within(id, DELIVERY_TIMEOUT).await {
            tracing::warn!(node = id.0, "the kernel does not take a notification");
        }
    }

    async fn delivered_within(&self, id: NodeId, limit: Duration) -> bool {
        let mut delivered = self.delivered.subscribe();
        let pending = || {
            let queue = self.queue.lock();
            queue.attached && (queue.posted.contains(&id) || queue.taken == Some(id))
        };
        let wait = async {
            while pending() {
                if delivered.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    pub fn close(&self) {
        self.queue.lock().attached = false;
        self.arrived.notify_all();
        self.delivered.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_seek_goes_on_when_the_kernel_has_been_told() {
        let notices = Arc::new(Notices::default());
        notices
            .launder(NodeId(5))
            .await
            .expect("without a mount nobody is told");
        notices.attach();
        let teller = std::thread::spawn({
            let notices = Arc::clone(&notices);
            move || {
                let mut told = Vec::new();
                while let Some(taken) = notices.take() {
                    told.push(taken.id);
                }
                told
            }
        });
        let begun = std::time::Instant::now();
        notices.launder(NodeId(5)).await.unwrap();
        notices.delivered(NodeId(5)).await;
        assert!(
            begun.elapsed() < DELIVERY_TIMEOUT,
            "nobody said that it had arrived"
        );
        notices.close();
        assert_eq!(teller.join().unwrap(), [NodeId(5)]);
    }
}
