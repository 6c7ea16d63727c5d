//! The journal `leases` of the state folder: who got which lease, and who let go.
//!
//! ```text
//! record: entry u8 | bytes of name u8 | of address u8 | 0 | bytes of path u16 | 0 × 2 | holder 16 bytes
//!         | node id u64 | birth u64 | lease u64 | time u64 | name 64 bytes | address 56 bytes | path 256 bytes
//!         | check
//! ```
//!
//! Little-endian. The path is for people: of a longer one its end is kept.
//!
//! Nothing is flushed but what makes a difference to who is let in: a lease that changes hands or is broken. What
//! a crash of the host takes away is then a first holder's record, a return to the same holder, or that one let
//! go: each makes a later client wait, or be fenced, in vain, or lets a holder go on that had the volume last. Given
//! up on purpose: a volume that was never held before gets a first holder, the host crashes within seconds, and a
//! client that has been away since an even earlier crash of the host comes back with a lease of then.

use lacuna_transport::id::{LeaseId, NodeId};

use super::table::Holder;
use crate::journal;
use crate::operations::{InstanceKey, NodeTag};

const NAME_AT: usize = 56;
const ADDRESS_AT: usize = 120;
const PATH_AT: usize = 176;
const PATH_END: usize = 432;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Granted(NodeTag, LeaseId, Holder),
    Freed(NodeTag, LeaseId, Holder),
    Broken(NodeTag, LeaseId),
    /// All up to this one may have been forgotten.
    Forgotten(LeaseId),
}

impl journal::Record for Record {
    const FILE_NAME: &'static str = "leases";
    const HEADER_TEXT: &'static [u8] = b"lacuna leases 1\n";
    const OF: &'static str = "a lease";
    const BYTES: usize = PATH_END + journal::CHECK_BYTES;

    fn encode(&self, bytes: &mut [u8]) {
        let nothing = NodeTag {
            id: NodeId(0),
            birth_ns: 0,
        };
        let (entry, tag, lease, holder) = match self {
            Self::Granted(tag, lease, holder) => (1, *tag, lease, Some(holder)),
            Self::Freed(tag, lease, holder) => (2, *tag, lease, Some(holder)),
            Self::Broken(tag, lease) => (3, *tag, lease, None),
            Self::Forgotten(lease) => (4, nothing, lease, None),
        };
        bytes[0] = entry;
        bytes[24..32].copy_from_slice(&tag.id.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&tag.birth_ns.to_le_bytes());
        bytes[40..48].copy_from_slice(&lease.0.to_le_bytes());
        if let Some(holder) = holder {
            bytes[8..24].copy_from_slice(&holder.key.to_bytes());
            bytes[48..56].copy_from_slice(&holder.since_ns.to_le_bytes());
            bytes[1] = u8::try_from(put(&mut bytes[NAME_AT..ADDRESS_AT], &holder.name)).unwrap_or(0);
            bytes[2] = u8::try_from(put(&mut bytes[ADDRESS_AT..PATH_AT], &holder.address)).unwrap_or(0);
            let path = u16::try_from(put(&mut bytes[PATH_AT..PATH_END], &holder.path)).unwrap_or(0);
            bytes[4..6].copy_from_slice(&path.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| journal::number(bytes, at);
        let text = |at: usize, len: usize| {
            let text = String::from_utf8(bytes.get(at..at + len)?.to_vec());
            text.ok()
        };
        let tag = NodeTag {
            id: NodeId(number(24)?),
            birth_ns: number(32)?,
        };
        let lease = LeaseId(number(40)?);
        let path_bytes = u16::from_le_bytes(bytes.get(4..6)?.first_chunk().copied()?);
        let holder = || {
            Some(Holder {
                key: InstanceKey::from_bytes(bytes.get(8..24)?.first_chunk().copied()?),
                since_ns: number(48)?,
                name: text(NAME_AT, usize::from(*bytes.get(1)?))?,
                address: text(ADDRESS_AT, usize::from(*bytes.get(2)?))?,
                path: text(PATH_AT, usize::from(path_bytes))?,
            })
        };
        match bytes.first()? {
            1 => Some(Self::Granted(tag, lease, holder()?)),
            2 => Some(Self::Freed(tag, lease, holder()?)),
            3 => Some(Self::Broken(tag, lease)),
            4 => Some(Self::Forgotten(lease)),
            _ => None,
        }
    }
}

/// Puts the end of `text` into `field`; returns how many bytes.
fn put(field: &mut [u8], text: &str) -> usize {
    let cut = text.ceil_char_boundary(text.len().saturating_sub(field.len()));
    let kept = &text.as_bytes()[cut..];
    field[..kept.len()].copy_from_slice(kept);
    kept.len()
}
