//! Finding the zeros of a device: all of it is read once, in pieces and with pauses, so that clients hardly notice.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lacuna_transport::range::ByteRange;
use rustix::fs::Advice;
use rustix::io::Errno;

use super::volume::DeviceVolume;
use crate::backend::descriptor;

/// Read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Looked at apart: the smallest unit of the map.
const BLOCK_BYTES: usize = 4 << 10;
/// A pause is so many times as long as the reading before it, so that a quarter of the device's time is taken.
const PAUSES: u32 = 3;
/// The longest pause: a slow read is not followed by a long nothing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A search under way; ends when dropped.
#[derive(Debug)]
pub(super) struct Scan {
    _stop: Sender<()>,
}

impl Scan {
    pub(super) fn start(volume: &Arc<DeviceVolume>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let volume = Arc::downgrade(volume);
        let thread = thread::Builder::new().name("zeros".to_owned());
        thread.spawn(move || search_all(&volume, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

/// Until the end of the device or of `volume`, or until the other end of `stopped` is gone.
fn search_all(volume: &Weak<DeviceVolume>, stopped: &Receiver<()>) {
    let mut searcher = Searcher::default();
    loop {
        let began = Instant::now();
        let Some(volume) = volume.upgrade() else { return };
        if !searcher.step(&volume) {
            volume.searched();
            let (name, zero_bytes) = (volume.name(), volume.zero_bytes());
            tracing::info!(
                volume = name,
                zero_bytes,
                "all of the device was searched for zeros"
            );
            return;
        }
        drop(volume);
        let pause = began.elapsed().saturating_mul(PAUSES).min(PAUSE_MAX);
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// How far a search got.
#[derive(Debug, Default)]
pub(super) struct Searcher {
    at: u64,
    buffer: Vec<u8>,
    complained: bool,
}

impl Searcher {
    /// Searches the next piece; false if there is none.
    pub(super) fn step(&mut self, volume: &DeviceVolume) -> bool {
        let (_, left) = ByteRange::up_to(volume.size()).split_at(self.at);
        if left.is_empty() {
            return false;
        }
        // Units end where pieces do: both are powers of two, and no unit is larger.
        self.buffer.resize(PIECE_BYTES, 0);
        let len = usize::try_from(left.len()).map_or(PIECE_BYTES, |len| len.min(PIECE_BYTES));
        let piece = &mut self.buffer[..len];
        let (range, rest) = left.split_at(self.at.saturating_add(bytes(len)));
        let found = volume.search(range, || {
            descriptor::read(volume.file().as_fd(), piece, range.start())?;
            Ok(zeros(piece, range.start()))
        });
        if let Err(errno) = found {
            self.complain(volume, range, errno);
        }
        // What others have in use of these pages they read again; it should not displace what they need.
        if let Some(len) = NonZeroU64::new(range.len()) {
            let _ = rustix::fs::fadvise(volume.file(), range.start(), Some(len), Advice::DontNeed);
        }
        self.at = rest.start();
        true
    }

    /// A range that cannot be read stays data, and reading it says why.
    fn complain(&mut self, volume: &DeviceVolume, range: ByteRange, errno: Errno) {
        if !std::mem::replace(&mut self.complained, true) {
            let (name, error) = (volume.name(), io::Error::from(errno));
            tracing::warn!(volume = name, %range, %error, "cannot search a part of a device for zeros");
        }
    }
}

/// The zeros of `piece`, which begins at `start`, joined.
fn zeros(piece: &[u8], start: u64) -> Vec<ByteRange> {
    let mut found: Vec<ByteRange> = Vec::new();
    let mut at = start;
    for block in piece.chunks(BLOCK_BYTES) {
        let range = ByteRange::at_saturating(at, bytes(block.len()));
        at = range.end();
        if ZEROS.get(..block.len()) != Some(block) {
            continue;
        }
        match found.last_mut().filter(|last| last.end() == range.start()) {
            Some(last) => *last = ByteRange::new(last.start(), range.end()).unwrap_or(*last),
            None => found.push(range),
        }
    }
    found
}

fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_by_blocks_and_joined() {
        let mut piece = vec![0; 6 * BLOCK_BYTES + 512];
        piece[3 * BLOCK_BYTES - 1] = 1;
        let range = |start: u64, end: u64| ByteRange::new(start, end).unwrap();
        let at = 1 << 20;
        assert_eq!(
            zeros(&piece, at),
            [
                range(at, at + 2 * 4096),
                range(at + 3 * 4096, at + 6 * 4096 + 512)
            ]
        );
        piece[6 * BLOCK_BYTES] = 1;
        assert_eq!(zeros(&piece, at)[1], range(at + 3 * 4096, at + 6 * 4096));
    }
}
