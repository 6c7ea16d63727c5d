//! A volume and a local file that get the same calls: what a local file system makes of them is what the mount
//! and the server's file must show.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::compare::{self, Reading, Space};
use crate::rig::Rig;
use crate::seek_map::SeekMap;

/// See the module.
#[derive(Debug)]
pub struct Twin {
    /// Through the mount.
    pub volume: File,
    /// On the same kind of file system as the server's.
    pub local: File,
    volume_path: PathBuf,
    local_path: PathBuf,
    original_path: PathBuf,
}

impl Twin {
    /// Two new empty files.
    pub fn create(rig: &Rig, name: &str) -> Result<Self> {
        Self::open(rig, name, File::options().read(true).write(true).create_new(true))
    }

    /// A volume that is there already, made by `fill` on both sides before it was mounted or opened.
    pub fn filled(rig: &Rig, name: &str, fill: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        fill(&rig.original(name))?;
        fill(&local_path(rig, name))?;
        Self::open(rig, name, File::options().read(true).write(true))
    }

    fn open(rig: &Rig, name: &str, options: &OpenOptions) -> Result<Self> {
        let (volume_path, local_path) = (rig.volume(name), local_path(rig, name));
        let open = |path: &Path| options.open(path).with_context(|| format!("{}", path.display()));
        Ok(Self {
            volume: open(&volume_path)?,
            local: open(&local_path)?,
            volume_path,
            local_path,
            original_path: rig.original(name),
        })
    }

    /// Makes the same call on both.
    pub fn both(&self, call: impl Fn(&File) -> Result<()>) -> Result<()> {
        call(&self.local).context("on the local file")?;
        call(&self.volume).context("on the volume")
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.both(|file| {
            file.write_all_at(bytes, at)
                .with_context(|| format!("write {at}..+{}", bytes.len()))
        })
    }

    /// Through the mount, at this moment: size, bytes, and nothing that is data here is a hole there.
    pub fn ensure_same_now(&self) -> Result<()> {
        let (ours, theirs) = (self.volume.metadata()?, self.local.metadata()?);
        ensure!(
            ours.len() == theirs.len(),
            "{} bytes, not {}",
            ours.len(),
            theirs.len()
        );
        let (map, expected) = (SeekMap::of(&self.volume)?, SeekMap::of(&self.local)?);
        expected
            .ensure_within(&map)
            .with_context(|| format!("the map of the volume: {}", map.short()))?;
        ensure!(
            map.data_bytes() == 0 || ours.blocks() > 0,
            "data, but st_blocks is 0"
        );
        compare::same_bytes(&self.local_path, &self.volume_path, Reading::Data)
            .context("the volume through the mount")
    }

    /// The same, and after an fsync the server's file has these bytes, this map and this space.
    pub fn ensure_same(&self) -> Result<()> {
        self.ensure_same_now()?;
        self.volume.sync_all().context("fsync")?;
        self.ensure_same_now().context("after fsync")?;
        self.local.sync_all()?;
        self.ensure_same_at_the_server()
    }

    /// The server's file alone, as it is now.
    pub fn ensure_same_at_the_server(&self) -> Result<()> {
        let at_the_server = || "the server's file";
        compare::same_bytes(&self.local_path, &self.original_path, Reading::Data)
            .with_context(at_the_server)?;
        let (expected, map) = (SeekMap::of(&self.local)?, SeekMap::of_path(&self.original_path)?);
        expected
            .ensure_within(&map)
            .with_context(|| format!("the server's map: {}", map.short()))?;
        compare::same_space(&self.local_path, &self.original_path, Space::Same).with_context(at_the_server)
    }

    /// The server's file takes this many bytes of space at most.
    pub fn ensure_taken_at_most(&self, bytes: u64) -> Result<()> {
        let taken = fs::metadata(&self.original_path)?.blocks() * 512;
        ensure!(
            taken <= bytes,
            "the server's file takes {taken} bytes, at most {bytes} expected"
        );
        Ok(())
    }

    pub fn volume_path(&self) -> &Path {
        &self.volume_path
    }

    /// The file on the server's disk.
    pub fn original_path(&self) -> &Path {
        &self.original_path
    }
}

fn local_path(rig: &Rig, name: &str) -> PathBuf {
    rig.sandbox.join(format!("twin-of-{name}"))
}
