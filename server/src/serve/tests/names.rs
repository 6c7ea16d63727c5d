//! Changes of names over the wire, and that each has effect once.

use lacuna_transport::attr::{Attr, NewAttr, NewNode, NodeKind};
use lacuna_transport::id::{Handle, NodeId, OperationId};
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{
    CopyRequest, CreateRequest, MakeFolderRequest, OpenRequest, Opened, PathRequest, RemoveRequest,
    RenameMode, RenameRequest, Reshape, ReshapeRequest, ResizeRequest, SetAttrRequest, Subject,
};

use super::bed::*;
use super::*;

const NODE: NewNode = NewNode {
    mode: 0o640,
    uid: 0,
    gid: 0,
};

fn owned() -> NewNode {
    NewNode {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..NODE
    }
}

pub(super) fn create(operation: u64, name: &str, exclusive: bool) -> CreateRequest {
    CreateRequest {
        operation: OperationId(operation),
        path: path(name),
        node: owned(),
        exclusive,
    }
}

pub(super) fn make_folder(operation: u64, name: &str) -> MakeFolderRequest {
    MakeFolderRequest {
        operation: OperationId(operation),
        path: path(name),
        node: NewNode {
            mode: 0o750,
            ..owned()
        },
    }
}

pub(super) fn remove(operation: u64, name: &str, folder: bool, id: Option<NodeId>) -> RemoveRequest {
    RemoveRequest {
        operation: OperationId(operation),
        path: path(name),
        folder,
        id,
    }
}

pub(super) fn rename(operation: u64, from: &str, to: &str, mode: RenameMode) -> RenameRequest {
    RenameRequest {
        operation: OperationId(operation),
        from: path(from),
        to: path(to),
        mode,
    }
}

