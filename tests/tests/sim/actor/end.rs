//! After a crash, and at the end of a run.

use std::time::Duration;

use lacuna_transport::id::NodeId;
use tokio::time::{sleep, timeout};

use super::{Actor, Limit, RETRY_PAUSE};

/// Once there are no faults any more, a client can work again after so long: a session that it believes in, and whose next probe
/// of the way is far off, has an idle timeout; then come the longest pause before a try, and a handshake.
const CONNECTED_AFTER: Duration = Duration::from_secs(30);
/// A change is known to those who have the volume open after so long, of a good network: events are collected for 50 ms,
/// a look at a volume that failed is tried again after 1 s.
const KNOWN_AFTER: Duration = Duration::from_secs(5);
/// Each handle is told of an earlier failure once.
const FLUSH_TRIES: usize = 2;

impl Actor {
    /// Takes over the own volume as the last process left it, or had left it.
    pub(super) async fn recover(&mut self) {
        loop {
            let losses = self.shared.ledger.lock().volumes[self.index].losses();
            if let Some(handle) = self.handles[self.index].take() {
                self.client.fs.close(handle.open);
                self.client.fs.forget(handle.id, 1);
            }
            let cells = self.shared.ledger.lock().volumes[self.index].cells();
            if self.open(self.index).await
                && let Some(tags) = self.tags(self.index, &(0..cells)).await
                && self.flush_found().await
            {
                let mut ledger = self.shared.ledger.lock();
                if ledger.volumes[self.index].losses() == losses {
                    ledger.note(&format!("c{} goes on with {tags:?}", self.index));
                    let history = &mut ledger.volumes[self.index];
                    let recovered = history.recovered(&tags);
                    let found = history.sure();
                    history.reached_disk(&found);
                    return ledger.expect(&format!("c{}", self.index), recovered);
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// As a database does that recovers: what it found is to stay.
    async fn flush_found(&self) -> bool {
        let Some(handle) = &self.handles[self.index] else {
            return false;
        };
        let flushed = self.client.fs.flush(handle.open, false);
        self.timed("fsync of what it found", Limit::GoesOn, flushed)
            .await
            .is_ok()
    }

    /// All is well again: what was written is saved, and all clients see the same.
    pub(super) async fn finish(&mut self) {
        let usable = async {
            while !self.client.is_connected()
                || (self.handles[self.index].is_none() && !self.open(self.index).await)
            {
                sleep(RETRY_PAUSE).await;
            }
        };
        if timeout(CONNECTED_AFTER, usable).await.is_err() {
            self.wrong_end("has no connection and its volume again");
        }
        self.save().await;
        self.shared.meeting.wait().await;
        sleep(KNOWN_AFTER).await;
        for volume in 0..self.handles.len() {
            let cells = self.shared.ledger.lock().volumes[volume].cells();
            // Through the handle there is, then through a new one.
            for _ in 0..2 {
                if self.handles[volume].is_none() && !self.open(volume).await {
                    self.wrong_end("cannot open a volume");
                }
                if let Some(handle) = &mut self.handles[volume] {
                    // It knows everything by now.
                    handle.view = None;
                }
                match self.tags(volume, &(0..cells)).await {
                    Some(tags) => self.check(volume, &(0..cells), &tags),
                    None => self.wrong_end("cannot read a volume"),
                }
                self.look_at_map(volume).await;
                if let Some(handle) = self.handles[volume].take() {
                    self.client.fs.close(handle.open);
                    self.client.fs.forget(handle.id, 1);
                }
            }
        }
        for name in std::mem::take(&mut self.names) {
            let found = self.client.fs.lookup(NodeId::ROOT, &name);
            match self.timed("lookup", Limit::Deadline, found).await {
                Ok(attr) => self.client.fs.forget(attr.id, 1),
                Err(_) => self.wrong_end("misses a name that it made"),
            }
        }
        self.shared.meeting.wait().await;
    }

    /// All that was written, to the disk.
    async fn save(&mut self) {
        let then = self.shared.ledger.lock().volumes[self.index].sure();
        let mut saved = self.lengthen().await;
        for _ in 0..FLUSH_TRIES {
            if let Some(handle) = &self.handles[self.index] {
                saved = self
                    .timed(
                        "last fsync",
                        Limit::GoesOn,
                        self.client.fs.flush(handle.open, false),
                    )
                    .await;
            }
            if saved.is_ok() {
                break;
            }
        }
        match saved {
            Ok(()) => self.shared.ledger.lock().volumes[self.index].reached_disk(&then),
            Err(kind) => self.wrong_end(&format!("cannot save its volume: {kind:?}")),
        }
        let dirty = self.client.fs.shared().dirty_bytes();
        if dirty > 0 {
            self.wrong_end(&format!("has {dirty} bytes that are not flushed"));
        }
    }

    fn wrong_end(&self, what: &str) {
        let text = format!("at the end c{} {what}", self.index);
        self.shared.ledger.lock().violation(text);
    }
}
