//! After a crash, and at the end of a run.

use std::time::Duration;

use lacuna::remote::Access;
use lacuna_transport::id::NodeId;
use tokio::time::{sleep, timeout};

use super::{Actor, Limit, RETRY_PAUSE, Role};

/// Once there are no faults any more, a client can work again after so long: a session that it believes in, and whose next probe
/// of the way is far off, has an idle timeout; then come the longest pause before a try, and a handshake.
const CONNECTED_AFTER: Duration = Duration::from_secs(30);
/// A change is known to those who have the volume open after so long, of a good network: events are collected for 50 ms,
/// a look at a volume that failed is tried again after 1 s.
const KNOWN_AFTER: Duration = Duration::from_secs(5);
/// Each handle is told of an earlier failure once.
pub(super) const FLUSH_TRIES: usize = 2;

impl Actor {
    /// Takes over the own volume as the last process left it, or had left it.
    pub(super) async fn recover(&mut self) {
        while !self.take(self.index).await {
            sleep(RETRY_PAUSE).await;
        }
        self.own_turn = self.writing(self.index).map(|to| to.turn);
    }

    /// All is well again: what was written is saved, and all clients see the same.
    pub(super) async fn finish(&mut self) {
        let usable = async {
            while !self.client.is_connected()
                || (self.handles[self.index].is_none()
                    && self.open(self.index, Access::ReadWrite).await.is_err())
            {
                sleep(RETRY_PAUSE).await;
            }
        };
        if timeout(CONNECTED_AFTER, usable).await.is_err() {
            self.wrong_end("has no connection and its volume again");
        }
        self.save(self.index).await;
        self.save_contested().await;
        self.shared.meeting.wait().await;
        self.write_contested().await;
        let dirty = self.client.fs.shared().dirty_bytes();
        if dirty > 0 {
            self.wrong_end(&format!("has {dirty} bytes that are not flushed"));
        }
        self.shared.meeting.wait().await;
        sleep(KNOWN_AFTER).await;
        for volume in 0..self.handles.len() {
            let cells = self.shared.ledger.lock().volumes[volume].cells();
            // Through the handle there is, then through a new one.
            for _ in 0..2 {
                if self.handles[volume].is_none() && self.open(volume, Access::Read).await.is_err() {
                    self.wrong_end("cannot open a volume");
                }
                if let Some(handle) = &mut self.handles[volume] {
                    handle.role = Role::Looks;
                }
                match self.tags(volume, &(0..cells)).await {
                    Some(tags) => self.check(volume, &(0..cells), &tags),
                    None => self.wrong_end("cannot read a volume"),
                }
                self.look_at_map(volume).await;
                self.shut(volume);
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

    /// All that was written to a volume, to the disk.
    pub(super) async fn save(&mut self, volume: usize) {
        let Some(to) = self.writing(volume) else { return };
        let mut saved = Ok(());
        if volume == self.index {
            saved = self.lengthen(to).await;
        }
        for _ in 0..FLUSH_TRIES {
            saved = self.flush(volume, to.turn, to.open).await;
            if saved.is_ok() {
                break;
            }
        }
        if let Err(kind) = saved {
            self.wrong_end(&format!("cannot save v{volume}: {kind:?}"));
        }
    }

    pub(super) fn wrong_end(&self, what: &str) {
        let text = format!("at the end c{} {what}", self.index);
        self.shared.ledger.lock().violation(text);
    }
}
