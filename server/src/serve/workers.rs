//! The threads that serve sessions.
//!
//! Each has a runtime of its own, and a session stays on the one where it began, with its connection and its lanes. A request is
//! then answered by one thread without waking another, which costs more than small requests do; what takes long
//! (storage, hashing, packing) is on the blocking threads of that runtime. The first is the one that has the endpoint, and so
//! receives the packets of all: it is taken first, and again when the others have as many sessions.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use lacuna_transport::quic::busy_poll::BusyPoll;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::shared::BLOCKING_THREADS_MAX;

/// See the module. The threads end when this is dropped, and with them what they still had to do.
#[derive(Debug)]
pub struct Workers {
    first: Worker,
    others: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
    busy_poll: BusyPoll,
    /// Its end is the end of the thread. `None` for the one that is not ours.
    _life: Option<oneshot::Sender<()>>,
}

/// One session of a worker.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<AtomicUsize>,
    /// Of the worker.
    pub(crate) busy_poll: BusyPoll,
}

impl Workers {
    /// A runtime for the thread that has the endpoint.
    pub fn runtime() -> io::Result<Runtime> {
        Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()
    }

    /// The runtime in which this is called serves all sessions.
    pub fn here() -> Self {
        Self {
            first: Worker::new(Handle::current(), None),
            others: Vec::new(),
        }
    }

    /// `count` threads, of which one is the thread of the runtime in which this is called. They have nothing else to
    /// do, and poll when that is worth it.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Self::here();
        for number in 1..count {
            let runtime = Self::runtime()?;
            let handle = runtime.handle().clone();
            let (life, end) = oneshot::channel::<()>();
            thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || {
                    // An error is the end that is waited for: the sender is gone.
                    let _ = runtime.block_on(end);
                    // Reads of a dead disk must not keep us.
                    runtime.shutdown_background();
                })?;
            workers.others.push(Worker::new(handle, Some(life)));
        }
        for worker in workers.others.iter().chain([&workers.first]) {
            worker.busy_poll.allow();
        }
        Ok(workers)
    }

    /// Where the next session is to be served.
    pub(super) fn place(&self) -> (&Handle, Place) {
        let fewer = |best, worker| {
            if Worker::sessions(worker) < Worker::sessions(best) {
                worker
            } else {
                best
            }
        };
        let worker = self.others.iter().fold(&self.first, fewer);
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            sessions: Arc::clone(&worker.sessions),
            busy_poll: worker.busy_poll.clone(),
        };
        (&worker.runtime, place)
    }
}

impl Worker {
    fn new(runtime: Handle, life: Option<oneshot::Sender<()>>) -> Self {
        Self {
            runtime,
            sessions: Arc::default(),
            busy_poll: BusyPoll::default(),
            _life: life,
        }
    }

    fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;

    async fn thread_of(runtime: &Handle) -> ThreadId {
        let task = runtime.spawn(async { thread::current().id() });
        task.await.unwrap()
    }

    #[test]
    fn sessions_are_spread_and_the_first_thread_is_taken_first() {
        let main = Workers::runtime().unwrap();
        main.block_on(async {
            let workers = Workers::start(3).unwrap();
            let (mut places, mut threads) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                let (runtime, place) = workers.place();
                threads.push(thread_of(runtime).await);
                places.push(place);
            }
            assert_eq!(threads[0], thread::current().id());
            assert!(threads[0] != threads[1] && threads[1] != threads[2] && threads[0] != threads[2]);
            places.remove(1);
            let (runtime, _place) = workers.place();
            assert_eq!(thread_of(runtime).await, threads[1], "it has the fewest");
        });
    }

    #[test]
    fn what_runs_on_a_thread_ends_with_the_workers() {
        let main = Workers::runtime().unwrap();
        main.block_on(async {
            let workers = Workers::start(2).unwrap();
            let task = workers.others[0].runtime.spawn(std::future::pending::<()>());
            drop(workers);
            assert!(task.await.unwrap_err().is_cancelled());
        });
    }
}
