//! Whether somebody still wants what a thread of the blocking pool does: long work asks between its pieces.
//!
//! It is kept with the thread, so that storage need not know of sessions. Work that never asks runs to its end.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static CURRENT: RefCell<Option<Unwanted>> = const { RefCell::new(None) };
}

/// Set when nobody wants the work any more that runs under it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unwanted(Arc<AtomicBool>);

/// What was wanted before comes back when this is dropped.
struct Restore(Option<Unwanted>);

impl Unwanted {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Does `work`, which is told by [`is_unwanted`] when this is set.
    pub(crate) fn over<T>(&self, work: impl FnOnce() -> T) -> T {
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Nobody wants what this thread does: it may end where it is, with an error that nobody hears.
pub(crate) fn is_unwanted() -> bool {
    CURRENT.with_borrow(|current| {
        current
            .as_ref()
            .is_some_and(|unwanted| unwanted.0.load(Ordering::Relaxed))
    })
}
