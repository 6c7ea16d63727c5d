//! What a model can be compared with.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{CopiedHoles, Operation, Size};
use crate::mapping::Mapping;
use crate::random::Random;
use crate::reshape;
use crate::seek_map::SeekMap;

/// One volume, open for reading and writing, at the other side of the operations.
pub trait Subject {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    fn punch(&mut self, start: u64, length: u64) -> Result<()>;
    fn zero(&mut self, start: u64, length: u64, size: Size) -> Result<()>;
    fn allocate(&mut self, start: u64, length: u64, size: Size) -> Result<()>;
    fn resize(&mut self, size: u64) -> Result<()>;
    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<()>;
    /// Changes bytes below the end by a shared mapping and does not sync it.
    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    fn flush(&mut self) -> Result<()>;
    fn reopen(&mut self) -> Result<()>;
    /// Closes, lets another program make `change` where the volume is kept, and opens again.
    fn behind(&mut self, change: &Operation) -> Result<()>;
    /// Kills what keeps the volume and starts it again.
    fn crash(&mut self) -> Result<()>;
    /// All bytes.
    fn read(&mut self) -> Result<Vec<u8>>;
    fn map(&mut self) -> Result<SeekMap>;
    /// SEEK_DATA and SEEK_HOLE at one place agree with the map.
    fn seek(&mut self, position: u64) -> Result<()>;

    fn copied_holes(&self) -> CopiedHoles {
        CopiedHoles::Kept
    }
}

/// A file of a local file system: the model must agree with what Linux itself does.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    file: File,
    /// Kept: its pages stay dirty until somebody needs them.
    mapping: Option<Mapping>,
}

impl LocalFile {
    /// A new file.
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path,
            file,
            mapping: None,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file, calls `meanwhile` and opens it again.
    pub fn closed_while(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.mapping = None;
        // There is no state without a file: the folder's null device stands in for it.
        self.file = File::open("/dev/null")?;
        meanwhile()?;
        let file = File::options().read(true).write(true).open(&self.path);
        self.file = file.with_context(|| format!("cannot open {}", self.path.display()))?;
        Ok(())
    }
}

impl Subject for LocalFile {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).context("write")
    }

    fn punch(&mut self, start: u64, length: u64) -> Result<()> {
        reshape::punch(&self.file, start, length)
    }

    fn zero(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        match size {
            Size::Grow => reshape::zero(&self.file, start, length),
            Size::Keep => reshape::zero_keep_size(&self.file, start, length),
        }
    }

    fn allocate(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        match size {
            Size::Grow => reshape::allocate(&self.file, start, length),
            Size::Keep => reshape::allocate_keep_size(&self.file, start, length),
        }
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).context("ftruncate")
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<()> {
        reshape::copy_range(&self.file, from, &self.file, to, length)
    }

    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let length = usize::try_from(self.file.metadata()?.len())?;
        let mut mapping = Mapping::shared(&self.file, 0, length)?;
        mapping.store(usize::try_from(at)?, bytes)?;
        self.mapping = Some(mapping);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.sync_all().context("fsync")
    }

    fn reopen(&mut self) -> Result<()> {
        self.closed_while(|| Ok(()))
    }

    fn behind(&mut self, change: &Operation) -> Result<()> {
        let path = self.path.clone();
        self.closed_while(|| change_file(&path, change))
    }

    fn crash(&mut self) -> Result<()> {
        Ok(())
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.file.metadata()?.len())?];
        self.file.read_exact_at(&mut bytes, 0).context("read")?;
        Ok(bytes)
    }

    fn map(&mut self) -> Result<SeekMap> {
        SeekMap::of(&self.file)
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        let answers = crate::seek_map::answers(&self.file, position);
        let expected = SeekMap::of(&self.file)?.answers(position);
        anyhow::ensure!(
            answers == expected,
            "(SEEK_DATA, SEEK_HOLE) at {position}: {answers:?}, the whole map says {expected:?}"
        );
        Ok(())
    }

    fn copied_holes(&self) -> CopiedHoles {
        CopiedHoles::Lost
    }
}

/// Makes `change`, one of those that other programs make, on the file at `path`.
pub fn change_file(path: &Path, change: &Operation) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    match *change {
        Operation::Write { at, length, seed } => {
            let bytes = Random::new(seed).bytes(usize::try_from(length)?);
            file.write_all_at(&bytes, at)?;
        }
        Operation::Punch { start, length } => reshape::punch(&file, start, length)?,
        Operation::Resize { size } => file.set_len(size)?,
        _ => bail!("other programs do not do this: {change:?}"),
    }
    Ok(())
}
