//! A server that died at any moment of a change of names, and the same request again.
//!
//! A crash is the journal as it was at that moment, under a new server.

use std::cell::Cell;

use lacuna_transport::id::{InstanceId, NodeId};
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::wire::message::RenameMode;
use tempfile::TempDir;

use super::*;
use crate::backend::sparse_file::SparseFiles;
use crate::operations::{InstanceKey, Operations};

struct Bed {
    folder: TempDir,
    backend: SparseFiles,
    key: Option<OperationKey>,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = SparseFiles::new(folder.path()).unwrap();
        let client = Identity::generate().id();
        let instance = InstanceKey::new(client, InstanceId([3; 16]));
        Self {
            folder,
            backend,
            key: Some(OperationKey {
                client: ClientTag::of(client),
                instance,
                operation: OperationId(7),
            }),
        }
    }

    /// The server that comes after one which died when `act` was done, but for the outcome.
    fn crash(&self, kind: OperationKind, act: impl FnOnce(&mut dyn FnMut(Option<NodeTag>))) -> Arc<Server> {
        let (state, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let operations = Operations::open(state.path()).unwrap();
        let journal = |state: &TempDir| state.path().join("operations");
        let first = |_: &Intent| panic!("nothing to judge yet");
        let act = |intend: &mut dyn FnMut(Option<NodeTag>)| {
            act(intend);
            std::fs::copy(journal(&state), journal(&after)).unwrap();
            Ok((None, ()))
        };
        operations.once(self.key, kind, first, act).unwrap();
        let backend = Arc::new(SparseFiles::new(self.folder.path()).unwrap());
        Server::new(backend, after.path().to_owned(), false).unwrap()
    }

    fn tag(&self, name: &str) -> Option<NodeTag> {
        Some(NodeTag::of(&self.backend.stat(&path(name)).unwrap()))
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok()
    }
}

fn path(name: &str) -> NodePath {
    NodePath::new(name.as_bytes()).unwrap()
}

