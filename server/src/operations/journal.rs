//! The file `operations` of the state folder: what was about to be done, and what became of it.
//!
//! ```text
//! header: 64 bytes, the text "lacuna operations 1\n" and zeros
//! record: entry u8 | kind u8 | code u16 | has node u8 | 0 × 3 | instance 16 bytes | operation u64
//!         | node id u64 | birth u64 | time u64 | first 8 bytes of the SHA-256 of all before
//! ```
//!
//! Little-endian. A last record that is incomplete or does not check, or zeros at the end (what a crash of the
//! host leaves), never happened. Anything else that does not check is an error, and the file stays as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lacuna_transport::id::{NodeId, OperationId};
use lacuna_transport::wire::error_code::ErrorCode;
use sha2::{Digest, Sha256};

use super::{InstanceKey, NodeTag, OperationKind, Outcome};
use crate::error::{Error, ErrorKind, Result};

pub(super) const FILE_NAME: &str = "operations";
pub(super) const RECORD_BYTES: usize = 64;
const HEADER_TEXT: &[u8] = b"lacuna operations 1\n";
const CHECKED_BYTES: usize = RECORD_BYTES - 8;
/// The journal is written anew when it is this large and twice what it was when last written anew.
pub(super) const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// One line of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) instance: InstanceKey,
    pub(super) operation: OperationId,
    pub(super) kind: OperationKind,
    pub(super) entry: Entry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Intent { node: Option<NodeTag>, at_ns: u64 },
    Outcome(Outcome),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Whole records, and the header. What lies beyond is a record that could not be written.
    bytes: u64,
    compact_at: u64,
}

