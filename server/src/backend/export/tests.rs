//! Named volumes beside a folder, both in memory.

use lacuna_transport::attr::NodeKind;

use super::*;
use crate::backend::conformance::path;
use crate::backend::memory::Memory;

const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// A volume of a backend in memory, under another name.
#[derive(Debug)]
struct Elsewhere {
    memory: Memory,
    id: NodeId,
}

impl NamedVolume for Elsewhere {
    fn attr(&self) -> Result<Attr> {
        Ok(Attr {
            id: self.id,
            ..self.memory.stat(&path("v"))?
        })
    }

    fn open(&self) -> Result<Arc<dyn OpenVolume>> {
        self.memory.open(&path("v"))
    }

    fn set_attr(&self, new: &NewAttr) -> Result<Attr> {
        self.memory.set_attr(&path("v"), new)?;
        self.attr()
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text.as_bytes()).unwrap()
}

fn named(names: &[&str]) -> BTreeMap<NodeName, Arc<dyn NamedVolume>> {
    let volume = |name: &NodeName| -> Arc<dyn NamedVolume> {
        let memory = Memory::default();
        memory.put_volume(&path("v"), 1000);
        let id = named_id(name);
        Arc::new(Elsewhere { memory, id })
    };
    let names = names.iter().map(|text| name(text));
    names.map(|name| (name.clone(), volume(&name))).collect()
}

/// `file`, `folder` and `later` in the folder; `disk` and `later` named.
fn export() -> Export {
    let memory = Arc::new(Memory::default());
    let folder: Arc<dyn Backend> = memory.clone();
    let export = Export::new(folder, named(&["disk", "later"])).unwrap();
    memory.put_volume(&path("file"), 10);
    memory.put_volume(&path("later"), 20);
    memory.put_folder(&path("folder"));
    memory.put_volume(&path("folder/disk"), 30);
    export
}

fn kind<T: Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn named_volumes_are_listed_and_found_at_the_root_alone() {
    let export = export();
    let list = export.list(&NodePath::root()).unwrap();
    let shown: Vec<_> = list
        .iter()
        .map(|(name, attr)| (name.to_string(), attr.size))
        .collect();
    let expected = [("disk", 1000), ("file", 10), ("folder", 0), ("later", 1000)];
    assert_eq!(shown.len(), expected.len());
    for ((name, size), (expected_name, expected_size)) in shown.iter().zip(expected) {
        assert_eq!(name, expected_name);
        assert!(name == "folder" || *size == expected_size, "{name} has {size}");
    }
    for (name, attr) in list {
        assert_eq!(export.stat(&NodePath::root().join(&name).unwrap()).unwrap(), attr);
    }
    assert_eq!(export.stat(&path("folder/disk")).unwrap().size, 30);
    assert_eq!(export.open(&path("disk")).unwrap().attr().unwrap().size, 1000);
    assert_eq!(export.stat(&path("disk")).unwrap().kind, NodeKind::Volume);
}

#[test]
fn a_name_that_is_taken_in_the_folder_is_refused_with_advice() {
    let memory = Memory::default();
    memory.put_folder(&path("disk"));
    let error = Export::new(Arc::new(memory), named(&["disk"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    let text = error.to_string();
    assert!(
        text.contains("'disk'") && text.contains("choose another"),
        "{text}"
    );
}

#[test]
fn ids_are_those_of_the_names_and_nobody_elses() {
    assert_eq!(named_id(&name("disk")), named_id(&name("disk")));
    assert_ne!(named_id(&name("disk")), named_id(&name("disc")));
    assert_eq!(named_id(&name("disk")).0 & NAMED, NAMED);
}

#[test]
fn what_the_operator_named_keeps_its_name() {
    let export = export();
    let (disk, file) = (path("disk"), path("file"));
    let mut announced = 0;
    let mut announce = |_: Option<&Attr>| announced += 1;
    let created = export.create(&disk, &NODE, false, &mut announce).unwrap();
    assert!(!created.is_new);
    assert_eq!(created.volume.attr().unwrap().size, 1000);
    assert_eq!(
        kind(export.create(&disk, &NODE, true, &mut announce)),
        ErrorKind::Exists
    );
    assert_eq!(announced, 0, "nothing was made");
    assert_eq!(kind(export.make_folder(&disk, &NODE)), ErrorKind::Exists);
    assert_eq!(kind(export.remove(&disk, true, None)), ErrorKind::NotFolder);
    assert_eq!(kind(export.remove(&disk, false, None)), ErrorKind::NotPermitted);
    let stale = export.remove(&disk, false, Some(NodeId(7)));
    assert_eq!(kind(stale), ErrorKind::Stale);
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        assert_eq!(kind(export.rename(&disk, &file, mode)), ErrorKind::NotPermitted);
        assert_eq!(kind(export.rename(&file, &disk, mode)), ErrorKind::NotPermitted);
        let missing = export.rename(&path("missing"), &disk, mode);
        assert_eq!(kind(missing), ErrorKind::NotFound);
    }
    assert_eq!(
        kind(export.rename(&file, &disk, RenameMode::Keep)),
        ErrorKind::Exists
    );
    assert_eq!(export.stat(&file).unwrap().size, 10);
}

#[test]
fn nothing_lies_below_a_volume() {
    let export = export();
    let below = path("disk/x");
    assert_eq!(kind(export.stat(&below)), ErrorKind::NotFolder);
    assert_eq!(kind(export.open(&below)), ErrorKind::NotFolder);
    assert_eq!(kind(export.list(&path("disk"))), ErrorKind::NotFolder);
    assert_eq!(kind(export.flush_folder(&path("disk"))), ErrorKind::NotFolder);
    assert_eq!(kind(export.make_folder(&below, &NODE)), ErrorKind::NotFolder);
    assert_eq!(
        kind(export.create(&below, &NODE, false, &mut |_| ())),
        ErrorKind::NotFolder
    );
    assert_eq!(kind(export.remove(&below, false, None)), ErrorKind::NotFolder);
    let moved = export.rename(&path("file"), &below, RenameMode::Replace);
    assert_eq!(kind(moved), ErrorKind::NotFolder);
}

#[test]
fn bytes_are_copied_between_files_and_named_volumes() {
    let export = export();
    let disk = export.open(&path("disk")).unwrap();
    disk.write_at(b"named", 100).unwrap();
    let file = export.open(&path("file")).unwrap();
    assert_eq!(export.copy(&*disk, ByteRange::ALL, &*file, 0).unwrap(), 1000);
    let later = export.open(&path("later")).unwrap();
    let range = ByteRange::new(100, 200).unwrap();
    assert_eq!(export.copy(&*file, range, &*later, 7).unwrap(), 100);
    let mut bytes = [0; 7];
    later.read_at(&mut bytes, 6).unwrap();
    assert_eq!(&bytes, b"\0named\0");
}

#[test]
fn attributes_of_a_named_volume_are_set() {
    let export = export();
    let new = NewAttr {
        mode: Some(0o640),
        ..NewAttr::default()
    };
    assert_eq!(export.set_attr(&path("disk"), &new).unwrap().mode, 0o640);
    assert_eq!(export.stat(&path("disk")).unwrap().mode, 0o640);
    assert_ne!(export.stat(&path("later")).unwrap().mode, 0o640);
}
