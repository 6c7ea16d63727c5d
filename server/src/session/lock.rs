//! `Lock` and `TestLock`, and what the end of a session means to its locks.

use std::sync::Arc;

use lacuna_transport::wire::lock::{LockFound, LockKind, LockRequest, Locked};
use tokio::time::Instant;

use super::Session;
use crate::catalog::OpenNode;
use crate::error::Result;
use crate::locks::table::{Asker, Holder, Mount, Waiter};

impl Session {
    pub(super) async fn lock(self: &Arc<Self>, request: LockRequest) -> Result<Locked> {
        let node = self.node(request.handle)?;
        if request.kind == Some(LockKind::Exclusive) {
            // It keeps others from writing.
            self.may_change()?;
        }
        if request.kind.is_some() && !self.server.locks.is_noted() {
            let server = Arc::clone(&self.server);
            self.blocking(move || {
                if let Err(error) = server.locks.note()
                    && server.locks.is_to_be_told(Instant::now())
                {
                    tracing::warn!(%error, "locks may be lost if this server crashes");
                }
                Ok(())
            })
            .await?;
        }
        let waiter = request.tell.then(|| Waiter {
            session: self.number,
            handle: request.handle,
            events: Arc::clone(&self.party.events),
        });
        let granted = self
            .server
            .locks
            .lock(node.id(), self.asker(), &request, waiter)?;
        let attr = (granted && request.kind.is_some())
            .then(|| node.look())
            .transpose()?;
        Ok(Locked { granted, attr })
    }

    pub(super) fn test_lock(&self, request: &LockRequest) -> Result<LockFound> {
        let node = self.node(request.handle)?;
        let held = self.server.locks.test(node.id(), self.asker(), request)?;
        Ok(LockFound { held })
    }

    /// A handle was closed: with the last one of a volume its locks go.
    pub(super) fn leave_locks_of(&self, closed: &OpenNode) {
        let (id, holder) = (closed.id(), self.asker().holder);
        if self.server.locks.holds(id, holder)
            && !self
                .handles
                .lock()
                .open
                .values()
                .any(|(open, _)| open.is_same(closed))
        {
            self.server.locks.release(id, holder);
        }
    }

    /// The session is over, and nothing of it is under way.
    pub(super) fn leave_locks(&self) {
        let left = self.left.get().is_some_and(|left| *left);
        self.server.locks.leave(self.asker(), left);
    }

    fn asker(&self) -> Asker {
        let mount = self
            .instance
            .get()
            .map_or(Mount::Session(self.number), |key| Mount::Instance(*key));
        Asker {
            holder: Holder {
                client: self.key,
                mount,
            },
            session: self.number,
        }
    }
}
