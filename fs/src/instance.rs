//! Instances of this client: which processes that use this state folder live, and which have died without a goodbye.
//!
//! A server keeps what a lost client was writing to for it, for a while (see "Leases" in docs/PROTOCOL.md). A process
//! that was killed does not come back, but another one on this host can know that: each has a file
//! `instances/INSTANCE` of the state folder that it holds a lock on, and whoever finds one that nobody holds says
//! goodbye in its name. So a mount that was killed can be made again at once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lacuna_transport::id::InstanceId;
use lacuna_transport::quic::identity::KeyId;

/// Most goodbyes that one process says for others when it begins: each is a handshake.
const DEAD_MAX: usize = 16;
/// Longest content of such a file that makes sense.
const CONTENT_BYTES_MAX: u64 = 256;

/// The file of a process that lives: this one.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// Locked while it is open.
    _file: File,
}

/// The file of one that died, held so that nobody else looks after it.
#[derive(Debug)]
pub struct Dead {
    pub instance: InstanceId,
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Says that `instance` lives and is a client of the server with this key.
    pub fn new(folder: &Path, server: KeyId, instance: InstanceId) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(name_of(instance));
        // Under its name only once it is locked: until then nobody would know that it lives.
        let aside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.lock()?;
        writeln!(file, "{server}")?;
        fs::rename(&aside, &path)?;
        Ok(Self { path, _file: file })
    }

    /// The server was told goodbye.
    pub fn end(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

impl Dead {
    /// Those of the server with this key, `DEAD_MAX` at most.
    pub fn find(folder: &Path, server: KeyId) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let dead = paths.filter_map(|path| Self::at(path, server));
        dead.take(DEAD_MAX).collect()
    }

    fn at(path: PathBuf, server: KeyId) -> Option<Self> {
        let instance = instance_of(path.file_name()?.to_str()?)?;
        let file = File::open(&path).ok()?;
        file.try_lock().ok()?;
        let meta = file.metadata().ok()?;
        // Somebody else may have looked after it between the open and the lock.
        let is_left = meta.nlink() > 0 && meta.len() <= CONTENT_BYTES_MAX;
        let is_its = is_left && fs::read_to_string(&path).is_ok_and(|text| text.trim() == server.to_string());
        is_its.then_some(Self {
            instance,
            path,
            _file: file,
        })
    }

    /// The server was told goodbye.
    pub fn forget(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn name_of(instance: InstanceId) -> String {
    instance.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn instance_of(name: &str) -> Option<InstanceId> {
    let digits = name.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = [0; 16];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(InstanceId(bytes))
}

#[cfg(test)]
mod tests {
    use lacuna_transport::quic::identity::Identity;

    use super::*;

    #[test]
    fn those_that_live_are_left_alone_and_the_dead_are_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("instances");
        let (server, other) = (Identity::generate().id(), Identity::generate().id());
        assert!(Dead::find(&folder, server).is_empty());
        let lives = Claim::new(&folder, server, InstanceId([0xa1; 16])).unwrap();
        let died = Claim::new(&folder, server, InstanceId([2; 16])).unwrap();
        let elsewhere = Claim::new(&folder, other, InstanceId([3; 16])).unwrap();
        let done = Claim::new(&folder, server, InstanceId([4; 16])).unwrap();
        // As a kill does it.
        drop((died, elsewhere));
        done.end().unwrap();
        fs::write(folder.join("README"), "not ours").unwrap();
        let found = Dead::find(&folder, server);
        let ids: Vec<_> = found.iter().map(|dead| dead.instance).collect();
        assert_eq!(ids, [InstanceId([2; 16])]);
        assert!(Dead::find(&folder, server).is_empty(), "somebody looks after it");
        found.into_iter().for_each(|dead| dead.forget().unwrap());
        assert!(Dead::find(&folder, server).is_empty());
        drop(lives);
        assert_eq!(Dead::find(&folder, server)[0].instance, InstanceId([0xa1; 16]));
    }
}
