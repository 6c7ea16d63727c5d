//! Bodies of control messages: CBOR arrays (RFC 8949), a field at the index its number gives.
//!
//! New fields go to the end and are optional, so that an older peer skips what it does not know.

use minicbor::{Decode, Encode};

use super::WireError;
use crate::attr::{Attr, NewAttr, NewNode, NewTime};
use crate::id::{BootId, Generation, Handle, InstanceId, LeaseId, NodeId, OperationId};
use crate::limits::{COPY_BYTES_MAX, NAME_BYTES_MAX, PUNCH_RANGES_MAX, TEXT_BYTES_MAX, VOLUME_BYTES_MAX};
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
    /// The server takes changes.
    pub const CHANGES: Self = Self(1 << 2);
    /// The server hashes units of a volume.
    pub const DIGESTS: Self = Self(1 << 3);
    /// Payloads may be packed with zstd.
    pub const ZSTD: Self = Self(1 << 4);
    /// Payloads may be packed with lz4.
    pub const LZ4: Self = Self(1 << 5);
    /// The server can be asked about volumes that are streams, and to finish them.
    pub const STREAMS: Self = Self(1 << 6);
    /// The client knows write leases: it can be asked to give one back, and told that one is gone.
    pub const LEASES: Self = Self(1 << 7);
    /// The server keeps locks.
    pub const LOCKS: Self = Self(1 << 8);
    /// A write may ask for a flush after it.
    pub const WRITE_FLUSH: Self = Self(1 << 10);
    /// A punch may have several ranges.
    pub const PUNCH_MANY: Self = Self(1 << 11);
    /// What this build knows.
    pub const KNOWN: Self = Self(
        Self::HOLES.0
            | Self::EVENTS.0
            | Self::CHANGES.0
            | Self::DIGESTS.0
            | Self::ZSTD.0
            | Self::LZ4.0
            | Self::STREAMS.0
            | Self::LEASES.0
            | Self::LOCKS.0
            | Self::WRITE_FLUSH.0
            | Self::PUNCH_MANY.0,
    );

    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
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
    /// The mount behind this session. The server answers once whatever an earlier session of the same
    /// instance had under way has ended, so that nothing sent before can take effect after.
    #[n(3)]
    pub instance: Option<InstanceId>,
    /// How long a request of this client waits for an answer; `None`: longer than the server takes for one.
    #[n(4)]
    pub patience_ms: Option<u32>,
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

/// A request about a path: [`super::frame::Kind::Stat`], `List`, `FlushFolder`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PathRequest {
    #[n(0)]
    pub path: NodePath,
}

/// Asks for a handle.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OpenRequest {
    #[n(0)]
    pub path: NodePath,
    /// Changes will be made through it.
    #[n(1)]
    pub write: bool,
    /// The lease that this client goes on with, in a new session: `Fenced` if somebody else has had it since.
    #[n(2)]
    pub lease: Option<LeaseId>,
}

/// What to do to a range of a volume without sending bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reshape {
    /// Make a hole, within the size: whole blocks are freed, parts of blocks become zeros.
    #[n(0)]
    Punch,
    /// Make zeros; stays allocated where the storage can.
    #[n(1)]
    Zero,
    /// Reserve space; what is there stays.
    #[n(2)]
    Allocate,
}

/// `Reshape`: answered with the volume's [`Attr`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReshapeRequest {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub how: Reshape,
    #[n(2)]
    pub start: u64,
    #[n(3)]
    pub end: u64,
    /// The volume becomes at least `end` bytes large. Never with `Punch`.
    #[n(4)]
    pub grow: bool,
    /// More ranges, as start and end, behind that one and in order. Only with `Punch`, and [`Features::PUNCH_MANY`].
    #[n(5)]
    pub others: Option<Vec<(u64, u64)>>,
}

/// `Resize`: answered with the volume's [`Attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResizeRequest {
    #[n(0)]
    pub handle: Handle,
    #[n(1)]
    pub size: u64,
}

/// `Copy`: bytes and holes of one volume into another, or elsewhere in the same one (ranges that do not
/// overlap). The target is on stable storage when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyRequest {
    #[n(0)]
    pub source: Handle,
    #[n(1)]
    pub source_offset: u64,
    #[n(2)]
    pub target: Handle,
    #[n(3)]
    pub target_offset: u64,
    /// Bytes, 1 to [`COPY_BYTES_MAX`]. The copy ends where the source ends.
    #[n(4)]
    pub length: u64,
}

