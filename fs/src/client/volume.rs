//! An open volume.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::attr::Attr;
use lacuna_transport::digest::UnitHash;
use lacuna_transport::extent::Extent;
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodePath;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use super::{SparseReader, SparseWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::file_system::changes::Reach;
use crate::file_system::{FileSystem, OpenId};
use crate::overlay::Content;
use crate::remote::quic::QuicRemote;
use crate::remote::{Remote, UnitRange};

/// Longest write that is taken in at once: a part of the smallest window.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Extents looked at in one go: about 100 KiB of memory, and a page of the map.
const EXTENTS_MAX: usize = 4096;

/// A volume of a server, open. Clones are the same open volume, which is closed with the last of them; what
/// is not flushed then is still sent, as long as the client lives, but nobody hears of a failure: call
/// [`Self::flush`].
pub struct Volume<R: Remote = QuicRemote> {
    opened: Arc<Opened<R>>,
}

struct Opened<R: Remote> {
    fs: Arc<FileSystem<R>>,
    path: NodePath,
    id: NodeId,
    open: OpenId,
    window_bytes: u64,
    runtime: tokio::runtime::Handle,
}

impl<R: Remote> Clone for Volume<R> {
    fn clone(&self) -> Self {
        Self {
            opened: Arc::clone(&self.opened),
        }
    }
}

impl<R: Remote> std::fmt::Debug for Volume<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("path", &self.opened.path)
            .finish_non_exhaustive()
    }
}

impl<R: Remote> Drop for Opened<R> {
    fn drop(&mut self) {
        let _runtime = self.runtime.enter();
        self.fs.close(self.open);
        self.fs.forget(self.id, 1);
    }
}

impl<R: Remote> Volume<R> {
    pub(super) fn new(
        fs: Arc<FileSystem<R>>,
        path: NodePath,
        id: NodeId,
        open: OpenId,
        window_bytes: u64,
    ) -> Self {
        Self {
            opened: Arc::new(Opened {
                fs,
                path,
                id,
                open,
                window_bytes,
                runtime: tokio::runtime::Handle::current(),
            }),
        }
    }

    pub fn path(&self) -> &NodePath {
        &self.opened.path
    }

    /// Attributes now, with what was written and not sent yet.
    pub fn attr(&self) -> Attr {
        self.fs()
            .open_attr(self.open_id())
            .expect("open for as long as this lives")
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.attr().size
    }

    /// Reads `len` bytes at `offset`; fewer at the end of the volume.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let range = checked(offset..offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX)))?;
        Ok(self.fs().read(self.open_id(), range).await?.into_bytes())
    }

    /// Writes; the volume grows as needed. It is on stable storage after a [`Self::flush`].
    pub async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        for part in bytes.chunks(WRITE_BYTES_MAX) {
            self.fs().write(self.open_id(), at, part, Reach::Here).await?;
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Makes a hole within the size: whole blocks are freed, parts of blocks become zeros. Done at the server
    /// when it returns.
    pub async fn punch(&self, range: Range<u64>) -> Result<()> {
        self.reshape(Reshape::Punch, range, false).await
    }

    /// Makes zeros that stay allocated where the storage can; the volume grows as needed.
    pub async fn zero(&self, range: Range<u64>) -> Result<()> {
        self.reshape(Reshape::Zero, range, true).await
    }

    /// Reserves space; the volume grows as needed.
    pub async fn allocate(&self, range: Range<u64>) -> Result<()> {
        self.reshape(Reshape::Allocate, range, true).await
    }

    async fn reshape(&self, how: Reshape, range: Range<u64>, grow: bool) -> Result<()> {
        let range = checked(range)?;
        if range.is_empty() {
            return Ok(());
        }
        self.fs().reshape(self.open_id(), how, range, grow).await
    }

    /// Makes a hole, as [`Self::punch`] does, but sent with what is written before the next flush; beyond
    /// the end the volume grows.
    pub(crate) async fn punch_later(&self, range: ByteRange) -> Result<()> {
        self.fs().void(self.open_id(), range, Content::Hole).await
    }

    /// As [`Self::punch_later`], with zeros that stay allocated.
    pub(crate) async fn zero_later(&self, range: ByteRange) -> Result<()> {
        self.fs().void(self.open_id(), range, Content::Zero).await
    }

    /// Grows with a hole, or cuts.
    pub async fn resize(&self, size: u64) -> Result<()> {
        self.fs().resize_open(self.open_id(), size).await
    }

    /// The extents of `range`, in order and without gaps, cut at the end of the volume; neighbours differ.
    /// At most `count_max` of them, so that they may end earlier.
    pub async fn extents(&self, range: Range<u64>, count_max: usize) -> Result<Vec<Extent>> {
        self.fs()
            .extents(self.open_id(), checked(range)?, count_max)
            .await
    }

    /// The extents at the front of `rest`, which is cut to what is behind them. Not empty: a volume that has become
    /// shorter is an error.
    pub(crate) async fn take_extents(&self, rest: &mut ByteRange) -> Result<Vec<Extent>> {
        let extents = self.extents(rest.start()..rest.end(), EXTENTS_MAX).await?;
        let Some(last) = extents.last() else {
            let text = format!("the volume became shorter while {rest} of it was still to be read");
            return Err(Error::new(ErrorKind::Io, text));
        };
        *rest = ByteRange::new(last.range.end(), rest.end()).unwrap_or(ByteRange::EMPTY);
        Ok(extents)
    }

    /// Returns when everything written is on the server's stable storage.
    pub async fn flush(&self) -> Result<()> {
        self.fs().flush(self.open_id(), false).await
    }

    /// Reads a range in order, as data and holes, with as much on its way as the window of the client holds.
    pub fn reader(&self, range: Range<u64>) -> Result<SparseReader> {
        let range = checked(range)?;
        let size = self.size();
        if range.end() > size {
            let text = format!(
                "{range} of '{}' ends beyond the end of the volume, {size}",
                self.path()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(SparseReader::new(self.clone(), range))
    }

    /// Writes a range in order, as data and holes. What comes beyond its end is refused.
    pub fn writer(&self, range: Range<u64>) -> Result<SparseWriter<R>> {
        Ok(SparseWriter::new(self.clone(), checked(range)?))
    }

    /// Hashes of units as the server has them: what was written here must be flushed before.
    pub(crate) async fn digest(&self, units: UnitRange) -> Result<Vec<UnitHash>> {
        self.fs().digest(self.open_id(), units).await
    }

    pub(crate) fn fs(&self) -> &Arc<FileSystem<R>> {
        &self.opened.fs
    }

    pub(crate) fn open_id(&self) -> OpenId {
        self.opened.open
    }

    pub(crate) fn window_bytes(&self) -> u64 {
        self.opened.window_bytes
    }
}

fn checked(range: Range<u64>) -> Result<ByteRange> {
    ByteRange::new(range.start, range.end).ok_or_else(|| {
        let text = format!("{}..{} is not a range", range.start, range.end);
        Error::new(ErrorKind::Invalid, text)
    })
}
