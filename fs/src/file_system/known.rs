//! What is answered while the server cannot be asked: what it said last, and what this client did since.
//!
//! While it answers, it is asked: nothing here is served then.

use std::pin::pin;
use std::sync::Arc;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use tokio::time::Instant;

use super::FileSystem;
use super::listings::Listed;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Remote;
use crate::volume::Volume;
use crate::volume::waiting::Operation;

/// An answer, and where it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<T> {
    /// The server said it just now.
    Told(T),
    /// It is what was known when the server could not be asked.
    Known(T),
}

impl<T> Said<T> {
    pub(super) fn value(self) -> T {
        match self {
            Self::Told(value) | Self::Known(value) => value,
        }
    }
}

impl Said<Attr> {
    pub(super) fn attr(self) -> Attr {
        self.value()
    }
}

impl<R: Remote> FileSystem<R> {
    /// What the server says, or what is known if it cannot be asked, from the start or before it answered, or has not
    /// answered in time: it is noticed to be silent only after a while. With nothing known it is waited for.
    pub(super) async fn told_or_known<'a, T>(
        &self,
        what: impl Into<Operation<'a>>,
        known: impl Fn() -> Option<Result<T>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Said<T>> {
        let remote = &self.shared.remote;
        if !remote.is_reachable()
            && let Some(answer) = known()
        {
            return answer.map(Said::Known);
        }
        let mut work = pin!(self.within(what, work));
        tokio::select! {
            biased;
            told = &mut work => {
                let is_late = told.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
                return match is_late.then(&known).flatten() {
                    Some(answer) => answer.map(Said::Known),
                    None => told.map(Said::Told),
                };
            }
            () = remote.unreachable() => {}
        }
        match known() {
            Some(answer) => answer.map(Said::Known),
            None => work.await.map(Said::Told),
        }
    }

    /// What is known of a name.
    pub(super) fn known_name(
        &self,
        parent: NodeId,
        name: &NodeName,
        path: &NodePath,
    ) -> Option<Result<Attr>> {
        let known = {
            let namespace = self.namespace.lock();
            let id = namespace.id_at(path);
            id.and_then(|id| namespace.known(id))
        };
        if let Some(attr) = known {
            return Some(Ok(attr));
        }
        let listed = self.listings.lock().find(parent, name)?;
        Some(listed.map_or_else(
            || {
                let text = format!("{path} was not there when the server was last asked");
                Err(Error::new(ErrorKind::NotFound, text))
            },
            |attr| Ok(self.entry_attr(&attr)),
        ))
    }

    /// The names of a folder.
    pub(super) async fn list(&self, folder: NodeId, path: &NodePath) -> Result<Listed> {
        let asked = Instant::now();
        let changes = self.listings.lock().changes();
        let known = || self.listings.lock().of(folder).map(Ok);
        let listed = async {
            let names = Arc::new(self.shared.remote.list(path).await?);
            Ok(Listed { names, asked })
        };
        match self.told_or_known(("readdir", path), known, listed).await? {
            Said::Told(listed) => {
                self.listings.lock().put(folder, listed.clone(), changes);
                Ok(listed)
            }
            Said::Known(listed) => Ok(listed),
        }
    }

    /// Does what relies on what is known of a volume. After a reconnect the volume is looked at first, if the server can
    /// be asked; then one deadline is for both. What is gone at the server is still what it was.
    pub(super) async fn looking_first<T, F: Future<Output = Result<T>>>(
        &self,
        what: &'static str,
        volume: &Arc<Volume<R>>,
        work: impl FnOnce() -> F,
    ) -> Result<T> {
        if !volume.is_due() {
            return work().await;
        }
        // Apart: every future that reads would hold all of it.
        Box::pin(self.look_and_work(what, volume, work())).await
    }

    async fn look_and_work<T>(
        &self,
        what: &'static str,
        volume: &Arc<Volume<R>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let path = volume.path();
        let known = || Some(Ok(()));
        let both = async {
            match self.told_or_known(("look", &path), known, volume.resync()).await {
                Err(error) if !matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => Err(error),
                _ => work.await,
            }
        };
        self.within((what, &path), both).await
    }
}

#[cfg(test)]
mod tests;
