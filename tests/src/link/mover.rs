//! The thread that moves the packets of one direction; ends on drop.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::conditions::Conditions;
use super::path::Path;

/// Larger than any packet of a device.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// Packets taken before those that are due are given: one batch must not delay them noticeably.
const BATCH_MAX: usize = 64;

/// How late the kernel may wake the thread to save power: less than the shortest delay that is emulated.
const SLACK_NS: NonZeroU64 = NonZeroU64::new(1_000).expect("not zero");

/// See the module.
#[derive(Debug)]
pub(super) struct Mover {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    /// Moves packets between two TUN devices.
    pub(super) fn start(
        from: File,
        to: File,
        conditions: &Arc<Mutex<Conditions>>,
        seed: u64,
    ) -> Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (stopped, conditions) = (Arc::clone(&stop), Arc::clone(conditions));
        let work = move || {
            if let Err(error) = run(from, to, &stopped, &conditions, seed) {
                eprintln!("a link moves nothing any more: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("link".to_owned()).spawn(work)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // A counter from 0 to 1 cannot be full.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

fn run(
    mut from: File,
    mut to: File,
    stopped: &OwnedFd,
    conditions: &Mutex<Conditions>,
    seed: u64,
) -> Result<()> {
    // Only the timing is worse without it.
    let _ = rustix::thread::set_current_timer_slack(Some(SLACK_NS));
    let start = Instant::now();
    let mut path = Path::new(seed);
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        while let Some(packet) = path.give(start.elapsed()) {
            give(&mut to, &packet)?;
        }
        let pause = path.next_due().map(|due| due.saturating_sub(start.elapsed()));
        if wait(&from, stopped, pause)? {
            return Ok(());
        }
        let conditions = *conditions.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BATCH_MAX {
            match from.read(&mut buffer) {
                Ok(length) => path.take(start.elapsed(), &buffer[..length], &conditions),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot read from a TUN device"),
            }
        }
    }
}

/// A device that takes no packet now loses it, as a network card does.
fn give(to: &mut File, packet: &[u8]) -> Result<()> {
    match to.write(packet) {
        Ok(_) => Ok(()),
        Err(error) if is_passing(&error) => Ok(()),
        Err(error) => Err(error).context("cannot write to a TUN device"),
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing =
        [Errno::AGAIN, Errno::NOBUFS, Errno::IO, Errno::INVAL].map(|errno| Some(errno.raw_os_error()));
    passing.contains(&error.raw_os_error())
}

/// Until there is a packet, `pause` is over, or the link ends (true).
fn wait(from: &File, stopped: &OwnedFd, pause: Option<Duration>) -> Result<bool> {
    let pause = pause
        .map(Timespec::try_from)
        .transpose()
        .context("too long a delay")?;
    let mut descriptors = [
        PollFd::new(from, PollFlags::IN),
        PollFd::new(stopped, PollFlags::IN),
    ];
    match poll(&mut descriptors, pause.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!descriptors[1].revents().is_empty()),
        Err(error) => Err(error).context("cannot wait for packets"),
    }
}
