//! Reports of the kernel on changes by other programs: inotify on the inodes of volumes.
//!
//! A watch is on the inode, so renaming a volume does not lose it, and it outlives the descriptor: a
//! volume that was closed is still watched until the catalog forgets it.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::VolumeNode;
use crate::backend::OpenVolume;
use crate::error::{Error, Result};

/// Writes and truncation, and what moves the change time alone.
const WATCHED: WatchFlags = WatchFlags::MODIFY.union(WatchFlags::ATTRIB);

/// One inotify instance and the volumes it watches.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: OwnedFd,
    nodes: Mutex<HashMap<i32, Weak<VolumeNode>>>,
    complained: AtomicBool,
}

/// Watches one inode until dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Weak<Watcher>,
    number: i32,
}

impl Watcher {
    pub(super) fn new() -> Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|errno| Error::os("cannot make an inotify instance", errno))?;
        Ok(Self {
            inotify,
            nodes: Mutex::default(),
            complained: AtomicBool::new(false),
        })
    }

    /// `None` if this volume cannot be watched; its changes are then noticed at the next look.
    pub(super) fn add(self: &Arc<Self>, volume: &dyn OpenVolume, node: &Arc<VolumeNode>) -> Option<Watch> {
        let name = format!("/proc/self/fd/{}", volume.read_fd()?.as_raw_fd());
        // Taken first: an event for the new number must find its node.
        let mut nodes = self.nodes.lock();
        match inotify::add_watch(&self.inotify, name, WATCHED) {
            Ok(number) => {
                nodes.insert(number, Arc::downgrade(node));
                Some(Watch {
                    watcher: Arc::downgrade(self),
                    number,
                })
            }
            Err(errno) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = %std::io::Error::from(errno),
                        "cannot watch a volume for changes by other programs: they are noticed late; \
                         raise fs.inotify.max_user_watches if that is the reason",
                    );
                }
                None
            }
        }
    }

    pub(super) async fn run(&self) -> Result<()> {
        let failed = |error| Error::io("cannot wait for inotify", error);
        // Deprecated for types whose descriptor may change under it. A BorrowedFd cannot, and the way out
        // (`register`) is an unsafe function, which this crate has none of.
        #[expect(deprecated, reason = "sound with a BorrowedFd")]
        let ready = AsyncFd::new(self.inotify.as_fd()).map_err(failed)?;
        loop {
            let mut guard = ready.readable().await.map_err(failed)?;
            self.report()?;
            guard.clear_ready();
            // What came between the last read and the line above.
            self.report()?;
        }
    }

    /// Passes on all that is waiting. Does not wait.
    pub(super) fn report(&self) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let (number, events) = match reader.next() {
                Ok(event) => (event.wd(), event.events()),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::os("cannot read from inotify", errno)),
            };
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                let all: Vec<_> = self.nodes.lock().values().filter_map(Weak::upgrade).collect();
                tracing::warn!(
                    volumes = all.len(),
                    "inotify lost events: taking all watched volumes as changed"
                );
                all.iter().for_each(|node| node.reported(true));
                continue;
            }
            // Bound before the node is called: it may take this lock again.
            let node = self.nodes.lock().get(&number).and_then(Weak::upgrade);
            let Some(node) = node else { continue };
            if events.contains(ReadFlags::IGNORED) {
                node.unwatched();
            } else {
                node.reported(events.contains(ReadFlags::MODIFY));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.upgrade() {
            watcher.nodes.lock().remove(&self.number);
            // Fails if the inode is gone, and the watch with it.
            let _ = inotify::remove_watch(&watcher.inotify, self.number);
        }
    }
}