/// Answers `Copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Copied {
    /// Bytes done, holes included; 0 at or beyond the end of the source.
    #[n(0)]
    pub bytes: u64,
    /// Of the target.
    #[n(1)]
    pub attr: Attr,
}

/// `Flush`: everything answered before is on stable storage. Answered with the volume's [`Attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FlushRequest {
    #[n(0)]
    pub handle: Handle,
    /// Attributes that no read depends on may stay behind (fdatasync).
    #[n(1)]
    pub data_only: bool,
}

/// Which node a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Subject {
    #[n(0)]
    Path(#[n(0)] NodePath),
    #[n(1)]
    Open(#[n(0)] Handle),
}

/// `SetAttr`: answered with the node's [`Attr`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetAttrRequest {
    #[n(0)]
    pub subject: Subject,
    #[n(1)]
    pub attr: NewAttr,
}

/// `Create`: makes a volume of size 0 and opens it for writing. Answered with [`Opened`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreateRequest {
    #[n(0)]
    pub operation: OperationId,
    #[n(1)]
    pub path: NodePath,
    #[n(2)]
    pub node: NewNode,
    /// Fail with `Exists` if there is one; otherwise that one is opened as it is.
    #[n(3)]
    pub exclusive: bool,
}

/// `MakeFolder`: answered with its [`Attr`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MakeFolderRequest {
    #[n(0)]
    pub operation: OperationId,
    #[n(1)]
    pub path: NodePath,
    #[n(2)]
    pub node: NewNode,
}

/// `Remove`: answered with nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RemoveRequest {
    #[n(0)]
    pub operation: OperationId,
    #[n(1)]
    pub path: NodePath,
    /// An empty folder is to go, or a volume.
    #[n(2)]
    pub folder: bool,
    /// Fail with `Stale` if it is another node by now.
    #[n(3)]
    pub id: Option<NodeId>,
}

/// What becomes of a node that already has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RenameMode {
    /// It goes (a folder must be empty).
    #[n(0)]
    Replace,
    /// The rename fails with `Exists`.
    #[n(1)]
    Keep,
    /// It gets the old name.
    #[n(2)]
    Exchange,
}

/// `Rename`: answered with nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RenameRequest {
    #[n(0)]
    pub operation: OperationId,
    #[n(1)]
    pub from: NodePath,
    #[n(2)]
    pub to: NodePath,
    #[n(3)]
    pub mode: RenameMode,
}

/// A request about a handle: `Close`, `StatOpen`.
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
    /// The largest size that this volume can have, in bytes: that of a device, which cannot grow. `None`: as
    /// much as there is space for.
    #[n(2)]
    pub size_max: Option<u64>,
    /// The write lease, if it was opened for changes.
    #[n(3)]
    pub lease: Option<LeaseId>,
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
pub const LIST_ENTRY_BYTES_MAX: usize = NAME_BYTES_MAX + 3 + 1 + 15 * 9 + 3 * 16;

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

/// `Finish`: asks how far a stream is, or for its end too. Answered with [`StreamReport`], at once: the end
/// comes when all is out. A volume that is no stream is `Unsupported`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FinishRequest {
    #[n(0)]
    pub path: NodePath,
    /// Have all of it go out, and end it. Again and again is the same as once.
    #[n(1)]
    pub finish: bool,
}

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum StreamState {
    /// Takes changes; what its spool has no room for goes out.
    #[n(0)]
    Open,
    /// All goes out; takes no changes.
    #[n(1)]
    Finishing,
    /// All is out, the end too.
    #[n(2)]
    Finished,
    /// Nothing goes out any more.
    #[n(3)]
    Failed,
}