impl Journal {
    /// Opens the journal of a state folder, made if it is missing, and what it holds in order.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<Record>)> {
        let path = folder.join(FILE_NAME);
        let failed = |error| Error::io(format!("cannot open {}", path.display()), error);
        let file = options().open(&path).map_err(failed)?;
        let content = fs::read(&path).map_err(failed)?;
        let records = parse(&content).map_err(|at| {
            let text = format!(
                "{}, byte {at}: this is no record of an operation; move the file away to serve without it, it \
                 was left as it is",
                path.display()
            );
            Error::new(ErrorKind::Corrupt, text)
        })?;
        let bytes = offset_of(records.len());
        if records.is_empty() {
            file.write_all_at(&header(), 0).map_err(failed)?;
        }
        file.set_len(bytes).map_err(failed)?;
        let compact_at = bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        let journal = Self {
            path,
            file,
            bytes,
            compact_at,
        };
        Ok((journal, records))
    }

    /// A record that could not be written is overwritten by the next.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let written = self.file.write_all_at(&record.encode(), self.bytes);
        written.map_err(|error| self.failed(error))?;
        self.bytes += offset_of(1) - offset_of(0);
        Ok(())
    }

    pub(super) const fn is_large(&self) -> bool {
        self.bytes >= self.compact_at
    }

    /// Replaces the file by one with these records alone.
    pub(super) fn compact(&mut self, records: Vec<Record>) -> Result<()> {
        let aside = self.path.with_extension("new");
        let write = || -> io::Result<File> {
            let file = options().truncate(true).open(&aside)?;
            let mut writer = BufWriter::new(&file);
            writer.write_all(&header())?;
            for record in &records {
                writer.write_all(&record.encode())?;
            }
            writer.flush()?;
            drop(writer);
            fs::rename(&aside, &self.path)?;
            Ok(file)
        };
        // Tried again only after as much as this has come, also if it failed.
        self.compact_at = self.bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        self.file = write().map_err(|error| self.failed(error))?;
        self.bytes = offset_of(records.len());
        self.compact_at = self.bytes.saturating_mul(2).max(COMPACT_BYTES_MIN);
        Ok(())
    }

    /// One whose writes fail.
    #[cfg(test)]
    pub(super) fn broken(device: &Path) -> Self {
        Self {
            path: device.to_owned(),
            file: OpenOptions::new().write(true).open(device).expect("a device"),
            bytes: 0,
            compact_at: u64::MAX,
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

fn offset_of(record: usize) -> u64 {
    u64::try_from((record + 1).saturating_mul(RECORD_BYTES)).unwrap_or(u64::MAX)
}

fn header() -> [u8; RECORD_BYTES] {
    let mut header = [0; RECORD_BYTES];
    header[..HEADER_TEXT.len()].copy_from_slice(HEADER_TEXT);
    header
}

/// The records, or the offset of what is none.
fn parse(content: &[u8]) -> std::result::Result<Vec<Record>, usize> {
    let Some((first, rest)) = content.split_first_chunk::<RECORD_BYTES>() else {
        // Made and not yet written.
        let begun = header().starts_with(content) || content.iter().all(|byte| *byte == 0);
        return if begun { Ok(Vec::new()) } else { Err(0) };
    };
    if *first != header() {
        return Err(0);
    }
    let (records, _torn) = rest.as_chunks::<RECORD_BYTES>();
    let mut parsed = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        match Record::decode(record) {
            Some(record) => parsed.push(record),
            None => {
                let at = index * RECORD_BYTES;
                let is_last = at + RECORD_BYTES + RECORD_BYTES > rest.len();
                let only_zeros = rest[at..].iter().all(|byte| *byte == 0);
                if is_last || only_zeros {
                    break;
                }
                return Err(RECORD_BYTES + at);
            }
        }
    }
    Ok(parsed)
}

impl OperationKind {
    const fn number(self) -> u8 {
        match self {
            Self::Create => 1,
            Self::MakeFolder => 2,
            Self::Remove => 3,
            Self::Rename => 4,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Create),
            2 => Some(Self::MakeFolder),
            3 => Some(Self::Remove),
            4 => Some(Self::Rename),
            _ => None,
        }
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let (entry, code, node, at_ns) = match self.entry {
            Entry::Intent { node, at_ns } => (1, 0, node, at_ns),
            Entry::Outcome(Ok(node)) => (2, 0, node, 0),
            Entry::Outcome(Err(kind)) => (2, kind.wire_code().number(), None, 0),
        };
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = entry;
        bytes[1] = self.kind.number();
        bytes[2..4].copy_from_slice(&code.to_le_bytes());
        bytes[4] = u8::from(node.is_some());
        bytes[8..24].copy_from_slice(&self.instance.0);
        bytes[24..32].copy_from_slice(&self.operation.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&node.map_or(0, |node| node.id.0).to_le_bytes());
        bytes[40..48].copy_from_slice(&node.map_or(0, |node| node.birth_ns).to_le_bytes());
        bytes[48..56].copy_from_slice(&at_ns.to_le_bytes());
        let check = checksum(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (checked, check) = bytes.split_at(CHECKED_BYTES);
        if check != checksum(checked) {
            return None;
        }
        let number = |at: usize| {
            let word = bytes.get(at..at + 8)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*word))
        };
        let node = match bytes[4] {
            0 => None,
            _ => Some(NodeTag {
                id: NodeId(number(32)?),
                birth_ns: number(40)?,
            }),
        };
        let entry = match (bytes[0], u16::from_le_bytes([bytes[2], bytes[3]])) {
            (1, _) => Entry::Intent {
                node,
                at_ns: number(48)?,
            },
            (2, 0) => Entry::Outcome(Ok(node)),
            (2, code) => Entry::Outcome(Err(ErrorKind::of_wire(ErrorCode::try_from(code).ok()?))),
            _ => return None,
        };
        Some(Self {
            instance: InstanceKey(bytes.get(8..24)?.first_chunk::<16>().copied()?),
            operation: OperationId(number(24)?),
            kind: OperationKind::of(bytes[1])?,
            entry,
        })
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(operation: u64, entry: Entry) -> Record {
        Record {
            instance: InstanceKey([9; 16]),
            operation: OperationId(operation),
            kind: OperationKind::Rename,
            entry,
        }
    }

    fn samples() -> Vec<Record> {
        let node = Some(NodeTag {
            id: NodeId(u64::MAX),
            birth_ns: 7,
        });
        let entries = [
            Entry::Intent { node, at_ns: 5 },
            Entry::Intent { node: None, at_ns: 0 },
            Entry::Outcome(Ok(node)),
            Entry::Outcome(Ok(None)),
            Entry::Outcome(Err(ErrorKind::NotEmpty)),
        ];
        (0..)
            .zip(entries)
            .map(|(number, entry)| record(number, entry))
            .collect()
    }

    fn written(folder: &Path) -> Vec<u8> {
        let (mut journal, records) = Journal::open(folder).unwrap();
        assert!(records.is_empty());
        for record in samples() {
            journal.append(&record).unwrap();
        }
        fs::read(folder.join(FILE_NAME)).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        assert_eq!(Journal::open(folder.path()).unwrap().1, samples());
    }

    #[test]
    fn a_torn_end_never_happened_and_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let whole = written(folder.path());
        let path = folder.path().join(FILE_NAME);
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, records) = Journal::open(folder.path()).unwrap();
            let kept = (cut / RECORD_BYTES).saturating_sub(1);
            assert_eq!(records, samples()[..kept], "cut at {cut}");
            journal.append(&samples()[0]).unwrap();
            let again = Journal::open(folder.path()).unwrap().1;
            assert_eq!(again[..], [&samples()[..kept], &samples()[..1]].concat());
        }
        let mut bad_end = whole.clone();
        *bad_end.last_mut().unwrap() ^= 1;
        for bytes in [bad_end, [&whole[..], &[0; 300]].concat()] {
            fs::write(&path, &bytes).unwrap();
            let records = Journal::open(folder.path()).unwrap().1;
            assert!(records.len() >= samples().len() - 1);
        }
    }

    #[test]
    fn a_corrupt_file_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let whole = written(folder.path());
        let path = folder.path().join(FILE_NAME);
        for at in [0, 30, RECORD_BYTES, RECORD_BYTES * 3 + 20] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            let error = Journal::open(folder.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::write(&path, "something else").unwrap();
        assert!(Journal::open(folder.path()).is_err());
    }
}
