//! One open volume of the simulated disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lacuna_server::backend::OpenVolume;
use lacuna_server::error::{Error, ErrorKind, Result};
use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;

use super::{Call, Disk, Life};

#[derive(Debug)]
pub(super) struct Volume {
    inner: Arc<dyn OpenVolume>,
    disk: Arc<Disk>,
    life: Arc<Life>,
    looked_at: AtomicBool,
}

impl Volume {
    pub(super) fn new(inner: Arc<dyn OpenVolume>, disk: Arc<Disk>, life: Arc<Life>) -> Self {
        Self {
            inner,
            disk,
            life,
            looked_at: AtomicBool::new(false),
        }
    }

    /// Fails while the disk is full.
    fn room(&self) -> Result<()> {
        if self.disk.full.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NoSpace, "the simulated disk is full"));
        }
        Ok(())
    }
}

impl OpenVolume for Volume {
    fn attr(&self) -> Result<Attr> {
        self.life.check()?;
        let attr = self.disk.bugs.attr(self.inner.attr()?);
        if self.looked_at.swap(true, Ordering::AcqRel) {
            return Ok(attr);
        }
        Ok(self.disk.bugs.first_attr(attr))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.life.check()?;
        self.inner.read_at(buffer, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.life.check()?;
        self.inner.read_cached(buffer, offset)
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        self.life.check()?;
        Ok(self.disk.bugs.extents(self.inner.extents(range, runs_max)?))
    }

    fn ready_to_change(&self) -> Result<()> {
        self.life.check()?;
        self.inner.ready_to_change()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.life.change(Call::Write, || {
            self.room()?;
            self.disk.bugs.write(&self.inner, bytes, offset)
        })
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        self.life.change(Call::Reshape, || self.inner.punch(range))
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        self.life.change(Call::Reshape, || {
            self.room()?;
            self.inner.zero(range, grow)
        })
    }

    fn allocate(&self, range: ByteRange, grow: bool) -> Result<()> {
        self.life.change(Call::Reshape, || {
            self.room()?;
            self.inner.allocate(range, grow)
        })
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.life.change(Call::Resize, || self.inner.resize(size))
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.life.change(Call::Resize, || self.inner.grow(size))
    }

    fn flush(&self, data_only: bool) -> Result<()> {
        self.life.change(Call::Flush, || {
            if self.disk.flush_is_bad() {
                return Err(Error::new(ErrorKind::Io, "the simulated disk is bad"));
            }
            self.disk.bugs.flush(&*self.inner, data_only)
        })
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        self.life.check()?;
        self.inner.set_attr(new)
    }
}
