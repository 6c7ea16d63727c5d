//! Changes of names: create, remove, rename.

use lacuna_transport::attr::{Attr, NewNode};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::wire::message::RenameMode;

use super::{FileSystem, OpenId};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Access, Remote, SharedPath};

impl<R: Remote> FileSystem<R> {
    /// Makes a volume and opens it for writing; the kernel holds one more reference to it.
    pub async fn create(
        &self,
        parent: NodeId,
        name: &NodeName,
        node: NewNode,
        exclusive: bool,
    ) -> Result<(Attr, OpenId)> {
        let path = self.child(parent, name)?;
        let shared_path = SharedPath::new(path.clone());
        let created = self.shared.remote.create(&shared_path, node, exclusive);
        let created = self.within(("create", &path), created).await;
        self.listings.lock().changed(parent);
        let (bound, attr) = self.shared.note_opened(&path, created)?;
        self.remember(path, &attr);
        let volume = self.namespace.lock().volume(attr.id)?;
        let outcome = volume.created(bound, attr);
        let open = self.keep_open(volume, Access::ReadWrite, outcome);
        Ok((attr, open))
    }

    /// Makes a folder; the kernel holds one more reference to it.
    pub async fn make_folder(&self, parent: NodeId, name: &NodeName, node: NewNode) -> Result<Attr> {
        let path = self.child(parent, name)?;
        let made = self.shared.remote.make_folder(&path, node);
        let made = self.within(("mkdir", &path), made).await;
        self.listings.lock().changed(parent);
        let attr = made?;
        self.remember(path, &attr);
        Ok(attr)
    }

    /// Removes a volume, or an empty folder.
    pub async fn remove(&self, parent: NodeId, name: &NodeName, folder: bool) -> Result<()> {
        let path = self.child(parent, name)?;
        let id = self.namespace.lock().id_at(&path);
        let removed = self.shared.remote.remove(&path, folder, id);
        let removed = self.within(("remove", &path), removed).await;
        self.listings.lock().changed(parent);
        removed?;
        let volume = self.namespace.lock().removed(&path);
        if let Some(volume) = volume {
            volume.discard_if_unlinked();
        }
        Ok(())
    }

    pub async fn rename(
        &self,
        from: (NodeId, &NodeName),
        to: (NodeId, &NodeName),
        mode: RenameMode,
    ) -> Result<()> {
        let folders = [from.0, to.0];
        let (from, to) = (self.child(from.0, from.1)?, self.child(to.0, to.1)?);
        let renamed = self.shared.remote.rename(&from, &to, mode);
        let renamed = self.within(("rename", &from), renamed).await;
        for folder in folders {
            self.listings.lock().changed(folder);
        }
        renamed?;
        if from == to {
            return Ok(());
        }
        let exchange = mode == RenameMode::Exchange;
        let replaced = self.namespace.lock().renamed(&from, &to, exchange);
        if let Some(volume) = replaced {
            volume.discard_if_unlinked();
        }
        Ok(())
    }

    /// Makes changes of the names in a folder durable.
    pub async fn flush_folder(&self, id: NodeId) -> Result<()> {
        let path = self.namespace.lock().path(id)?;
        self.within(("fsync", &path), self.shared.remote.flush_folder(&path))
            .await
    }

    fn child(&self, parent: NodeId, name: &NodeName) -> Result<NodePath> {
        let path = self.namespace.lock().path(parent)?;
        let path = path.join(name);
        path.map_err(|error| Error::new(ErrorKind::NameTooLong, error.to_string()))
    }
}
