//! An export that is a folder and, at its root, volumes that are kept elsewhere: block devices, streams.
//!
//! | call on the name of such a volume | answer |
//! |---|---|
//! | stat, list, open, set attributes | as for any volume |
//! | create | opens it; `Exists` if exclusive |
//! | make a folder | `Exists` |
//! | remove, rename, in either place | `NotPermitted`: the operator gave it this name |
//!
//! A name must be free in the folder when the export is made; what gets it in the folder later is not shown.
//! All else, space included, is the folder's.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewAttr, NewNode, Space};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;
use sha2::{Digest, Sha256};

use super::{Backend, Created, OpenVolume};
use crate::error::{Error, ErrorKind, Result};

/// Ids of named volumes have these two bits; no id of a folder's nodes has both.
const NAMED: u64 = 3 << 62;

/// A volume that the operator gave a name at the root of an export.
pub trait NamedVolume: Debug + Send + Sync + 'static {
    /// Attributes now. The id is [`named_id`] of its name.
    fn attr(&self) -> Result<Attr>;

    /// As [`Backend::open`].
    fn open(&self) -> Result<Arc<dyn OpenVolume>>;

    /// As [`Backend::set_attr`].
    fn set_attr(&self, new: &NewAttr) -> Result<Attr>;
}

/// The id of the volume of this name: the same in every run.
pub fn named_id(name: &NodeName) -> NodeId {
    let digest = Sha256::digest(name.as_bytes());
    let head = digest.iter().take(size_of::<u64>());
    let number = head.fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    NodeId(number | NAMED)
}

/// See the module.
#[derive(Debug)]
pub struct Export {
    folder: Arc<dyn Backend>,
    named: BTreeMap<NodeName, Arc<dyn NamedVolume>>,
}

/// Where a path leads.
enum Place<'a> {
    Folder,
    Named(&'a Arc<dyn NamedVolume>),
    /// Below the name of a volume.
    Nowhere,
}

impl Export {
    pub fn new(folder: Arc<dyn Backend>, named: BTreeMap<NodeName, Arc<dyn NamedVolume>>) -> Result<Self> {
        let mut names_by_id = BTreeMap::new();
        for (name, volume) in &named {
            match folder.stat(&path_of(name)?) {
                Ok(_) => {
                    let text = format!(
                        "cannot serve a volume as '{name}': {} has that name already; choose another for it",
                        folder.describe()
                    );
                    return Err(Error::new(ErrorKind::Exists, text));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if let Some(other) = names_by_id.insert(volume.attr()?.id, name) {
                let text =
                    format!("the names '{other}' and '{name}' give the same id; choose another for one");
                return Err(Error::new(ErrorKind::Exists, text));
            }
        }
        Ok(Self { folder, named })
    }

    fn place(&self, path: &NodePath) -> Place<'_> {
        if self.named.is_empty() {
            return Place::Folder;
        }
        let bytes = path.as_bytes();
        let first = bytes.split(|byte| *byte == b'/').next().unwrap_or(bytes);
        let name = NodeName::new(first).ok();
        match name.and_then(|name| self.named.get(&name)) {
            None => Place::Folder,
            Some(volume) if first.len() == bytes.len() => Place::Named(volume),
            Some(_) => Place::Nowhere,
        }
    }
}

impl Backend for Export {
    fn describe(&self) -> String {
        self.folder.describe()
    }

