//! A stream as a volume of an export.

use std::sync::Arc;

use lacuna_transport::attr::{Attr, NewAttr, NewTime};
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;

use super::Stream;
use crate::backend::OpenVolume;
use crate::backend::export::{NamedVolume, named_id};
use crate::error::{Error, ErrorKind, Result};

/// See the module; the way to a stream by its name.
#[derive(Debug)]
pub struct StreamVolume(pub Arc<Stream>);

impl NamedVolume for StreamVolume {
    fn attr(&self) -> Result<Attr> {
        self.0.attr()
    }

    fn open(&self) -> Result<Arc<dyn OpenVolume>> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }

    fn set_attr(&self, new: &NewAttr) -> Result<Attr> {
        self.0.set_attr(new)?;
        self.0.attr()
    }
}

impl Stream {
    fn attr(&self) -> Result<Attr> {
        let shared = &self.shared;
        let spool = shared.spool.attr()?;
        let state = shared.state.lock();
        Ok(Attr {
            id: named_id(&shared.options.name),
            size: shared.options.size,
            // What is gone was data, for all that anybody can tell.
            allocated_bytes: spool.allocated_bytes.saturating_add(state.core.gone()),
            links: 1,
            modified: state.times.modified,
            changed: state.times.changed(),
            ..spool
        })
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        self.shared.spool.set_attr(new)?;
        let mut state = self.shared.state.lock();
        state.times.change();
        match new.modified {
            Some(NewTime::At(time)) => state.times.modified = time,
            Some(NewTime::Now) => state.times.modified = state.times.changed(),
            None => {}
        }
        Ok(())
    }

    fn keeps_its_size(&self) -> Error {
        let options = &self.shared.options;
        let text = format!(
            "'{}' is a stream of {} bytes and keeps that size; write into it as it is",
            options.name, options.size
        );
        Error::new(ErrorKind::Invalid, text)
    }
}

impl OpenVolume for StreamVolume {
    fn attr(&self) -> Result<Attr> {
        self.0.attr()
    }

    fn size_max(&self) -> Option<u64> {
        Some(self.0.shared.options.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.shared.spool.read_at(buffer, offset)?;
        // Afterwards: it may have left the spool meanwhile.
        self.0.shared.still_there(offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let filled = self.0.shared.spool.read_cached(buffer, offset)?;
        self.0.shared.still_there(offset)?;
        Ok(filled)
    }

    fn extents(&self, range: ByteRange, runs_max: usize) -> Result<Vec<Extent>> {
        let shared = &self.0.shared;
        let mut extents = shared.spool.extents(range, runs_max)?;
        // Afterwards, as above. What is gone is data that cannot be read.
        let gone = shared.state.lock().core.gone().min(shared.options.size);
        let (gone, _) = range.split_at(gone);
        if gone.is_empty() || extents.is_empty() {
            return Ok(extents);
        }
        extents.retain_mut(|extent| {
            extent.range = extent.range.split_at(gone.end()).1;
            !extent.range.is_empty()
        });
        match extents.first_mut() {
            Some(first) if first.kind == ExtentKind::Data && first.range.start() == gone.end() => {
                first.range = ByteRange::new(gone.start(), first.range.end()).unwrap_or(gone);
            }
            _ => {
                extents.insert(0, Extent::new(gone, ExtentKind::Data));
                extents.truncate(runs_max);
            }
        }
        Ok(extents)
    }

    fn ready_to_change(&self) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let range = ByteRange::at_saturating(offset, len);
        if range.is_empty() {
            return Ok(());
        }
        let shared = &self.0.shared;
        shared.change(range, false, || shared.spool.write_at(bytes, offset))
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        let shared = &self.0.shared;
        let range = range.intersect(ByteRange::up_to(shared.options.size));
        if range.is_empty() {
            return Ok(());
        }
        shared.change(range, true, || shared.spool.punch(range))
    }

    fn zero(&self, range: ByteRange, grow: bool) -> Result<()> {
        if grow {
            self.grow(range.end())?;
        }
        self.punch(range)
    }

    fn allocate(&self, _: ByteRange, _: bool) -> Result<()> {
        let text = format!(
            "no space can be reserved in the stream '{}'",
            self.0.shared.options.name
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn resize(&self, size: u64) -> Result<()> {
        match size == self.0.shared.options.size {
            true => Ok(()),
            false => Err(self.0.keeps_its_size()),
        }
    }

    fn grow(&self, size: u64) -> Result<()> {
        let options = &self.0.shared.options;
        if size <= options.size {
            return Ok(());
        }
        let text = format!(
            "'{}' is a stream of {} bytes: there is no space beyond its end",
            options.name, options.size
        );
        Err(Error::new(ErrorKind::NoSpace, text))
    }

    fn flush(&self, data_only: bool) -> Result<()> {
        self.0.shared.spool.flush(data_only)
    }

    fn set_attr(&self, new: &NewAttr) -> Result<()> {
        self.0.set_attr(new)
    }

    fn stream(&self) -> Option<&Arc<Stream>> {
        Some(&self.0)
    }
}
