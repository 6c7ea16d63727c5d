//! Bodies of control messages: CBOR arrays (RFC 8949), a field at the index its number gives.
//!
//! New fields go to the end and are optional, so that an older peer skips what it does not know.

use minicbor::{Decode, Encode};

use super::WireError;
use crate::attr::Attr;
use crate::id::{BootId, Generation, Handle};
use crate::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX, VOLUME_BYTES_MAX};
use crate::path::{NodeName, NodePath};
use crate::range::ByteRange;

/// Abilities a side may have, as bits. A session uses those that both sides named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Features(#[n(0)] pub u64);

impl Features {
    /// The server tells holes (and zeros) from data in its maps. Without it everything is data.
    pub const HOLES: Self = Self(1 << 0);
    /// The server pushes changes of open volumes.
    pub const EVENTS: Self = Self(1 << 1);
    /// What this build knows.
    pub const KNOWN: Self = Self(Self::HOLES.0 | Self::EVENTS.0);

    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Client to server, first frame of the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Highest minor version the client speaks.
    #[n(0)]
    pub version: u16,
    #[n(1)]
    pub features: Features,
    /// Name and version of the software, for logs. At most [`TEXT_BYTES_MAX`] bytes.
    #[n(2)]
    pub agent: String,
}

/// Server to client, answers [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// Minor version of this session: the lower of both.
    #[n(0)]
    pub version: u16,
    /// Features of this session: those both know.
    #[n(1)]
    pub features: Features,
    #[n(2)]
    pub boot: BootId,
    /// Number of this session at this server, for logs.
    #[n(3)]
    pub session: u64,
    /// True if the export or this client's entry in the allow list is read-only.
    #[n(4)]
    pub read_only: bool,
    #[n(5)]
    pub agent: String,
}

/// A request about a path: [`super::frame::Kind::Stat`], `List`, `Open`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PathRequest {
    #[n(0)]
    pub path: NodePath,
}

/// A request about a handle: `Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HandleRequest {
    #[n(0)]
    pub handle: Handle,
}

/// Asks for the map of `start..end`; the reply is pages that cover it, cut at the volume's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MapRequest {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub start: u64,
    #[n(2)]
    pub end: u64,
    /// Most pages of the reply, at least 1: a page may end before `end`, the last one sent too.
    #[n(3)]
    pub pages_max: u32,
}

/// Answers `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Opened {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub attr: Attr,
}

/// One name of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListEntry {
    #[n(0)]
    pub name: NodeName,
    #[n(1)]
    pub attr: Attr,
}

/// A page of a listing. Names are in ascending byte order, across pages too.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListPage {
    #[n(0)]
    pub entries: Vec<ListEntry>,
}

/// Most encoded bytes of one [`ListEntry`]: to fill pages without encoding twice.
pub const LIST_ENTRY_BYTES_MAX: usize = NAME_BYTES_MAX + 3 + 1 + 14 * 9 + 3 * 16;

/// An event: what the client knows of `start..end` of this volume is void; `attr` is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VolumeChanged {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub attr: Attr,
    #[n(2)]
    pub start: u64,
    #[n(3)]
    pub end: u64,
}

impl VolumeChanged {
    pub fn new(handle: Handle, attr: Attr, range: ByteRange) -> Self {
        Self {
            handle,
            attr,
            start: range.start(),
            end: range.end(),
        }
    }

    /// The range, empty if the peer sent nonsense (refused by [`Message::check`]).
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end).unwrap_or(ByteRange::EMPTY)
    }

    pub fn generation(&self) -> Generation {
        self.attr.generation
    }
}

impl MapRequest {
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.end).unwrap_or(ByteRange::EMPTY)
    }
}

/// A body with bounds beyond its syntax.
pub trait Message: Sized {
    fn check(&self) -> Result<(), WireError>;
}

fn within(holds: bool, what: &'static str) -> Result<(), WireError> {
    if holds {
        Ok(())
    } else {
        Err(WireError::OutOfBounds(what))
    }
}

fn check_attr(attr: &Attr) -> Result<(), WireError> {
    within(attr.size <= VOLUME_BYTES_MAX, "size")?;
    within(attr.mode <= 0o7777, "mode")?;
    within(attr.id.0 != 0, "node id")?;
    within(
        [attr.accessed, attr.modified, attr.changed]
            .iter()
            .all(|time| time.nanos < 1_000_000_000),
        "nanoseconds",
    )
}

impl Message for Hello {
    fn check(&self) -> Result<(), WireError> {
        within(self.agent.len() <= TEXT_BYTES_MAX, "agent")
    }
}

impl Message for Welcome {
    fn check(&self) -> Result<(), WireError> {
        within(self.agent.len() <= TEXT_BYTES_MAX, "agent")
    }
}

impl Message for PathRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl Message for HandleRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl Message for MapRequest {
    fn check(&self) -> Result<(), WireError> {
        within(self.start <= self.end, "map range")?;
        within(self.pages_max > 0, "map pages")
    }
}

impl Message for Attr {
    fn check(&self) -> Result<(), WireError> {
        check_attr(self)
    }
}

impl Message for Opened {
    fn check(&self) -> Result<(), WireError> {
        check_attr(&self.attr)
    }
}

impl Message for ListPage {
    fn check(&self) -> Result<(), WireError> {
        self.entries
            .iter()
            .try_for_each(|entry| check_attr(&entry.attr))?;
        within(
            self.entries.is_sorted_by(|a, b| a.name < b.name),
            "order of names",
        )
    }
}

impl Message for VolumeChanged {
    fn check(&self) -> Result<(), WireError> {
        within(self.start <= self.end, "range of a change")?;
        check_attr(&self.attr)
    }
}

impl Message for crate::attr::Space {
    fn check(&self) -> Result<(), WireError> {
        within(self.block_bytes > 0, "block size")
    }
}

/// Encodes a body.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    minicbor::to_vec(message).expect("a Vec takes any bytes")
}

/// Decodes a body that must be exactly one message, and checks its bounds.
pub fn decode<T: for<'b> Decode<'b, ()> + Message>(bytes: &[u8]) -> Result<T, WireError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let message: T = decoder.decode()?;
    let left = bytes.len() - decoder.position();
    if left > 0 {
        return Err(WireError::Trailing(left));
    }
    message.check()?;
    Ok(message)
}