/// One well-formed request of each kind that changes something.
pub(super) fn change_bodies(handle: Handle) -> Vec<(Kind, Vec<u8>)> {
    let set_attr = |subject| {
        message::encode(&SetAttrRequest {
            subject,
            attr: NewAttr {
                mode: Some(0),
                ..NewAttr::default()
            },
        })
    };
    let reshape = ReshapeRequest {
        handle,
        how: Reshape::Punch,
        start: 0,
        end: 1,
        grow: false,
        others: None,
    };
    let copy = CopyRequest {
        source: handle,
        source_offset: 0,
        target: handle,
        target_offset: 5,
        length: 5,
    };
    let open = OpenRequest {
        path: path("v"),
        write: true,
        lease: None,
    };
    vec![
        (Kind::Open, message::encode(&open)),
        (Kind::Write, write_body(handle, &[(0, b"gone")])),
        (Kind::Reshape, message::encode(&reshape)),
        (Kind::Resize, message::encode(&ResizeRequest { handle, size: 0 })),
        (Kind::Copy, message::encode(&copy)),
        (Kind::SetAttr, set_attr(Subject::Open(handle))),
        (Kind::SetAttr, set_attr(Subject::Path(path("v")))),
        (Kind::Create, message::encode(&create(1, "new", false))),
        (Kind::MakeFolder, message::encode(&make_folder(2, "folder"))),
        (Kind::Remove, message::encode(&remove(3, "v", false, None))),
        (
            Kind::Rename,
            message::encode(&rename(4, "v", "w", RenameMode::Replace)),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_made_changed_and_taken_away() {
    let bed = Bed::start();
    let mut client = bed.client().await;
    let folder: Attr = client.get(Kind::MakeFolder, &make_folder(1, "f")).await.unwrap();
    assert_eq!((folder.kind, folder.mode), (NodeKind::Folder, 0o750));
    let made: Opened = client.get(Kind::Create, &create(2, "f/v", true)).await.unwrap();
    assert_eq!((made.attr.size, made.attr.mode), (0, 0o640));
    assert_eq!(made.attr.base, made.attr.generation);
    client.write(made.handle, &[(0, b"text")]).await.unwrap();
    assert_eq!(
        client.get::<Opened>(Kind::Create, &create(3, "f/v", true)).await,
        Err(ErrorCode::Exists)
    );
    let again: Opened = client.get(Kind::Create, &create(4, "f/v", false)).await.unwrap();
    assert_eq!((again.attr.id, again.attr.size), (made.attr.id, 4));
    assert_eq!(
        client.get::<Attr>(Kind::MakeFolder, &make_folder(5, "f")).await,
        Err(ErrorCode::Exists)
    );
    let moved = rename(6, "f/v", "w", RenameMode::Keep);
    client.tell(Kind::Rename, &moved).await.unwrap();
    let attr = client.stat("w").await.unwrap();
    assert_eq!(attr.base, made.attr.base, "its own rename is its own");
    client
        .tell(Kind::FlushFolder, &PathRequest { path: path("f") })
        .await
        .unwrap();
    let missing = PathRequest { path: path("none") };
    assert_eq!(
        client.tell(Kind::FlushFolder, &missing).await,
        Err(ErrorCode::NotFound)
    );
    let exchange = rename(7, "w", "f", RenameMode::Exchange);
    client.tell(Kind::Rename, &exchange).await.unwrap();
    assert_eq!(client.stat("f").await.unwrap().id, attr.id);
    let other = Some(NodeId(attr.id.0 + 1));
    for (request, error) in [
        (remove(8, "f", false, other), ErrorCode::Stale),
        (remove(9, "f", true, None), ErrorCode::NotFolder),
        (remove(10, "w", false, None), ErrorCode::NotVolume),
        (remove(11, "none", false, None), ErrorCode::NotFound),
        (remove(12, "", true, None), ErrorCode::Busy),
    ] {
        assert_eq!(client.tell(Kind::Remove, &request).await, Err(error));
    }
    client
        .tell(Kind::Remove, &remove(13, "f", false, Some(attr.id)))
        .await
        .unwrap();
    let open: Attr = client
        .get(Kind::StatOpen, &message::HandleRequest { handle: made.handle })
        .await
        .unwrap();
    assert_eq!((open.links, open.size), (0, 4), "still open");
    assert_eq!(client.read(made.handle, &[(0, 4)]).await.unwrap().1, b"text");
    client
        .tell(Kind::Remove, &remove(14, "w", true, None))
        .await
        .unwrap();
    assert_eq!(std::fs::read_dir(bed.folder.path()).unwrap().count(), 0);
    bed.stop().await;
}

/// The reply of each is lost, the connection too: the next session sends them again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_has_effect_once() {
    let bed = Bed::start();
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut first = bed.session(&identity, 1).await.unwrap();
    let made: Opened = first.get(Kind::Create, &create(1, "v", true)).await.unwrap();
    first.write(made.handle, &[(0, b"text")]).await.unwrap();
    first
        .get::<Attr>(Kind::MakeFolder, &make_folder(2, "f"))
        .await
        .unwrap();
    bed.volume("gone", 1, &[]);
    first
        .tell(Kind::Remove, &remove(3, "gone", false, None))
        .await
        .unwrap();
    bed.volume("a", 1, &[]);
    let moved = rename(4, "a", "b", RenameMode::Replace);
    first.tell(Kind::Rename, &moved).await.unwrap();
    let failed = first.tell(Kind::Remove, &remove(5, "late", false, None)).await;
    assert_eq!(failed, Err(ErrorCode::NotFound));
    first.connection.close(CloseCode::Done.code(), b"lost");
    // Others use the names meanwhile.
    bed.volume("gone", 1, &[]);
    bed.volume("a", 1, &[]);
    bed.volume("late", 1, &[]);

    let mut second = bed.session(&identity, 1).await.unwrap();
    let again: Opened = second.get(Kind::Create, &create(1, "v", true)).await.unwrap();
    assert_eq!((again.attr.id, again.attr.size), (made.attr.id, 4));
    second.write(again.handle, &[(4, b"!")]).await.unwrap();
    second
        .get::<Attr>(Kind::MakeFolder, &make_folder(2, "f"))
        .await
        .unwrap();
    second
        .tell(Kind::Remove, &remove(3, "gone", false, None))
        .await
        .unwrap();
    second.tell(Kind::Rename, &moved).await.unwrap();
    let failed = second.tell(Kind::Remove, &remove(5, "late", false, None)).await;
    assert_eq!(failed, Err(ErrorCode::NotFound), "as it was answered");
    for name in ["v", "f", "gone", "a", "b", "late"] {
        second.stat(name).await.unwrap();
    }
    assert_eq!(
        second.tell(Kind::Remove, &remove(1, "v", false, None)).await,
        Err(ErrorCode::Invalid),
        "another change with a number that was used"
    );
    let handle = message::HandleRequest { handle: again.handle };
    second.tell(Kind::Close, &handle).await.unwrap();
    // The same numbers of another mount are others.
    let mut other = bed.session(&identity, 2).await.unwrap();
    other
        .tell(Kind::Remove, &remove(3, "gone", false, None))
        .await
        .unwrap();
    bed.volume("v2", 1, &[]);
    other
        .tell(Kind::Rename, &rename(6, "v2", "v", RenameMode::Replace))
        .await
        .unwrap();
    assert_eq!(
        second.get::<Opened>(Kind::Create, &create(1, "v", true)).await,
        Err(ErrorCode::Stale),
        "what it made is no longer there"
    );
    bed.stop().await;
}

/// The server is killed and comes back: what it was told before is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_remembers() {
    let bed = Bed::start();
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut client = bed.session(&identity, 1).await.unwrap();
    bed.volume("a", 1, &[]);
    let moved = rename(1, "a", "b", RenameMode::Replace);
    client.tell(Kind::Rename, &moved).await.unwrap();
    bed.volume("a", 2, &[]);
    let again = bed.restart().await;
    let mut client = again.session(&identity, 1).await.unwrap();
    client.tell(Kind::Rename, &moved).await.unwrap();
    assert_eq!(client.stat("a").await.unwrap().size, 2);
    assert_eq!(client.stat("b").await.unwrap().size, 1);
    again.stop().await;
}

/// The name may be another volume's by then, which somebody writes to.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_answered_again_whoever_writes_there_now() {
    let bed = Bed::start();
    bed.volume("v", 10, &[]);
    bed.volume("w", 10, &[]);
    let identity = Arc::new(Identity::generate());
    bed.allow(&identity, Access::ReadWrite);
    let mut one = bed.session(&identity, 1).await.unwrap();
    let removal = remove(1, "v", false, None);
    let renaming = rename(2, "w", "x", RenameMode::Replace);
    one.tell(Kind::Remove, &removal).await.unwrap();
    one.tell(Kind::Rename, &renaming).await.unwrap();
    let mut two = bed.client().await;
    let _: Opened = two.get(Kind::Create, &create(1, "v", true)).await.unwrap();
    two.open_to_change("x").await;
    let mut one = bed.session(&identity, 1).await.unwrap();
    assert_eq!(one.tell(Kind::Remove, &removal).await, Ok(()));
    assert_eq!(one.tell(Kind::Rename, &renaming).await, Ok(()));
    let another = remove(3, "v", false, None);
    assert_eq!(one.tell(Kind::Remove, &another).await, Err(ErrorCode::Busy));
    bed.stop().await;
}
