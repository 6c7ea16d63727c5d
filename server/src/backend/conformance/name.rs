//! Conformance: changes of names.

use lacuna_transport::attr::{Attr, NewNode, NodeKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodePath;
use lacuna_transport::wire::message::RenameMode::{Exchange, Keep, Replace};

use super::{Fixture, kind_of_error, path, read};
use crate::backend::{Backend, Created};
use crate::error::{ErrorKind, Result};

fn node(mode: u32) -> NewNode {
    NewNode {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn create(backend: &dyn Backend, name: &NodePath, exclusive: bool) -> Result<Created> {
    backend.create(name, &node(0o666), exclusive, &mut |_| {})
}

fn names(backend: &dyn Backend) -> Vec<String> {
    let list = backend.list(&NodePath::root()).expect("a listing");
    list.iter().map(|(name, _)| name.to_string()).collect()
}

fn id(backend: &dyn Backend, name: &str) -> NodeId {
    backend.stat(&path(name)).expect("stat").id
}

pub fn a_created_volume_is_empty_and_as_asked(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let mut announced: Option<Attr> = None;
    for (name, mode) in [("a", 0o666), ("b", 0o400), ("c", 0o4711), ("d", 0)] {
        let mut calls = 0;
        let mut announce = |attr: Option<&Attr>| {
            calls += 1;
            announced = attr.copied();
            assert_eq!(kind_of_error(backend.stat(&path("not yet"))), ErrorKind::NotFound);
        };
        // A model may hold its lock while it announces: only others may look then.
        let created = if backend.describe() == "memory" {
            backend.create(&path(name), &node(mode), true, &mut |attr| {
                calls += 1;
                announced = attr.copied();
            })
        } else {
            backend.create(&path(name), &node(mode), true, &mut announce)
        };
        let created = created.expect("create");
        assert!(created.is_new && calls == 1);
        let attr = backend.stat(&path(name)).expect("stat");
        assert_eq!((attr.kind, attr.size, attr.mode), (NodeKind::Volume, 0, mode));
        assert_eq!((attr.uid, attr.gid, attr.links), (node(0).uid, node(0).gid, 1));
        let made = created.volume.attr().expect("attr");
        assert_eq!((made.id, made.birth_ns), (attr.id, attr.birth_ns));
        if let Some(announced) = announced {
            assert_eq!((announced.id, announced.birth_ns), (attr.id, attr.birth_ns));
        }
        // Its maker may change it whatever its mode.
        created.volume.ready_to_change().expect("a volume to change");
        created.volume.write_at(b"text", 0).expect("write");
        assert_eq!(read(&*created.volume, 0, 4), b"text");
    }
}

pub fn a_taken_name_is_opened_or_refused(fixture: &impl Fixture) {
    let backend = fixture.backend();
    fixture.make_volume(&path("v"), 3);
    fixture.make_folder(&path("f"));
    let opened = create(backend, &path("v"), false).expect("open");
    assert!(!opened.is_new);
    assert_eq!(opened.volume.attr().expect("attr").size, 3);
    opened.volume.write_at(b"x", 0).expect("write");
    for (name, exclusive, kind) in [
        ("v", true, ErrorKind::Exists),
        ("f", true, ErrorKind::Exists),
        ("f", false, ErrorKind::NotVolume),
        ("v/x", false, ErrorKind::NotFolder),
        ("none/x", false, ErrorKind::NotFound),
        ("", true, ErrorKind::Exists),
    ] {
        assert_eq!(
            kind_of_error(create(backend, &path(name), exclusive)),
            kind,
            "{name}"
        );
    }
    for (name, kind) in [
        ("v", ErrorKind::Exists),
        ("f", ErrorKind::Exists),
        ("", ErrorKind::Exists),
        ("v/x", ErrorKind::NotFolder),
        ("none/x", ErrorKind::NotFound),
    ] {
        let made = backend.make_folder(&path(name), &node(0o755));
        assert_eq!(kind_of_error(made), kind, "{name}");
    }
    assert_eq!(names(backend), ["f", "v"]);
}

pub fn folders_are_made_and_pass_on_their_group(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let attr = backend.make_folder(&path("f"), &node(0o777)).expect("a folder");
    assert_eq!((attr.kind, attr.mode), (NodeKind::Folder, 0o777));
    assert_eq!(attr.id, id(backend, "f"));
    let group = NewNode {
        gid: 12_345,
        ..node(0o2770)
    };
    backend.make_folder(&path("g"), &group).expect("a folder");
    if backend.stat(&path("g")).expect("stat").gid != 12_345 {
        eprintln!("SKIPPED: a folder of another group needs root");
        return;
    }
    backend.make_folder(&path("g/f"), &node(0o700)).expect("a folder");
    create(backend, &path("g/v"), true).expect("create");
    let (folder, volume) = (backend.stat(&path("g/f")), backend.stat(&path("g/v")));
    let (folder, volume) = (folder.expect("stat"), volume.expect("stat"));
    assert_eq!((folder.gid, folder.mode), (12_345, 0o2700));
    assert_eq!((volume.gid, volume.mode), (12_345, 0o666));
}

pub fn names_of_the_longest_length_work(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let long = |letter: &str| path(&letter.repeat(255));
    create(backend, &long("a"), true).expect("create");
    backend.make_folder(&long("b"), &node(0o755)).expect("a folder");
    backend.rename(&long("a"), &long("c"), Keep).expect("rename");
    backend
        .rename(&long("c"), &long("b"), Exchange)
        .expect("exchange");
    backend.remove(&long("b"), false, None).expect("remove");
    backend.remove(&long("c"), true, None).expect("remove");
    assert!(names(backend).is_empty());
}

pub fn removing_says_what_it_is(fixture: &impl Fixture) {
    let backend = fixture.backend();
    fixture.make_volume(&path("v"), 3);
    fixture.make_folder(&path("f"));
    fixture.make_volume(&path("f/v"), 3);
    let other = Some(NodeId(id(backend, "v").0 + 1000));
    for (name, folder, id, kind) in [
        ("v", true, None, ErrorKind::NotFolder),
        ("f", false, None, ErrorKind::NotVolume),
        ("f", true, None, ErrorKind::NotEmpty),
        ("none", false, None, ErrorKind::NotFound),
        ("none", true, None, ErrorKind::NotFound),
        ("v/x", false, None, ErrorKind::NotFolder),
        ("v", false, other, ErrorKind::Stale),
        ("", true, None, ErrorKind::Busy),
    ] {
        assert_eq!(
            kind_of_error(backend.remove(&path(name), folder, id)),
            kind,
            "{name}"
        );
    }
    backend
        .remove(&path("v"), false, Some(id(backend, "v")))
        .expect("remove");
    backend.remove(&path("f/v"), false, None).expect("remove");
    backend.flush_folder(&path("f")).expect("flush");
    backend.remove(&path("f"), true, None).expect("remove");
    backend.flush_folder(&NodePath::root()).expect("flush");
    assert!(names(backend).is_empty());
    assert_eq!(
        kind_of_error(backend.flush_folder(&path("f"))),
        ErrorKind::NotFound
    );
}

pub fn an_open_volume_outlives_its_name(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let volume = create(backend, &path("v"), true).expect("create").volume;
    let id = volume.attr().expect("attr").id;
    backend.rename(&path("v"), &path("w"), Replace).expect("rename");
    assert_eq!(backend.stat(&path("w")).expect("stat").id, id);
    backend.remove(&path("w"), false, None).expect("remove");
    volume.write_at(b"still", 0).expect("write");
    assert_eq!(read(&*volume, 0, 5), b"still");
    assert_eq!(volume.attr().expect("attr").links, 0);
    volume.flush(false).expect("flush");
}

pub fn renaming_has_three_modes(fixture: &impl Fixture) {
    let backend = fixture.backend();
    for name in ["a", "b", "c"] {
        fixture.make_volume(&path(name), 1);
    }
    let (a, b) = (id(backend, "a"), id(backend, "b"));
    let rename = |from: &str, to: &str, mode| backend.rename(&path(from), &path(to), mode);
    assert_eq!(kind_of_error(rename("a", "b", Keep)), ErrorKind::Exists);
    rename("a", "b", Exchange).expect("exchange");
    assert_eq!((id(backend, "b"), id(backend, "a")), (a, b));
    rename("b", "c", Replace).expect("rename");
    assert_eq!(
        (id(backend, "c"), names(backend)),
        (a, vec!["a".into(), "c".into()])
    );
    rename("c", "d", Keep).expect("rename");
    assert_eq!(kind_of_error(rename("d", "e", Exchange)), ErrorKind::NotFound);
    rename("d", "d", Replace).expect("to itself");
    rename("d", "f", Replace).expect("rename");
    assert_eq!(names(backend), ["a", "f"]);
}

pub fn renaming_keeps_kinds_and_trees(fixture: &impl Fixture) {
    let backend = fixture.backend();
    fixture.make_volume(&path("v"), 1);
    for name in ["f", "f/g", "empty", "full"] {
        fixture.make_folder(&path(name));
    }
    fixture.make_volume(&path("f/g/deep"), 5);
    fixture.make_volume(&path("full/x"), 5);
    let rename = |from: &str, to: &str, mode| backend.rename(&path(from), &path(to), mode);
    for (from, to, mode, kind) in [
        ("v", "f", Replace, ErrorKind::NotVolume),
        ("f", "v", Replace, ErrorKind::NotFolder),
        ("f", "full", Replace, ErrorKind::NotEmpty),
        ("f", "f/g/x", Replace, ErrorKind::Invalid),
        ("none", "x", Replace, ErrorKind::NotFound),
        ("v", "none/x", Replace, ErrorKind::NotFound),
        ("v", "full/x/y", Replace, ErrorKind::NotFolder),
        ("", "x", Replace, ErrorKind::Busy),
        ("f", "", Exchange, ErrorKind::Busy),
    ] {
        assert_eq!(kind_of_error(rename(from, to, mode)), kind, "{from} to {to}");
    }
    rename("f", "empty", Replace).expect("over an empty folder");
    assert_eq!(backend.stat(&path("empty/g/deep")).expect("stat").size, 5);
    rename("empty/g", "full/g", Keep).expect("into another folder");
    rename("full", "v", Exchange).expect("a folder for a volume");
    assert_eq!(backend.stat(&path("v/g/deep")).expect("stat").size, 5);
    assert_eq!(backend.stat(&path("full")).expect("stat").kind, NodeKind::Volume);
    assert_eq!(names(backend), ["empty", "full", "v"]);
}
