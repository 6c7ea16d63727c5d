//! Changes of the content of a volume in memory, as they come to a server: late, flushed behind, or not answered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::BootId;
use lacuna_transport::range::ByteRange;

use super::{Content, MemoryRemote, MemoryVolume, attr_of};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::buffer::Slice;

/// What comes of a change before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Answer,
    Flush,
}

impl MemoryRemote {
    pub(super) async fn write_then(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        (ranges, slices): (Vec<ByteRange>, Vec<Slice>),
        then: Then,
    ) -> Result<Attr> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.check_place(&ranges)?;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.as_ref().to_vec()).collect();
        let write = |content: &mut Content| {
            let mut rest = &bytes[..];
            for range in &ranges {
                let (front, back) = rest.split_at(usize::try_from(range.len()).unwrap_or(0));
                content.write_bytes(range.start(), front);
                rest = back;
            }
            assert!(rest.is_empty(), "slices and ranges agree");
        };
        self.apply_then(volume, boot, write, then).await
    }

    pub(super) async fn apply(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        change: impl FnOnce(&mut Content) + Send,
    ) -> Result<Attr> {
        self.apply_then(volume, boot, change, Then::Answer).await
    }

    pub(super) async fn apply_then(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        change: impl FnOnce(&mut Content) + Send,
        then: Then,
    ) -> Result<Attr> {
        self.reached().await;
        let delays = self.state.lock().delays;
        tokio::task::yield_now().await;
        pause(delays.before).await;
        let attr = self.apply_now(volume, boot, change, then);
        pause(delays.answer).await;
        attr
    }

    fn apply_now(
        &self,
        volume: &MemoryVolume,
        boot: BootId,
        change: impl FnOnce(&mut Content),
        then: Then,
    ) -> Result<Attr> {
        let id = volume.id;
        let mut state = self.asked()?;
        if let Some(kind) = state.fail_changes {
            return Err(Error::new(kind, "made to fail"));
        }
        if state.boot() != boot {
            return Err(Error::new(ErrorKind::Disconnected, "another run"));
        }
        let content = state.content(id)?;
        if content.lease != volume.lease {
            volume.fenced.store(true, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Fenced, "somebody else had it"));
        }
        change(content);
        let attr = attr_of(id, content);
        if then == Then::Flush {
            if let Some(kind) = state.fail_flush.take() {
                return Err(Error::new(kind, "made to fail"));
            }
            let now = state.content(id)?.clone();
            state.flushed.insert(id, now);
        }
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(Error::new(ErrorKind::Disconnected, "the answer was lost"));
        }
        Ok(attr)
    }
}

pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
