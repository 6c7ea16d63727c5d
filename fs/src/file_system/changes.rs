//! Changes of the content of volumes, and of attributes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lacuna_transport::attr::{Attr, NewAttr, NodeKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use super::{FileSystem, OpenId, OpenVolume};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::Content;
use crate::remote::{Access, Named, Remote};
use crate::volume::Volume;
use crate::volume::waiting::Operation;
use crate::volume::write::WriteNow;

/// When a write may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Once it is taken in.
    Here,
    /// Once the server has it (O_DIRECT).
    Server,
    /// Once it is on the server's stable storage (O_SYNC, O_DSYNC).
    Storage,
}

impl<R: Remote> OpenVolume<R> {
    /// An error of a background write that this handle has not reported yet.
    fn unreported(&self) -> Result<()> {
        let seen = self.failures_seen.load(Ordering::Relaxed);
        match self.volume.failure_since(seen) {
            Some((failures, error)) => {
                self.failures_seen.store(failures, Ordering::Relaxed);
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// The outcome of something that waited, after which no error is left to report.
    fn reported(&self, result: Result<()>) -> Result<()> {
        let earlier = self.unreported();
        result.and(earlier)
    }
}

impl<R: Remote> FileSystem<R> {
    /// The front of `data` that the volume can hold from `offset` on.
    pub fn fitting<'a>(&self, open: OpenId, offset: u64, data: &'a [u8]) -> Result<&'a [u8]> {
        let fitting = self.writable(open)?.volume.fitting(offset, data.len())?;
        Ok(data.get(..fitting).unwrap_or(data))
    }

    /// Takes in a write that needs no waiting. Call it within the runtime.
    pub fn write_now(&self, open: OpenId, offset: u64, bytes: &[u8]) -> Result<WriteNow> {
        let open = self.writable(open)?;
        open.volume.write_now(open.fences, offset, bytes)
    }

    pub async fn write(&self, open: OpenId, offset: u64, bytes: &[u8], reach: Reach) -> Result<()> {
        let open = self.writable(open)?;
        open.volume.write(open.fences, offset, bytes).await?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match reach {
            Reach::Here => Ok(()),
            Reach::Server => {
                let range = ByteRange::at_saturating(offset, len);
                open.reported(open.volume.drain(range).await)
            }
            Reach::Storage => open.reported(open.volume.flush(true).await),
        }
    }

    /// Every dirty byte of the volume is at the server: asked for at each close.
    pub async fn drain(&self, open: OpenId) -> Result<()> {
        let open = self.open_volume(open)?;
        if open.access != Access::ReadWrite {
            return open.reported(Ok(()));
        }
        let result = open.volume.drain_all().await;
        open.volume.note_closed();
        open.reported(result)
    }

    /// Every change of the volume is on the server's stable storage.
    pub async fn flush(&self, open: OpenId, data_only: bool) -> Result<()> {
        let open = self.open_volume(open)?;
        open.reported(open.volume.flush(data_only).await)
    }

    /// How far changes through a handle have to get before they are acknowledged, where the change does not say.
    pub fn set_reach(&self, open: OpenId, reach: Reach) {
        if let Ok(open) = self.open_volume(open) {
            // An open handle keeps what it was opened with.
            open.reach.get_or_init(|| reach);
        }
    }

    /// Takes in a punch or a zeroing that needs no waiting. Call it within the runtime.
    pub fn reshape_now(&self, open: OpenId, how: Reshape, range: ByteRange) -> Result<WriteNow> {
        let open = self.writable(open)?;
        match open.reach.get() {
            None | Some(Reach::Here) => open.volume.reshape_now(open.fences, how, range),
            Some(Reach::Server | Reach::Storage) => Ok(WriteNow::Wait),
        }
    }

    /// Punches, zeroes or allocates a range.
    pub async fn reshape(&self, open: OpenId, how: Reshape, range: ByteRange, grow: bool) -> Result<()> {
        if self.reshape_now(open, how, range)? == WriteNow::Done {
            return Ok(());
        }
        let open = self.writable(open)?;
        let path = open.volume.path();
        let reshape = open.volume.reshape(open.fences, how, range, grow);
        self.going_on(("fallocate", &path), reshape).await?;
        match open.reach.get() {
            Some(Reach::Storage) => open.reported(Box::pin(open.volume.flush(true)).await),
            None | Some(Reach::Here | Reach::Server) => Ok(()),
        }
    }

    /// Takes in zeros or a hole, to be sent later; a hole beyond the end makes the volume larger too.
    pub async fn void(&self, open: OpenId, range: ByteRange, content: Content) -> Result<()> {
        let open = self.writable(open)?;
        open.volume.void(open.fences, range, &content).await
    }

    /// Copies at the server; tells how many bytes.
    pub async fn copy(&self, source: (OpenId, ByteRange), target: (OpenId, u64)) -> Result<u64> {
        let (from, to) = (self.open_volume(source.0)?, self.writable(target.0)?);
        let size = from.volume.attr().size;
        let range = source.1.intersect(ByteRange::up_to(size));
        if range.is_empty() {
            return Ok(0);
        }
        let path = to.volume.path();
        let copied = to.volume.copy_from(to.fences, &from.volume, range, target.1);
        self.going_on(("copy", &path), copied).await
    }

    /// Sets size and other attributes of a node.
    pub async fn set_attr(&self, id: NodeId, size: Option<u64>, attr: NewAttr) -> Result<Attr> {
        let kind = self.namespace.lock().kind(id)?;
        if kind == NodeKind::Folder {
            if size.is_some() {
                return Err(Error::new(ErrorKind::NotVolume, "a folder has no size to set"));
            }
            let path = self.namespace.lock().path(id)?;
            let attr = self
                .within(
                    ("set attributes", &path),
                    self.shared.remote.set_attr(Named::Path(&path), attr),
                )
                .await?;
            return Ok(Attr { id, ..attr });
        }
        let volume = self.namespace.lock().volume(id)?;
        if let Some(size) = size {
            self.resize(&volume, size).await?;
        }
        if attr != NewAttr::default() {
            let path = volume.path();
            self.going_on(("set attributes", &path), volume.set_attr(attr))
                .await?;
        }
        match volume.attr_if_followed() {
            Some(attr) => Ok(attr),
            None => self.attr(id).await,
        }
    }

    /// Sets the size of an open volume, as one of the changes that its handle makes.
    pub async fn resize_open(&self, open: OpenId, size: u64) -> Result<()> {
        let open = self.writable(open)?;
        let path = open.volume.path();
        let resized = open.volume.resize(open.fences, size);
        self.going_on(("truncate", &path), resized).await
    }

    /// Sets the size of a volume, open or not.
    async fn resize(&self, volume: &Arc<Volume<R>>, size: u64) -> Result<()> {
        let path = volume.path();
        let opened = self
            .within(("open", &path), volume.open(Access::ReadWrite))
            .await?;
        let resized = self
            .going_on(("truncate", &path), volume.resize(opened.fences, size))
            .await;
        volume.close(Access::ReadWrite);
        resized
    }

    /// Has everything flushed, of all volumes. Returns the errors, each with the volume's name.
    pub async fn flush_all(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        for volume in self.shared.all_unsettled() {
            if let Err(error) = volume.flush(true).await {
                errors.push(error.within(volume.path()));
            }
        }
        errors
    }

    /// Waits for as long as something goes on.
    async fn going_on<'a, T>(
        &self,
        what: impl Into<Operation<'a>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.shared.while_it_goes_on(what, work).await
    }

    fn writable(&self, open: OpenId) -> Result<Arc<OpenVolume<R>>> {
        let open = self.open_volume(open)?;
        open.check_locks()?;
        if open.access == Access::ReadWrite {
            return Ok(open);
        }
        Err(Error::new(ErrorKind::BadHandle, "the volume is open for reading"))
    }
}