impl StreamState {
    /// The lower-case word used in output and documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Finishing => "finishing",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

/// Answers `Finish`. All numbers are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StreamReport {
    #[n(0)]
    pub state: StreamState,
    #[n(1)]
    pub size: u64,
    /// All below is out.
    #[n(2)]
    pub position: u64,
    /// All below cannot be read any more.
    #[n(3)]
    pub readable_from: u64,
    /// In the spool now.
    #[n(4)]
    pub held_bytes: u64,
    /// Bound of the spool.
    #[n(5)]
    pub spool_bytes_max: Option<u64>,
    #[n(6)]
    pub window_bytes: u64,
    /// Of changes that came too late; each once, in whole blocks of 4 KiB.
    #[n(7)]
    pub refused_bytes: u64,
    /// A spool that would have taken them.
    #[n(8)]
    pub enough_bytes: Option<u64>,
    /// Why it failed, or what it waits for; [`TEXT_BYTES_MAX`] bytes at most.
    #[n(9)]
    pub note: Option<String>,
}

/// A body with bounds beyond its syntax.
pub trait Message: Sized {
    fn check(&self) -> Result<(), WireError>;
}

pub(super) fn within(holds: bool, what: &'static str) -> Result<(), WireError> {
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

impl Message for OpenRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl ReshapeRequest {
    /// All ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let others = self.others.iter().flatten().copied();
        let all = std::iter::once((self.start, self.end)).chain(others);
        all.filter_map(|(start, end)| ByteRange::new(start, end))
    }
}

impl Message for ReshapeRequest {
    fn check(&self) -> Result<(), WireError> {
        within(
            self.start < self.end && self.end <= VOLUME_BYTES_MAX,
            "range to reshape",
        )?;
        within(!(self.grow && self.how == Reshape::Punch), "punch that grows")?;
        let Some(others) = &self.others else { return Ok(()) };
        within(self.how == Reshape::Punch, "several ranges")?;
        within(
            (1..PUNCH_RANGES_MAX).contains(&others.len()),
            "number of ranges to punch",
        )?;
        let mut behind = self.end;
        for (start, end) in others {
            within(
                behind <= *start && start < end && *end <= VOLUME_BYTES_MAX,
                "range to punch",
            )?;
            behind = *end;
        }
        Ok(())
    }
}

impl Message for ResizeRequest {
    fn check(&self) -> Result<(), WireError> {
        within(self.size <= VOLUME_BYTES_MAX, "size")
    }
}

impl Message for CopyRequest {
    fn check(&self) -> Result<(), WireError> {
        within((1..=COPY_BYTES_MAX).contains(&self.length), "length of a copy")?;
        let end = |offset: u64| offset.checked_add(self.length);
        let fits = |offset| end(offset).is_some_and(|end| end <= VOLUME_BYTES_MAX);
        within(
            fits(self.source_offset) && fits(self.target_offset),
            "range of a copy",
        )?;
        let apart = self.source_offset.abs_diff(self.target_offset) >= self.length;
        within(self.source != self.target || apart, "overlap of a copy")
    }
}

impl Message for Copied {
    fn check(&self) -> Result<(), WireError> {
        within(self.bytes <= COPY_BYTES_MAX, "copied bytes")?;
        check_attr(&self.attr)
    }
}

impl Message for FlushRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl Message for SetAttrRequest {
    fn check(&self) -> Result<(), WireError> {
        within(self.attr.mode.is_none_or(|mode| mode <= 0o7777), "mode")?;
        let times = [self.attr.accessed, self.attr.modified].into_iter().flatten();
        within(times.into_iter().all(is_a_time), "nanoseconds")
    }
}

fn is_a_time(time: NewTime) -> bool {
    match time {
        NewTime::Now => true,
        NewTime::At(time) => time.nanos < 1_000_000_000,
    }
}

fn check_node(node: &NewNode) -> Result<(), WireError> {
    within(node.mode <= 0o7777, "mode")
}

impl Message for CreateRequest {
    fn check(&self) -> Result<(), WireError> {
        check_node(&self.node)
    }
}

impl Message for MakeFolderRequest {
    fn check(&self) -> Result<(), WireError> {
        check_node(&self.node)
    }
}

impl Message for RemoveRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl Message for RenameRequest {
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

impl Message for FinishRequest {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl Message for StreamReport {
    fn check(&self) -> Result<(), WireError> {
        within(self.size <= VOLUME_BYTES_MAX, "size")?;
        within(
            self.readable_from <= self.position && self.position <= self.size,
            "position of a stream",
        )?;
        let text_bytes = self.note.as_ref().map_or(0, String::len);
        within(text_bytes <= TEXT_BYTES_MAX, "note of a stream")
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
