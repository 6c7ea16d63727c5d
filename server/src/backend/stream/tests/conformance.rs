//! The part of the suite of every backend that holds for a stream before its end, but for space: a stream has none
//! to reserve, and a write beyond its end is refused for good.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use lacuna_transport::extent::ExtentKind;
use lacuna_transport::path::{NodeName, NodePath};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::super::{Stream, StreamVolume};
use super::*;
use crate::backend::conformance::Fixture;
use crate::backend::export::Export;
use crate::backend::memory::Memory;
use crate::backend::{Backend, OpenVolume};

/// Most streams of one test.
const VOLUMES_MAX: usize = 64;

/// An export with streams of which nothing goes out.
struct Streams {
    folder: Arc<Memory>,
    exports: [OnceLock<Export>; VOLUMES_MAX],
    latest: Cell<usize>,
    named: Mutex<BTreeMap<NodeName, Arc<dyn NamedVolume>>>,
    state: TempDir,
}

impl Default for Streams {
    fn default() -> Self {
        let streams = Self {
            folder: Arc::default(),
            exports: [const { OnceLock::new() }; VOLUMES_MAX],
            latest: Cell::new(0),
            named: Mutex::default(),
            state: tempfile::tempdir().unwrap(),
        };
        streams.export();
        streams
    }
}

impl Streams {
    fn export(&self) {
        let folder: Arc<dyn Backend> = self.folder.clone();
        let export = Export::new(folder, self.named.lock().clone()).unwrap();
        self.exports[self.latest.get()].set(export).unwrap();
    }

    fn open(&self, path: &NodePath) -> Arc<dyn OpenVolume> {
        self.backend().open(path).unwrap()
    }
}

impl Fixture for Streams {
    fn backend(&self) -> &dyn Backend {
        self.exports[self.latest.get()].get().unwrap()
    }

    fn make_folder(&self, path: &NodePath) {
        self.folder.put_folder(path);
    }

    fn make_volume(&self, path: &NodePath, size: u64) {
        let name = NodeName::new(path.as_bytes()).unwrap();
        let options = StreamOptions {
            name: name.clone(),
            fifo: self.state.path().join(name.to_string()),
            size: size.next_multiple_of(512),
            spool_bytes_max: None,
            window_bytes: 0,
            format: Format::Raw,
            finish_on_umount: false,
            map_bytes: 1 << 20,
        };
        let stream = Stream::start(options, self.state.path()).unwrap();
        self.named.lock().insert(name, Arc::new(StreamVolume(stream)));
        self.latest.set(self.latest.get() + 1);
        self.export();
    }

    fn write(&self, path: &NodePath, offset: u64, bytes: &[u8]) {
        self.open(path).write_at(bytes, offset).unwrap();
    }

    fn resize(&self, path: &NodePath, size: u64) {
        self.open(path).resize(size).unwrap();
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn nothing(&self) -> ExtentKind {
        ExtentKind::Hole
    }

    fn size_max(&self) -> u64 {
        1 << 40
    }
}

crate::backend_conformance_suite!(fixed Streams::default());
