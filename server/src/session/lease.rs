//! Getting the write lease of a volume for a handle, and giving it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::{Handle, LeaseId};
use lacuna_transport::path::NodePath;
use tokio::time::{Instant, timeout_at};

use super::Session;
use crate::backend::OpenVolume;
use crate::catalog::OpenNode;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::lease::table::Held;
use crate::lease::{self, Holder, Outcome, RECALL_TIMEOUT, WriteLease};
use crate::operations::{InstanceKey, NodeTag};

impl Session {
    /// The lease of `volume`, for a handle that is about to be opened. A holder that does not need it is asked to
    /// give it back, and waited for.
    pub(super) async fn lease(
        self: &Arc<Self>,
        volume: &Arc<dyn OpenVolume>,
        path: &NodePath,
        handle: Handle,
        resume: Option<LeaseId>,
    ) -> Result<WriteLease> {
        let holder = self.holder(path);
        let (leases, volume) = (Arc::clone(&self.server.leases), Arc::clone(volume));
        let opener = (self.number, handle);
        let attempt = move || {
            let tag = NodeTag::of(&volume.attr()?);
            leases.acquire(tag, &holder, opener, resume)
        };
        self.granted(attempt).await
    }

    /// Waits until nobody else writes to the volume at `path`, which is about to lose its name. It may not be there.
    pub(super) async fn nobody_writes(self: &Arc<Self>, path: &NodePath) -> Result<()> {
        let (server, path, key) = (Arc::clone(&self.server), path.clone(), self.holder_key());
        let attempt = move || match server.backend.stat(&path) {
            Ok(attr) => Ok(match server.leases.held_by_other(NodeTag::of(&attr), key) {
                Some(held) => Outcome::Wait(Some(held)),
                None => Outcome::Granted(()),
            }),
            // Whoever changes the name finds out.
            Err(_) => Ok(Outcome::Granted(())),
        };
        self.granted(attempt).await
    }

    /// Tries until it is granted, refused or too late. Who has a lease is asked for it once.
    async fn granted<T: Send + 'static>(
        self: &Arc<Self>,
        attempt: impl Fn() -> Result<Outcome<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + self.recall_timeout();
        let mut asked: Option<Held> = None;
        loop {
            let mut changes = self.server.leases.changes();
            let refusal = match self.blocking(attempt.clone()).await? {
                Outcome::Granted(granted) => return Ok(granted),
                Outcome::Wait(None) => lease::busy_ending(),
                Outcome::Wait(Some(held)) => {
                    let refusal = lease::busy(&held);
                    let is_kept = asked.as_ref().is_some_and(|asked| asked.keeps != held.keeps);
                    let is_asked = asked.as_ref().is_some_and(|asked| asked.opener == held.opener);
                    if is_kept || !(is_asked || self.server.leases.recall(&held, &self.who())) {
                        // Its session ended since it was looked at: then it is free or lingers by now.
                        if !is_kept && held.opener.is_some() && changes.has_changed().unwrap_or(false) {
                            continue;
                        }
                        return Err(refusal);
                    }
                    asked = Some(held);
                    refusal
                }
            };
            let Ok(Ok(())) = timeout_at(deadline, changes.changed()).await else {
                return Err(refusal);
            };
        }
    }

    /// So that a client that does not wait for long is told who writes, and does not give up before: half of its time,
    /// the other half is for the way.
    fn recall_timeout(&self) -> Duration {
        let patience = self.patience.get().copied().unwrap_or(Duration::MAX);
        RECALL_TIMEOUT.min(patience / 2)
    }

    /// Its client was asked to give the lease of a volume back, and needs it.
    pub(super) fn keep_lease(&self, handle: Handle) -> Result<()> {
        let node = self.node(handle)?;
        let lease = node.lease().ok_or_else(|| {
            let text = format!("handle {} has no lease", handle.0);
            Error::new(ErrorKind::Invalid, text)
        })?;
        lease.keep();
        Ok(())
    }

    /// The session is over, and with it its handles. A client that has not said goodbye may come back for its leases.
    /// Blocks.
    pub(super) fn part_from_leases(&self, open: HashMap<Handle, Arc<OpenNode>>) {
        let clean = self.left.get().is_some_and(|left| *left);
        for lease in open.values().filter_map(|node| node.lease()).filter(|_| !clean) {
            lease.abandon();
        }
        drop(open);
        if clean {
            self.server.leases.forget_holder(self.holder_key());
        }
    }

    fn holder(&self, path: &NodePath) -> Holder {
        Holder {
            key: self.holder_key(),
            name: self.name.clone(),
            address: self.address.to_string(),
            path: path.to_string(),
            since_ns: clock::now_ns(),
        }
    }

    /// A client that names no instance is another one in each session.
    fn holder_key(&self) -> InstanceKey {
        let instance = self.instance.get().copied();
        instance.unwrap_or_else(|| InstanceKey::of_session(self.server.boot, self.number))
    }

    fn who(&self) -> String {
        format!("{} ({})", self.name, self.address)
    }
}
