//! Writing to disk while more is coming, so that the flush at the end finds little left to do.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// So much is written between two flushes.
const STEP_BYTES: u64 = 32 << 20;

/// Flushes a file now and then, on a thread of its own.
#[derive(Debug, Default)]
pub(super) struct EarlySync {
    /// Written since the last flush was asked for.
    bytes: u64,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EarlySync {
    /// So much more was written to `file`, the same one each time.
    pub(super) fn wrote(&mut self, file: &File, bytes: u64) {
        self.bytes += bytes;
        if self.bytes < STEP_BYTES {
            return;
        }
        self.bytes = 0;
        if self.running.is_none() {
            self.running = start(file).ok();
        }
        if let Some(running) = &self.running {
            // One that is under way still will do.
            running.wake.try_send(()).ok();
        }
    }

    /// Waits for the end of it. The error of a flush is told once by the kernel, so it is told here.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        drop(running.wake);
        let ended = running.thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("a thread of the transfer panicked")))
    }
}

fn start(file: &File) -> io::Result<Running> {
    let file = file.try_clone()?;
    let (wake, asked) = sync_channel(1);
    let flush = move || asked.iter().try_for_each(|()| file.sync_data());
    let thread = std::thread::Builder::new()
        .name("flush".to_owned())
        .spawn(flush)?;
    Ok(Running { wake, thread })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn an_error_of_a_flush_is_told_at_the_end() {
        let file = tempfile::tempfile().unwrap();
        let mut sync = EarlySync::default();
        file.write_all_at(&[1; 4096], 0).unwrap();
        sync.wrote(&file, STEP_BYTES - 1);
        assert!(sync.running.is_none(), "nothing is flushed for a small transfer");
        sync.wrote(&file, 1);
        assert!(sync.running.is_some());
        sync.finish().unwrap();
        // What cannot be flushed at all.
        let (_, pipe) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        sync.wrote(&pipe, STEP_BYTES);
        assert_eq!(sync.finish().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        sync.finish().unwrap();
    }
}
