//! What a stream holds back, as a sparse file in the state folder, and what is known of it across a restart.
//!
//! `STATE/streams/NAME.spool` has the bytes, `NAME.json` the record: the size, and a mark below which bytes may
//! have gone out. The mark is on stable storage before they do, and [`MARK_BYTES`] ahead, so that it costs
//! little. After a restart the bytes below it count as gone: they may be in the pipe or not, and may be punched.
//!
//! | record | spool | at the start |
//! |---|---|---|
//! | none | none | a new stream |
//! | mark 0 | any | goes on |
//! | mark above 0 | there | failed: readable from the mark on |
//! | mark above 0 | none | a new stream: the last one was finished |
//! | none | there | refused: it is not ours |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lacuna_transport::attr::NewNode;
use lacuna_transport::path::{NodeName, NodePath};
use serde::{Deserialize, Serialize};

use crate::backend::sparse_file::SparseFiles;
use crate::backend::{Backend, OpenVolume};
use crate::error::{Error, ErrorKind, Result};

/// How far the mark is ahead of what goes out.
const MARK_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    size: u64,
    /// No byte from here on has gone out; 0: nothing has.
    mark: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spool {
    volume: Arc<dyn OpenVolume>,
    folder: SparseFiles,
    /// Of the spool within the folder.
    node: NodePath,
    path: PathBuf,
    record_path: PathBuf,
    record: Record,
}

impl Spool {
    /// Finds or makes the spool of the stream `name`.
    pub(super) fn open(state: &Path, name: &NodeName, size: u64) -> Result<Self> {
        let streams = state.join("streams");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&streams)
            .map_err(|error| Error::io(format!("cannot make {}", streams.display()), error))?;
        let named = |end: &[u8]| NodeName::new(&[name.as_bytes(), end].concat());
        let (Ok(node), Ok(record_name)) = (named(b".spool"), named(b".json")) else {
            let text = format!("the name '{name}' is too long for a stream: take a shorter one");
            return Err(Error::new(ErrorKind::NameTooLong, text));
        };
        let join = |name: &NodeName| {
            use std::os::unix::ffi::OsStrExt;
            streams.join(std::ffi::OsStr::from_bytes(name.as_bytes()))
        };
        let (path, record_path) = (join(&node), join(&record_name));
        let node = NodePath::new(node.as_bytes())
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("'{name}': {error}")))?;
        let folder = SparseFiles::new(&streams)?;
        let known = read(&record_path)?;
        let is_there = path.exists();
        if known.is_none() && is_there {
            let text = format!(
                "there is no record of the spool {}: move it away, or give the stream another name",
                path.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let record = known
            .filter(|record| is_there || record.mark == 0)
            .unwrap_or(Record { size, mark: 0 });
        if record.size != size {
            let text = format!(
                "the stream '{name}' was begun with size={0}: give that size, or remove {1} and {2} to begin anew",
                record.size,
                path.display(),
                record_path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let new = NewNode {
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        store(&record_path, record)?;
        let volume = folder.create(&node, &new, false, &mut |_| {})?.volume;
        volume.ready_to_change()?;
        volume.grow(size)?;
        Ok(Self {
            volume,
            folder,
            node,
            path,
            record_path,
            record,
        })
    }

    pub(super) fn volume(&self) -> &dyn OpenVolume {
        &*self.volume
    }

    /// The same, for who reads and writes it while another emits.
    pub(super) fn shared(&self) -> Arc<dyn OpenVolume> {
        Arc::clone(&self.volume)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The mark that an earlier run left; 0 if nothing had gone out.
    pub(super) const fn mark(&self) -> u64 {
        self.record.mark
    }

    /// To be called before bytes up to `position` go out.
    pub(super) fn reach(&mut self, position: u64) -> Result<()> {
        if position <= self.record.mark {
            return Ok(());
        }
        let ahead = position.saturating_add(MARK_BYTES).min(self.record.size);
        self.note(ahead)
    }

    /// After all nothing has gone out.
    pub(super) fn forget_mark(&mut self) -> Result<()> {
        self.note(0)
    }

    fn note(&mut self, mark: u64) -> Result<()> {
        let record = Record { mark, ..self.record };
        store(&self.record_path, record)?;
        self.record = record;
        Ok(())
    }

    /// The stream is finished: takes the names away. Who has it open reads on.
    pub(super) fn remove(&self) -> Result<()> {
        self.folder.remove(&self.node, false, None)?;
        fs::remove_file(&self.record_path)
            .map_err(|error| Error::io(format!("cannot remove {}", self.record_path.display()), error))
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("cannot read {}", path.display()), error)),
    };
    let record = serde_json::from_slice(&text).map_err(|error| {
        let text = format!(
            "{} is damaged: move it and the spool beside it away",
            path.display()
        );
        Error::with_source(ErrorKind::Corrupt, text, error)
    })?;
    Ok(Some(record))
}

fn store(path: &Path, record: Record) -> Result<()> {
    let aside = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    fn open(state: &tempfile::TempDir, size: u64) -> Result<Spool> {
        Spool::open(state.path(), &NodeName::new(b"s").unwrap(), size)
    }

    #[test]
    fn the_mark_is_ahead_and_outlives_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = open(&state, SIZE).unwrap();
        spool.volume().write_at(b"abc", 100).unwrap();
        assert_eq!(spool.mark(), 0);
        drop(spool);
        spool = open(&state, SIZE).unwrap();
        let mut kept = [0; 3];
        spool.volume().read_at(&mut kept, 100).unwrap();
        assert_eq!((&kept, spool.mark()), (b"abc", 0));
        spool.reach(1).unwrap();
        assert_eq!(open(&state, SIZE).unwrap().mark(), 1 + MARK_BYTES);
        spool.reach(1 + MARK_BYTES).unwrap();
        assert_eq!(spool.mark(), 1 + MARK_BYTES, "it was far enough");
        spool.reach(SIZE - 5).unwrap();
        assert_eq!(spool.mark(), SIZE);
        spool.forget_mark().unwrap();
        assert_eq!(open(&state, SIZE).unwrap().mark(), 0);
    }

    #[test]
    fn a_finished_stream_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = open(&state, SIZE).unwrap();
        spool.volume().write_at(b"abc", SIZE - 3).unwrap();
        spool.reach(SIZE).unwrap();
        spool.remove().unwrap();
        let mut kept = [0; 3];
        spool.volume().read_at(&mut kept, SIZE - 3).unwrap();
        assert_eq!(&kept, b"abc", "who has it open reads on");
        assert_eq!(fs::read_dir(state.path().join("streams")).unwrap().count(), 0);
        assert_eq!(open(&state, 5).unwrap().mark(), 0, "a new one, of another size");
    }

    #[test]
    fn what_does_not_fit_together_is_refused_and_kept() {
        let state = tempfile::tempdir().unwrap();
        drop(open(&state, SIZE).unwrap());
        let error = open(&state, SIZE + 1).unwrap_err();
        assert!(error.to_string().contains("size=1073741824"), "{error}");
        let record = state.path().join("streams/s.json");
        fs::write(&record, "{").unwrap();
        assert_eq!(open(&state, SIZE).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(fs::read(&record).unwrap(), b"{");
        fs::remove_file(&record).unwrap();
        let error = open(&state, SIZE).unwrap_err();
        assert!(error.to_string().contains("no record of the spool"), "{error}");
        assert!(state.path().join("streams/s.spool").exists());
    }
}