fn node(mode: u32) -> NewNode {
    NewNode {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn create() -> CreateRequest {
    CreateRequest {
        operation: OperationId(7),
        path: path("v"),
        node: node(0o640),
        exclusive: true,
    }
}

fn make_folder() -> MakeFolderRequest {
    MakeFolderRequest {
        operation: OperationId(7),
        path: path("f"),
        node: node(0o751),
    }
}

fn remove() -> RemoveRequest {
    RemoveRequest {
        operation: OperationId(7),
        path: path("v"),
        folder: false,
        id: None,
    }
}

fn rename() -> RenameRequest {
    RenameRequest {
        operation: OperationId(7),
        from: path("a"),
        to: path("b"),
        mode: RenameMode::Replace,
    }
}

#[test]
fn a_volume_announced_and_not_named_is_made() {
    let bed = Bed::new();
    let lost = NodeTag {
        id: NodeId(4_000_000_000),
        birth_ns: 5,
    };
    let server = bed.crash(OperationKind::Create, |intend| intend(Some(lost)));
    let made = create_once(&server, bed.key, &create()).unwrap();
    assert_eq!(made.attr().unwrap().mode, 0o640);
    let again = create_once(&server, bed.key, &create()).unwrap();
    assert_eq!(again.attr().unwrap().id, made.attr().unwrap().id);
}

#[test]
fn a_volume_that_was_named_is_not_made_again() {
    let bed = Bed::new();
    let made = Cell::new(None);
    let server = bed.crash(OperationKind::Create, |intend| {
        let mut announce = |attr: Option<&Attr>| intend(attr.map(NodeTag::of));
        let created = bed.backend.create(&path("v"), &node(0o640), true, &mut announce);
        made.set(Some(created.unwrap().volume.attr().unwrap().id));
    });
    bed.put("v", "written since");
    let volume = create_once(&server, bed.key, &create()).unwrap();
    assert_eq!(Some(volume.attr().unwrap().id), made.get());
    assert_eq!(bed.text("v").unwrap(), "written since");
}

#[test]
fn a_volume_of_somebody_else_is_still_in_the_way() {
    let bed = Bed::new();
    bed.put("v", "theirs");
    let lost = NodeTag {
        id: NodeId(4_000_000_000),
        birth_ns: 5,
    };
    let server = bed.crash(OperationKind::Create, |intend| intend(Some(lost)));
    for _ in 0..2 {
        let error = create_once(&server, bed.key, &create()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
    }
}

/// Where the storage cannot make a volume before it has a name.
#[test]
fn a_volume_announced_without_an_id_is_known_by_its_birth() {
    let bed = Bed::new();
    let server = bed.crash(OperationKind::Create, |intend| {
        intend(None);
        bed.put("v", "");
    });
    let volume = create_once(&server, bed.key, &create()).unwrap();
    assert_eq!(volume.attr().unwrap().mode, 0o640, "the mode is made up for");
}

#[test]
fn a_folder_is_made_once() {
    let bed = Bed::new();
    let server = bed.crash(OperationKind::MakeFolder, |intend| intend(None));
    let attr = make_folder_once(&server, bed.key, &make_folder()).unwrap();
    assert_eq!(attr.mode, 0o751);

    let bed = Bed::new();
    let server = bed.crash(OperationKind::MakeFolder, |intend| {
        intend(None);
        std::fs::create_dir(bed.folder.path().join("f")).unwrap();
    });
    let attr = make_folder_once(&server, bed.key, &make_folder()).unwrap();
    assert_eq!(attr.mode, 0o751, "the mode is made up for");
    bed.put("f/v", "");
    let again = make_folder_once(&server, bed.key, &make_folder()).unwrap();
    assert_eq!(again.id, attr.id);
}

#[test]
fn a_folder_that_is_older_or_in_use_is_not_the_one() {
    for (older, full) in [(true, false), (false, true)] {
        let bed = Bed::new();
        let at = bed.folder.path().join("f");
        if older {
            std::fs::create_dir(&at).unwrap();
            // Until its birth is clearly before the intent.
            let born = bed.tag("f").unwrap().birth_ns;
            let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
            while now() <= u128::from(born + 2 * BIRTH_LAG_NS) {
                std::thread::yield_now();
            }
        }
        let server = bed.crash(OperationKind::MakeFolder, |intend| {
            intend(None);
            if full {
                std::fs::create_dir(&at).unwrap();
                bed.put("f/v", "");
            }
        });
        let error = make_folder_once(&server, bed.key, &make_folder()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
    }
}

#[test]
fn a_volume_is_removed_once() {
    for done in [false, true] {
        let bed = Bed::new();
        bed.put("v", "old");
        let server = bed.crash(OperationKind::Remove, |intend| {
            intend(bed.tag("v"));
            if done {
                bed.backend.remove(&path("v"), false, None).unwrap();
                bed.put("w", "keeps the inode number");
                bed.put("v", "new");
            }
        });
        for _ in 0..2 {
            remove_once(&server, bed.key, &remove(), 1).unwrap();
        }
        assert_eq!(bed.text("v").as_deref(), done.then_some("new"));
    }
}

#[test]
fn a_node_is_renamed_once() {
    for done in [false, true] {
        let bed = Bed::new();
        bed.put("a", "first");
        let server = bed.crash(OperationKind::Rename, |intend| {
            intend(bed.tag("a"));
            if done {
                let mode = RenameMode::Replace;
                bed.backend.rename(&path("a"), &path("b"), mode).unwrap();
                bed.put("a", "second");
            }
        });
        for _ in 0..2 {
            rename_once(&server, bed.key, &rename(), 1).unwrap();
        }
        assert_eq!(bed.text("b").as_deref(), Some("first"));
        assert_eq!(bed.text("a").as_deref(), done.then_some("second"));
    }
}

#[test]
fn without_an_instance_each_request_is_done() {
    let bed = Bed::new();
    let server = bed.crash(OperationKind::Remove, |_| {});
    bed.put("v", "");
    remove_once(&server, None, &remove(), 1).unwrap();
    let error = remove_once(&server, None, &remove(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
