//! A program that changes a folder at random and knows what must be in it.
//!
//! It never makes a call that should fail, so any error is one that somebody else caused: EEXIST for a create
//! that was made twice, ENOENT for an unlink or a rename that was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::reshape;
use rustix::fs::{CWD, RenameFlags, renameat_with};

const FILES_MAX: usize = 8;
const SIZE_MAX: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    random: Random,
    /// What each name holds, and its descriptor.
    files: BTreeMap<String, (Vec<u8>, Option<File>)>,
    folders: Vec<String>,
    /// Names are never used again, so that each stands for one creation.
    named: u64,
}

impl Writer {
    pub(crate) fn new(dir: PathBuf, seed: u64) -> Self {
        Self {
            dir,
            random: Random::new(seed),
            files: BTreeMap::new(),
            folders: Vec::new(),
            named: 0,
        }
    }

    /// One random change.
    pub(crate) fn step(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return self.create();
        }
        match self.random.below(24) {
            0 | 1 if self.files.len() < FILES_MAX => self.create(),
            2 => self.unlink(),
            3 => self.rename(RenameFlags::NOREPLACE),
            4 => self.rename(RenameFlags::empty()),
            5 => self.rename_over(RenameFlags::empty()),
            6 => self.rename_over(RenameFlags::EXCHANGE),
            7 => self.folder(),
            8 => self.reopen(),
            9 | 10 => self.on_file("fsync", |file, _, _| Ok(file.sync_all()?)),
            11 => self.on_file("truncate", |file, bytes, random| {
                let size = random.below(SIZE_MAX);
                bytes.resize(usize::try_from(size)?, 0);
                Ok(file.set_len(size)?)
            }),
            12..15 => self.on_file("punch", |file, bytes, random| {
                let (start, length) = (random.below(SIZE_MAX), random.between(1, 200_000));
                clear(bytes, start, length)?;
                reshape::punch(file, start, length)
            }),
            15 => self.on_file("zero", |file, bytes, random| {
                let (start, length) = (random.below(SIZE_MAX), random.between(1, 200_000));
                clear(bytes, start, length)?;
                reshape::zero_keep_size(file, start, length)
            }),
            _ => self.on_file("write", |file, bytes, random| {
                let length = usize::try_from(random.between(1, 70_000))?;
                let at = usize::try_from(random.below(SIZE_MAX))?;
                let content = random.bytes(length);
                bytes.resize(bytes.len().max(at + length), 0);
                bytes[at..at + length].copy_from_slice(&content);
                Ok(file.write_all_at(&content, u64::try_from(at)?)?)
            }),
        }
    }

    /// Closes every descriptor: what is dirty is at the server then.
    pub(crate) fn close(mut self) -> Result<Self> {
        for (name, (_, file)) in &mut self.files {
            if let Some(file) = file.take() {
                file.sync_all()
                    .with_context(|| format!("the last fsync of {name}"))?;
            }
        }
        Ok(self)
    }

    /// `dir` holds these names with these bytes, and no others.
    pub(crate) fn ensure_equal(&self, dir: &Path) -> Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            found.push(entry?.file_name().to_string_lossy().into_owned());
        }
        found.sort();
        let mut expected: Vec<_> = self.files.keys().chain(&self.folders).cloned().collect();
        expected.sort();
        ensure!(found == expected, "the names are {found:?}, not {expected:?}");
        for (name, (bytes, _)) in &self.files {
            let found = fs::read(dir.join(name)).with_context(|| name.clone())?;
            ensure!(
                found.len() == bytes.len(),
                "{name}: {} bytes, not {}",
                found.len(),
                bytes.len()
            );
            let wrong = found.iter().zip(bytes).position(|(ours, theirs)| ours != theirs);
            ensure!(
                wrong.is_none(),
                "{name}: byte {wrong:?} of {} differs",
                bytes.len()
            );
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}-{}", self.named)
    }

    fn some_name(&mut self) -> Result<String> {
        let index = self.random.below(u64::try_from(self.files.len())?);
        let name = self.files.keys().nth(usize::try_from(index)?);
        name.cloned().context("no file is there")
    }

    fn create(&mut self) -> Result<()> {
        let name = self.new_name("file");
        let file = File::create_new(self.path(&name)).with_context(|| format!("create {name}"))?;
        self.files.insert(name, (Vec::new(), Some(file)));
        Ok(())
    }

    fn unlink(&mut self) -> Result<()> {
        let name = self.some_name()?;
        self.files.remove(&name);
        fs::remove_file(self.path(&name)).with_context(|| format!("unlink {name}"))
    }

    /// To a name that was never there.
    fn rename(&mut self, flags: RenameFlags) -> Result<()> {
        let (from, to) = (self.some_name()?, self.new_name("renamed"));
        renameat_with(CWD, self.path(&from), CWD, self.path(&to), flags)
            .with_context(|| format!("rename {from} to {to}, {flags:?}"))?;
        let file = self
            .files
            .remove(&from)
            .context("renamed a file that is not there")?;
        self.files.insert(to, file);
        Ok(())
    }

    fn rename_over(&mut self, flags: RenameFlags) -> Result<()> {
        let (from, to) = (self.some_name()?, self.some_name()?);
        if from == to {
            return Ok(());
        }
        renameat_with(CWD, self.path(&from), CWD, self.path(&to), flags)
            .with_context(|| format!("rename {from} over {to}, {flags:?}"))?;
        let file = self
            .files
            .remove(&from)
            .context("renamed a file that is not there")?;
        let other = self.files.insert(to, file);
        if let (true, Some(other)) = (flags == RenameFlags::EXCHANGE, other) {
            self.files.insert(from, other);
        }
        Ok(())
    }

    /// A new folder, or the end of an old one.
    fn folder(&mut self) -> Result<()> {
        if self.folders.len() > 3 {
            let name = self.folders.remove(0);
            return fs::remove_dir(self.path(&name)).with_context(|| format!("rmdir {name}"));
        }
        let name = self.new_name("folder");
        fs::create_dir(self.path(&name)).with_context(|| format!("mkdir {name}"))?;
        self.folders.push(name);
        Ok(())
    }

    fn reopen(&mut self) -> Result<()> {
        let name = self.some_name()?;
        let path = self.path(&name);
        if let Some((_, file)) = self.files.get_mut(&name) {
            *file = None;
            let opened = File::options().read(true).write(true).open(path);
            *file = Some(opened.with_context(|| format!("open {name}"))?);
        }
        Ok(())
    }

    fn on_file(
        &mut self,
        what: &str,
        change: impl FnOnce(&File, &mut Vec<u8>, &mut Random) -> Result<()>,
    ) -> Result<()> {
        let name = self.some_name()?;
        let Some((bytes, Some(file))) = self.files.get_mut(&name) else {
            return Ok(());
        };
        change(file, bytes, &mut self.random).with_context(|| format!("{what} of {name}"))
    }
}

fn clear(bytes: &mut [u8], start: u64, length: u64) -> Result<()> {
    let (start, end) = (usize::try_from(start)?, usize::try_from(start + length)?);
    let end = end.min(bytes.len());
    if let Some(bytes) = bytes.get_mut(start..end) {
        bytes.fill(0);
    }
    Ok(())
}
