//! A file of the state folder with records of one size, appended in order: what a restart of the server knows of
//! the run before.
//!
//! ```text
//! header: BYTES bytes, a text and zeros
//! record: BYTES bytes, the last 8 of them the first 8 of the SHA-256 of all before
//! ```
//!
//! A last record that is incomplete or does not check, or zeros at the end (what a crash of the
//! host leaves), never happened. Anything else that does not check is an error, and the file stays as it is.
//!
//! What is appended outlives the process at once, and a crash of the host from the next [`Journal::sync`] on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of the check at the end of a record.
pub const CHECK_BYTES: usize = 8;
/// The journal is written anew when it is this large and twice what it was when last written anew.
pub const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// One line of a journal.
pub trait Record: Sized {
    /// In the state folder.
    const FILE_NAME: &'static str;
    /// At the start of the file; names the version.
    const HEADER_TEXT: &'static [u8];
    /// For messages: "a record of …".
    const OF: &'static str;
    /// Size of a record, with its check; the header has as many.
    const BYTES: usize;

    /// Fills all but the check; what is given are zeros.
    fn encode(&self, bytes: &mut [u8]);

    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// The number of 8 bytes at `at`, little-endian.
pub fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*word))
}

/// The open file.
#[derive(Debug)]
pub struct Journal<R> {
    path: PathBuf,
    file: File,
    /// Whole records, and the header. What lies beyond is a record that could not be written.
    bytes: u64,
    compact_at: u64,
    records: PhantomData<R>,
}

impl<R: Record> Journal<R> {
    /// Opens the journal of a state folder, made if it is missing, and what it holds in order.
    pub fn open(folder: &Path) -> Result<(Self, Vec<R>)> {
        let path = folder.join(R::FILE_NAME);
        let failed = |error| Error::io(format!("cannot open {}", path.display()), error);
        let file = options().open(&path).map_err(failed)?;
        let content = fs::read(&path).map_err(failed)?;
        let records = parse::<R>(&content).map_err(|at| {
            let text = format!(
                "{}, byte {at}: this is no record of {}; move the file away to serve without it, it was left as it \
                 is",
                path.display(),
                R::OF
            );
            Error::new(ErrorKind::Corrupt, text)
        })?;
        let bytes = offset_of::<R>(records.len());
        if records.is_empty() {
            file.write_all_at(&header::<R>(), 0).map_err(failed)?;
        }
        file.set_len(bytes).map_err(failed)?;
        let compact_at = bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        let journal = Self {
            path,
            file,
            bytes,
            compact_at,
            records: PhantomData,
        };
        Ok((journal, records))
    }

    /// A record that could not be written is overwritten by the next.
    pub fn append(&mut self, record: &R) -> Result<()> {
        let written = self.file.write_all_at(&encoded(record), self.bytes);
        written.map_err(|error| self.failed(error))?;
        self.bytes += offset_of::<R>(1) - offset_of::<R>(0);
        Ok(())
    }

    /// All that was appended is on stable storage.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    pub const fn is_large(&self) -> bool {
        self.bytes >= self.compact_at
    }

    /// Replaces the file by one with these records alone, on stable storage before it takes the name: what was
    /// synced stays.
    pub fn compact(&mut self, records: Vec<R>) -> Result<()> {
        let aside = self.path.with_extension("new");
        let write = || -> io::Result<File> {
            let file = options().truncate(true).open(&aside)?;
            let mut writer = BufWriter::new(&file);
            writer.write_all(&header::<R>())?;
            for record in &records {
                writer.write_all(&encoded(record))?;
            }
            writer.flush()?;
            drop(writer);
            file.sync_data()?;
            fs::rename(&aside, &self.path)?;
            Ok(file)
        };
        let written = write();
        // Tried again only after as much as this has come, also if it failed.
        self.compact_at = self.bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        self.file = written.map_err(|error| self.failed(error))?;
        self.bytes = offset_of::<R>(records.len());
        self.compact_at = self.bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        Ok(())
    }

    /// One whose writes fail.
    #[cfg(test)]
    pub(crate) fn broken(device: &Path) -> Self {
        Self {
            path: device.to_owned(),
            file: OpenOptions::new().write(true).open(device).expect("a device"),
            bytes: 0,
            compact_at: u64::MAX,
            records: PhantomData,
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("cannot write {}", self.path.display()), error)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
}

fn offset_of<R: Record>(record: usize) -> u64 {
    u64::try_from((record + 1).saturating_mul(R::BYTES)).unwrap_or(u64::MAX)
}

fn header<R: Record>() -> Vec<u8> {
    let mut header = R::HEADER_TEXT.to_vec();
    header.resize(R::BYTES, 0);
    header
}

fn encoded<R: Record>(record: &R) -> Vec<u8> {
    let mut bytes = vec![0; R::BYTES - CHECK_BYTES];
    record.encode(&mut bytes);
    let check = checksum(&bytes);
    bytes.extend_from_slice(&check);
    bytes
}

fn decoded<R: Record>(bytes: &[u8]) -> Option<R> {
    let (checked, check) = bytes.split_at_checked(R::BYTES - CHECK_BYTES)?;
    (check == checksum(checked)).then(|| R::decode(checked))?
}

/// The records, or the offset of what is none.
fn parse<R: Record>(content: &[u8]) -> std::result::Result<Vec<R>, usize> {
    let header = header::<R>();
    let Some((first, rest)) = content.split_at_checked(R::BYTES) else {
        // Made and not yet written.
        let begun = header.starts_with(content) || content.iter().all(|byte| *byte == 0);
        return if begun { Ok(Vec::new()) } else { Err(0) };
    };
    if first != header {
        return Err(0);
    }
    let mut parsed = Vec::with_capacity(rest.len() / R::BYTES);
    for (index, record) in rest.chunks_exact(R::BYTES).enumerate() {
        match decoded(record) {
            Some(record) => parsed.push(record),
            None => {
                let at = index * R::BYTES;
                let is_last = at + R::BYTES + R::BYTES > rest.len();
                let only_zeros = rest[at..].iter().all(|byte| *byte == 0);
                if is_last || only_zeros {
                    break;
                }
                return Err(R::BYTES + at);
            }
        }
    }
    Ok(parsed)
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().copied().unwrap_or_default()
}