    fn stat(&self, path: &NodePath) -> Result<Attr> {
        match self.place(path) {
            Place::Folder => self.folder.stat(path),
            Place::Named(volume) => volume.attr(),
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn visit(&self, path: &NodePath, tell: &mut dyn FnMut(NodeName, Attr) -> Result<()>) -> Result<()> {
        let Place::Folder = self.place(path) else {
            return Err(not_folder(path));
        };
        if !path.is_root() || self.named.is_empty() {
            return self.folder.visit(path, tell);
        }
        self.folder
            .visit(path, &mut |name, attr| match self.named.contains_key(&name) {
                true => Ok(()),
                false => tell(name, attr),
            })?;
        for (name, volume) in &self.named {
            tell(name.clone(), volume.attr()?)?;
        }
        Ok(())
    }

    fn open(&self, path: &NodePath) -> Result<Arc<dyn OpenVolume>> {
        match self.place(path) {
            Place::Folder => self.folder.open(path),
            Place::Named(volume) => volume.open(),
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn create(
        &self,
        path: &NodePath,
        node: &NewNode,
        exclusive: bool,
        announce: &mut dyn FnMut(Option<&Attr>),
    ) -> Result<Created> {
        match self.place(path) {
            Place::Folder => self.folder.create(path, node, exclusive, announce),
            Place::Named(_) if exclusive => Err(taken(path)),
            Place::Named(volume) => {
                let volume = volume.open()?;
                volume.ready_to_change()?;
                Ok(Created {
                    volume,
                    is_new: false,
                })
            }
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn make_folder(&self, path: &NodePath, node: &NewNode) -> Result<Attr> {
        match self.place(path) {
            Place::Folder => self.folder.make_folder(path, node),
            Place::Named(_) => Err(taken(path)),
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn remove(&self, path: &NodePath, folder: bool, id: Option<NodeId>) -> Result<()> {
        match self.place(path) {
            Place::Folder => self.folder.remove(path, folder, id),
            Place::Named(_) if folder => Err(not_folder(path)),
            Place::Named(volume) if id.is_some_and(|id| volume.attr().is_ok_and(|attr| attr.id != id)) => {
                let text = format!("cannot remove '{path}': it is another one by now");
                Err(Error::new(ErrorKind::Stale, text))
            }
            Place::Named(_) => Err(fixed("remove", path)),
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn rename(&self, from: &NodePath, to: &NodePath, mode: RenameMode) -> Result<()> {
        match (self.place(from), self.place(to)) {
            (Place::Folder, Place::Folder) => self.folder.rename(from, to, mode),
            (Place::Nowhere, _) => Err(not_folder(from)),
            (_, Place::Nowhere) => Err(not_folder(to)),
            (Place::Named(_), _) => Err(fixed("rename", from)),
            (Place::Folder, Place::Named(_)) => {
                // What is not there cannot be renamed to anything.
                self.folder.stat(from)?;
                match mode {
                    RenameMode::Keep => Err(taken(to)),
                    RenameMode::Replace | RenameMode::Exchange => Err(fixed("replace", to)),
                }
            }
        }
    }

    fn set_attr(&self, path: &NodePath, new: &NewAttr) -> Result<Attr> {
        match self.place(path) {
            Place::Folder => self.folder.set_attr(path, new),
            Place::Named(volume) => volume.set_attr(new),
            Place::Nowhere => Err(not_folder(path)),
        }
    }

    fn flush_folder(&self, path: &NodePath) -> Result<()> {
        match self.place(path) {
            Place::Folder => self.folder.flush_folder(path),
            Place::Named(_) | Place::Nowhere => Err(not_folder(path)),
        }
    }

    /// The folder's way of copying looks at nothing but what every [`OpenVolume`] has.
    fn copy(
        &self,
        source: &dyn OpenVolume,
        range: ByteRange,
        target: &dyn OpenVolume,
        offset: u64,
    ) -> Result<u64> {
        self.folder.copy(source, range, target, offset)
    }

    fn space(&self) -> Result<Space> {
        self.folder.space()
    }

    fn clock_tick(&self) -> Duration {
        self.folder.clock_tick()
    }
}

fn path_of(name: &NodeName) -> Result<NodePath> {
    let path = NodePath::root().join(name);
    path.map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            format!("cannot serve a volume as '{name}': {error}"),
        )
    })
}

fn not_folder(path: &NodePath) -> Error {
    let text = format!("'{path}' is, or lies below, a volume and not a folder");
    Error::new(ErrorKind::NotFolder, text)
}

fn taken(path: &NodePath) -> Error {
    Error::new(
        ErrorKind::Exists,
        format!("cannot make '{path}': the name is taken"),
    )
}

fn fixed(verb: &str, path: &NodePath) -> Error {
    let text =
        format!("cannot {verb} '{path}': it is named when the server starts; start it with another name");
    Error::new(ErrorKind::NotPermitted, text)
}

#[cfg(test)]
mod tests;
