//! One thread at a time: the runtime's, or one of its blocking pool. Without it the order in which the two come would
//! depend on the host, and a seed would not make the same run twice.
//!
//! The runtime holds the baton but while it is parked, a thread of the pool from its start to its end. Threads of the pool
//! end when there is no work left, so all of it is done while the runtime is parked.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Runtime};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Baton {
    held: Mutex<bool>,
    given: Condvar,
}

impl Baton {
    fn take(&self) {
        let mut held = self.held.lock();
        while *held {
            self.given.wait(&mut held);
        }
        *held = true;
    }

    fn give(&self) {
        *self.held.lock() = false;
        self.given.notify_all();
    }

    fn runtime(self: &Arc<Self>) -> std::io::Result<Runtime> {
        let taking = || {
            let baton = Arc::clone(self);
            move || baton.take()
        };
        let giving = || {
            let baton = Arc::clone(self);
            move || baton.give()
        };
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .max_blocking_threads(1)
            .thread_keep_alive(Duration::ZERO)
            // What the pool woke comes first, however often the runtime looked for it.
            .global_queue_interval(1)
            .on_thread_park(giving())
            .on_thread_unpark(taking())
            .on_thread_start(taking())
            .on_thread_stop(giving())
            .build()
    }
}

/// Runs `work` in virtual time on a runtime whose order follows from the work alone.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let baton = Arc::new(Baton::default());
    let runtime = baton.runtime()?;
    baton.take();
    let done = runtime.block_on(work);
    baton.give();
    Ok(done)
}
