//! The byte budget, counted in pages.

use std::sync::Arc;

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::PAGE_BYTES;

#[derive(Debug)]
pub struct Budget {
    pages: Arc<Semaphore>,
    pages_max: u32,
    changed: Arc<Notify>,
}

impl Budget {
    /// A budget of `bytes_max`, rounded down to pages, at least one.
    pub fn new(bytes_max: u64) -> Self {
        let pages_max = u32::try_from(bytes_max / PAGE_BYTES).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(pages_max)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            pages: Arc::new(Semaphore::new(permits)),
            pages_max,
            changed: Arc::default(),
        }
    }

    pub fn bytes_max(&self) -> u64 {
        u64::from(self.pages_max) * PAGE_BYTES
    }

    /// Bytes taken and not given back.
    pub fn bytes(&self) -> u64 {
        let free = u64::try_from(self.pages.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.pages_max).saturating_sub(free) * PAGE_BYTES
    }

    /// A share of `bytes`, rounded up to pages, if it is free right now.
    pub fn try_take(&self, bytes: u64) -> Option<Reservation> {
        let pages = u32::try_from(bytes.div_ceil(PAGE_BYTES)).ok()?;
        let permit = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        Some(Reservation {
            permit: Some(permit),
            changed: Arc::clone(&self.changed),
        })
    }

    /// Resolves when a share was given back after this call.
    pub fn released(&self) -> OwnedNotified {
        Arc::clone(&self.changed).notified_owned()
    }

    /// Lets those who wait for room look again.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }
}

/// A share of the budget; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    /// `None` only while being dropped: the permit must be back before anyone is woken.
    permit: Option<OwnedSemaphorePermit>,
    changed: Arc<Notify>,
}

impl Reservation {
    /// Cuts off a share of `bytes`, rounded up to pages. `None` if this one has less.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        let pages = usize::try_from(bytes.div_ceil(PAGE_BYTES)).ok()?;
        let permit = self.permit.as_mut()?.split(pages)?;
        Some(Self {
            permit: Some(permit),
            changed: Arc::clone(&self.changed),
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.changed.notify_waiters();
    }
}
