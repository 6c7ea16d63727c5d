//! The journal `operations` of the state folder: what was about to be done, and what became of it.
//!
//! ```text
//! record: entry u8 | kind u8 | code u16 | has node u8 | client 3 bytes | instance 16 bytes | operation u64
//!         | node id u64 | birth u64 | time u64 | check
//! ```
//!
//! Little-endian.

use lacuna_transport::id::{NodeId, OperationId};
use lacuna_transport::wire::error_code::ErrorCode;

use super::{ClientTag, InstanceKey, NodeTag, OperationKey, OperationKind, Outcome};
use crate::error::ErrorKind;
use crate::journal;

pub(super) type Journal = journal::Journal<Record>;

/// One line of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: OperationKey,
    pub(super) kind: OperationKind,
    pub(super) entry: Entry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Intent { node: Option<NodeTag>, at_ns: u64 },
    Outcome(Outcome),
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

impl journal::Record for Record {
    const FILE_NAME: &'static str = "operations";
    const HEADER_TEXT: &'static [u8] = b"lacuna operations 1\n";
    const OF: &'static str = "an operation";
    const BYTES: usize = 64;

    fn encode(&self, bytes: &mut [u8]) {
        let (entry, code, node, at_ns) = match self.entry {
            Entry::Intent { node, at_ns } => (1, 0, node, at_ns),
            Entry::Outcome(Ok(node)) => (2, 0, node, 0),
            Entry::Outcome(Err(kind)) => (2, kind.wire_code().number(), None, 0),
        };
        bytes[0] = entry;
        bytes[1] = self.kind.number();
        bytes[2..4].copy_from_slice(&code.to_le_bytes());
        bytes[4] = u8::from(node.is_some());
        bytes[5..8].copy_from_slice(&self.key.client.0);
        bytes[8..24].copy_from_slice(&self.key.instance.0);
        bytes[24..32].copy_from_slice(&self.key.operation.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&node.map_or(0, |node| node.id.0).to_le_bytes());
        bytes[40..48].copy_from_slice(&node.map_or(0, |node| node.birth_ns).to_le_bytes());
        bytes[48..56].copy_from_slice(&at_ns.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| journal::number(bytes, at);
        let node = match bytes.get(4)? {
            0 => None,
            _ => Some(NodeTag {
                id: NodeId(number(32)?),
                birth_ns: number(40)?,
            }),
        };
        let code = bytes.get(2..4)?.first_chunk().copied()?;
        let entry = match (bytes.first()?, u16::from_le_bytes(code)) {
            (1, _) => Entry::Intent {
                node,
                at_ns: number(48)?,
            },
            (2, 0) => Entry::Outcome(Ok(node)),
            (2, code) => Entry::Outcome(Err(ErrorKind::of_wire(ErrorCode::try_from(code).ok()?))),
            _ => return None,
        };
        Some(Self {
            key: OperationKey {
                client: ClientTag(bytes.get(5..8)?.first_chunk().copied()?),
                instance: InstanceKey(bytes.get(8..24)?.first_chunk().copied()?),
                operation: OperationId(number(24)?),
            },
            kind: OperationKind::of(*bytes.get(1)?)?,
            entry,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::journal::Record as _;

    const FILE_NAME: &str = Record::FILE_NAME;
    const RECORD_BYTES: usize = Record::BYTES;

    fn record(operation: u64, entry: Entry) -> Record {
        Record {
            key: OperationKey {
                client: ClientTag([3, 0, 255]),
                instance: InstanceKey([9; 16]),
                operation: OperationId(operation),
            },
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
