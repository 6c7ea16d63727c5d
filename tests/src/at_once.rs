//! The same work on several threads.

use std::thread;

use anyhow::{Result, anyhow};

/// Does `work` on `count` threads at once, each with its number from 0. The first error, or that one panicked.
pub fn at_once(count: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}
