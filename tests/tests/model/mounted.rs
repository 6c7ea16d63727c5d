//! A volume on a real mount as the subject of the model.

use anyhow::{Context, Result};
use lacuna_tests::model::{LocalFile, Model, Operation, Size, Subject, change_file};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;

const NAME: &str = "volume";

/// Fields end in this order: the descriptor, then the mount and the server.
#[derive(Debug)]
pub(crate) struct Mounted {
    file: LocalFile,
    rig: Rig,
}

impl Mounted {
    pub(crate) fn new(options: &[&str]) -> Result<Self> {
        let rig = Rig::filled_with(options, |_| Ok(()))?;
        let file = LocalFile::create(rig.volume(NAME))?;
        Ok(Self { file, rig })
    }

    /// After a close, the server's file has the bytes of `model` and a map that it allows.
    pub(crate) fn ensure_at_the_server(&mut self, model: &Model) -> Result<()> {
        let path = self.rig.original(NAME);
        self.file.closed_while(|| {
            let bytes = std::fs::read(&path)?;
            model
                .ensure_equal(&bytes, &SeekMap::of_path(&path)?)
                .context("the server's file after the last close")
        })
    }
}

impl Subject for Mounted {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write(at, bytes)
    }

    fn punch(&mut self, start: u64, length: u64) -> Result<()> {
        self.file.punch(start, length)
    }

    fn zero(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        self.file.zero(start, length, size)
    }

    fn allocate(&mut self, start: u64, length: u64, size: Size) -> Result<()> {
        self.file.allocate(start, length, size)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.file.resize(size)
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<()> {
        self.file.copy(from, to, length)
    }

    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.store(at, bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }

    fn reopen(&mut self) -> Result<()> {
        self.file.reopen()
    }

    /// The change is made in the server's folder, on the file itself.
    fn behind(&mut self, change: &Operation) -> Result<()> {
        let path = self.rig.original(NAME);
        self.file.closed_while(|| change_file(&path, change))
    }

    fn crash(&mut self) -> Result<()> {
        self.rig.restart_server()
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        self.file.read()
    }

    fn map(&mut self) -> Result<SeekMap> {
        self.file.map()
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.file.seek(position)
    }
}
