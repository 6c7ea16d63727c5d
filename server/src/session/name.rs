//! Changes of names: create, make a folder, remove, rename; and their flush. Each with effect once, see
//! [`crate::operations`]: the functions `was_…` here are what judges one that a crash interrupted.

use std::sync::Arc;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NodeKind};
use lacuna_transport::id::OperationId;
use lacuna_transport::path::NodePath;
use lacuna_transport::wire::message::{
    CreateRequest, MakeFolderRequest, Opened, RemoveRequest, RenameMode, RenameRequest,
};

use super::Session;
use crate::backend::{Backend, OpenVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::operations::{ClientTag, Intent, NodeTag, Once, OperationKey, OperationKind};
use crate::serve::Server;

/// Birth times come from a clock that lags behind the one of intents by up to two ticks.
const BIRTH_LAG_NS: u64 = 20_000_000;
/// Set-group-id, which a folder inherits.
const SET_GROUP_ID: u32 = 0o2000;

impl Session {
    pub(super) async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<Opened> {
        self.may_change()?;
        let (handle, place) = self.next_handle()?;
        let key = self.operation_key(request.operation);
        let (server, path) = (Arc::clone(&self.server), request.path.clone());
        let volume = self.blocking(move || create_once(&server, key, &request)).await?;
        let lease = self.lease(&volume, &path, handle, None).await?;
        self.opened(volume, (handle, place), Some(lease)).await
    }

    pub(super) async fn make_folder(self: &Arc<Self>, request: MakeFolderRequest) -> Result<Attr> {
        self.may_change()?;
        let key = self.operation_key(request.operation);
        let (server, session) = (Arc::clone(&self.server), self.party.session);
        self.blocking(move || {
            let attr = make_folder_once(&server, key, &request)?;
            Ok(server.catalog.with_generation(attr, session))
        })
        .await
    }

    pub(super) async fn remove(self: &Arc<Self>, request: RemoveRequest) -> Result<()> {
        self.may_change()?;
        let key = self.operation_key(request.operation);
        if !request.folder && !self.was_done(key) {
            self.nobody_writes(&request.path).await?;
        }
        let (server, session) = (Arc::clone(&self.server), self.party.session);
        self.blocking(move || remove_once(&server, key, &request, session))
            .await
    }

    pub(super) async fn rename(self: &Arc<Self>, request: RenameRequest) -> Result<()> {
        self.may_change()?;
        let key = self.operation_key(request.operation);
        if request.mode == RenameMode::Replace && !self.was_done(key) {
            self.nobody_writes(&request.to).await?;
        }
        let (server, session) = (Arc::clone(&self.server), self.party.session);
        self.blocking(move || rename_once(&server, key, &request, session))
            .await
    }

    pub(super) async fn flush_folder(self: &Arc<Self>, path: NodePath) -> Result<()> {
        let server = Arc::clone(&self.server);
        self.blocking(move || server.backend.flush_folder(&path)).await
    }

    /// It is sent again, and only its outcome is asked for: by now the name may be another volume's.
    fn was_done(&self, key: Option<OperationKey>) -> bool {
        key.is_some_and(|key| self.server.operations.was_done(key))
    }

    /// `None` for a client that names no instance: nothing is remembered of it.
    fn operation_key(&self, operation: OperationId) -> Option<OperationKey> {
        let instance = self.instance.get().copied()?;
        Some(OperationKey {
            client: ClientTag::of(self.key),
            instance,
            operation,
        })
    }
}

fn create_once(
    server: &Server,
    key: Option<OperationKey>,
    CreateRequest {
        path,
        node,
        exclusive,
        ..
    }: &CreateRequest,
) -> Result<Arc<dyn OpenVolume>> {
    let backend = &*server.backend;
    let created = server.operations.once(
        key,
        OperationKind::Create,
        |intent| was_made(backend, path, node, NodeKind::Volume, intent),
        |intend| {
            let mut announce = |attr: Option<&Attr>| intend(attr.map(NodeTag::of));
            let created = backend.create(path, node, *exclusive, &mut announce)?;
            let tag = NodeTag::of(&created.volume.attr()?);
            Ok((Some(tag), created.volume))
        },
    )?;
    match created {
        Once::Now(volume) => Ok(volume),
        Once::Before(tag) => {
            let volume = backend.open(path)?;
            let same = Some(NodeTag::of(&volume.attr()?)) == tag;
            same.then_some(volume).ok_or_else(|| gone(path))
        }
    }
}

fn make_folder_once(
    server: &Server,
    key: Option<OperationKey>,
    MakeFolderRequest { path, node, .. }: &MakeFolderRequest,
) -> Result<Attr> {
    let backend = &*server.backend;
    let made = server.operations.once(
        key,
        OperationKind::MakeFolder,
        |intent| was_made(backend, path, node, NodeKind::Folder, intent),
        |intend| {
            intend(None);
            let attr = backend.make_folder(path, node)?;
            Ok((Some(NodeTag::of(&attr)), attr))
        },
    )?;
    match made {
        Once::Now(attr) => Ok(attr),
        Once::Before(tag) => {
            let attr = backend.stat(path)?;
            let same = Some(NodeTag::of(&attr)) == tag;
            same.then_some(attr).ok_or_else(|| gone(path))
        }
    }
}

fn remove_once(
    server: &Server,
    key: Option<OperationKey>,
    RemoveRequest { path, folder, id, .. }: &RemoveRequest,
    session: u64,
) -> Result<()> {
    let backend = &*server.backend;
    server.operations.once(
        key,
        OperationKind::Remove,
        |intent| {
            let there = found(backend, path)?.map(|attr| NodeTag::of(&attr));
            Ok((there != intent.node).then_some(None))
        },
        |intend| {
            let attr = backend.stat(path)?;
            // What its inode tells of this is not a change by another program.
            let _change = server.catalog.change_attr(&attr, session);
            intend(Some(NodeTag::of(&attr)));
            backend.remove(path, *folder, *id)?;
            Ok((None, ()))
        },
    )?;
    Ok(())
}

fn rename_once(
    server: &Server,
    key: Option<OperationKey>,
    RenameRequest { from, to, mode, .. }: &RenameRequest,
    session: u64,
) -> Result<()> {
    let backend = &*server.backend;
    server.operations.once(
        key,
        OperationKind::Rename,
        |intent| {
            let there = found(backend, to)?.map(|attr| NodeTag::of(&attr));
            Ok((there == intent.node).then_some(None))
        },
        |intend| {
            let attr = backend.stat(from)?;
            let replaced = found(backend, to)?.filter(|replaced| replaced.id != attr.id);
            let _change = server.catalog.change_attr(&attr, session);
            let _replaced = replaced.and_then(|attr| server.catalog.change_attr(&attr, session));
            intend(Some(NodeTag::of(&attr)));
            backend.rename(from, to, *mode)?;
            Ok((None, ()))
        },
    )?;
    Ok(())
}

/// A node that was to be made: told by its id; where there was none yet by its birth and that nothing is in
/// it. The latter may lack its owner and mode: they are set, again or not.
fn was_made(
    backend: &dyn Backend,
    path: &NodePath,
    node: &NewNode,
    kind: NodeKind,
    intent: &Intent,
) -> Result<Option<Option<NodeTag>>> {
    let Some(attr) = found(backend, path)? else {
        return Ok(None);
    };
    let tag = NodeTag::of(&attr);
    if let Some(made) = intent.node {
        return Ok((made == tag).then_some(Some(tag)));
    }
    let born_since = attr.birth_ns != 0 && attr.birth_ns.saturating_add(BIRTH_LAG_NS) >= intent.at_ns;
    let is_empty = attr.kind == kind
        && match kind {
            NodeKind::Volume => attr.size == 0,
            NodeKind::Folder => is_empty_folder(backend, path)?,
        };
    if !born_since || !is_empty {
        return Ok(None);
    }
    let inherited = match kind {
        NodeKind::Folder => attr.mode & SET_GROUP_ID,
        NodeKind::Volume => 0,
    };
    let new = NewAttr {
        mode: Some(node.mode | inherited),
        uid: Some(node.uid),
        gid: (inherited == 0).then_some(node.gid),
        ..NewAttr::default()
    };
    match backend.set_attr(path, &new) {
        // A server that is not root could not give it away when it made it either.
        Err(error) if error.kind() != ErrorKind::NotPermitted => Err(error),
        _ => Ok(Some(Some(tag))),
    }
}

fn found(backend: &dyn Backend, path: &NodePath) -> Result<Option<Attr>> {
    match backend.stat(path) {
        Ok(attr) => Ok(Some(attr)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotFolder) => Ok(None),
        Err(error) => Err(error),
    }
}

fn gone(path: &NodePath) -> Error {
    Error::new(
        ErrorKind::Stale,
        format!("'{path}' was made, and is another one by now"),
    )
}

fn is_empty_folder(backend: &dyn Backend, path: &NodePath) -> Result<bool> {
    let mut empty = true;
    let visited = backend.visit(path, &mut |_, _| {
        empty = false;
        Err(Error::new(ErrorKind::NotEmpty, "one is enough"))
    });
    if empty { visited.map(|()| true) } else { Ok(false) }
}

#[cfg(test)]
mod tests;
