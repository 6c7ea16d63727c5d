//! The thread that fills the pipe: it asks the core what goes out next, and sees to it that it does.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lacuna_transport::range::ByteRange;
use lacuna_transport::records::{Digest, Encoder};
use rustix::io::Errno;

use super::Shared;
use super::core::{STEP_BYTES_MAX, Step};
use super::options::Format;
use super::pipe::{Pipe, Wrote};
use super::spool::Spool;
use crate::error::{Error, ErrorKind, Result};

/// How often it looks for a reader, which cannot be waited for, and whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Zeros written at once.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Why emitting ended before the stream did.
enum Halt {
    /// The daemon ends.
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) fn start(shared: Arc<Shared>, spool: Spool) -> Result<JoinHandle<()>> {
    let emitter = Emitter {
        encoder: match shared.options.format {
            Format::Raw => None,
            Format::Records => Some(Encoder::new(Some(shared.options.size)).map_err(broken)?),
        },
        shared,
        spool,
        pipe: None,
        has_begun: false,
        sent_bytes: 0,
    };
    std::thread::Builder::new()
        .name("stream".to_owned())
        .spawn(move || emitter.run())
        .map_err(|error| Error::io("cannot start a thread for a stream", error))
}

struct Emitter {
    shared: Arc<Shared>,
    spool: Spool,
    pipe: Option<Pipe>,
    encoder: Option<Encoder>,
    /// The head is out.
    has_begun: bool,
    /// Bytes that the pipe took.
    sent_bytes: u64,
}

impl Emitter {
    fn run(mut self) {
        while let Some(step) = self.next() {
            match self.emit(step) {
                Ok(()) => {}
                Err(Halt::Stopped) => return,
                Err(Halt::Failed(error)) => self.fail(&error),
            }
        }
    }

    /// `None` when the daemon ends.
    fn next(&mut self) -> Option<Step> {
        let mut state = self.shared.state.lock();
        loop {
            if state.stop {
                return None;
            }
            match state.core.next() {
                Step::Idle => self.shared.changed.wait(&mut state),
                step => return Some(step),
            }
        }
    }

    fn emit(&mut self, step: Step) -> Result<(), Halt> {
        if !self.has_begun {
            if let Some(encoder) = self.encoder {
                self.send(&encoder.head())?;
            }
            self.has_begun = true;
        }
        match step {
            Step::Data(range) => self.emit_data(range),
            Step::Hole(range) => self.emit_hole(range),
            Step::End => self.emit_end(),
            Step::Idle => Ok(()),
        }
    }

    fn emit_data(&mut self, range: ByteRange) -> Result<(), Halt> {
        debug_assert!(range.len() <= STEP_BYTES_MAX);
        self.spool.reach(range.end())?;
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        self.spool.volume().read_at(&mut bytes, range.start())?;
        if let Some(encoder) = &mut self.encoder {
            let length = u32::try_from(range.len()).unwrap_or(u32::MAX);
            let head = encoder.data(length).map_err(broken)?;
            self.send(&head)?;
        }
        let mut at = range.start();
        while let Some(rest) = rest_of(&bytes, range.start(), at) {
            at += self.send_some(rest)?;
            self.emitted(at);
        }
        Ok(())
    }

    fn emit_hole(&mut self, range: ByteRange) -> Result<(), Halt> {
        if let Some(encoder) = &mut self.encoder {
            let record = encoder.hole(range.len()).map_err(broken)?;
            self.spool.reach(range.end())?;
            self.send(&record)?;
            self.emitted(range.end());
            return Ok(());
        }
        let mut left = range;
        while !left.is_empty() {
            let count = usize::try_from(left.len()).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            self.spool
                .reach(left.start().saturating_add(zeros_bytes()).min(left.end()))?;
            let sent = self.send_some(&ZEROS[..count])?;
            left = left.split_at(left.start().saturating_add(sent)).1;
            self.emitted(left.start());
        }
        Ok(())
    }

    fn emit_end(&mut self) -> Result<(), Halt> {
        if let Some(encoder) = self.encoder {
            let end = encoder.end(Digest::None).map_err(broken)?;
            self.send(&end)?;
        }
        // The reader gets its end of file.
        self.pipe = None;
        if let Err(error) = self.spool.remove() {
            tracing::warn!(%error, "a finished stream leaves its spool behind; remove it");
        }
        let mut state = self.shared.state.lock();
        state.core.finished();
        state.note = None;
        self.shared.changed.notify_all();
        tracing::info!(stream = %self.shared.options.name, bytes = self.sent_bytes, "the stream is finished");
        Ok(())
    }

    /// All below `position` is out.
    fn emitted(&self, position: u64) {
        let gone = {
            let mut state = self.shared.state.lock();
            state.progress = Instant::now();
            state.core.emitted(position)
        };
        if !gone.is_empty() {
            if let Err(error) = self.spool.volume().punch(gone) {
                tracing::warn!(%error, "a spool does not shrink");
            }
            self.shared.state.lock().core.freed(gone);
        }
        self.shared.changed.notify_all();
    }

    /// Puts all of `bytes` into the pipe.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        let mut at = 0;
        while let Some(rest) = rest_of(bytes, 0, at) {
            at += self.send_some(rest)?;
        }
        Ok(())
    }

    /// Puts some of `bytes` into the pipe, at least one; waits for a reader and for room.
    fn send_some(&mut self, bytes: &[u8]) -> Result<u64, Halt> {
        loop {
            let Some(pipe) = &self.pipe else {
                self.find_reader()?;
                continue;
            };
            if self.shared.state.lock().stop {
                return Err(Halt::Stopped);
            }
            match pipe.write(bytes).map_err(|errno| self.failed(errno))? {
                Wrote::Bytes(count) => {
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.sent_bytes += count;
                    return Ok(count);
                }
                Wrote::Full => pipe.wait(LOOK_EVERY).map_err(|errno| self.failed(errno))?,
                // It took nothing: the next one may have it all.
                Wrote::ReaderGone if self.sent_bytes == 0 => {
                    self.pipe = None;
                    self.spool.forget_mark()?;
                }
                Wrote::ReaderGone => {
                    self.pipe = None;
                    return Err(self.reader_gone().into());
                }
            }
        }
    }

    fn find_reader(&mut self) -> Result<(), Halt> {
        let fifo = self.shared.fifo.clone();
        loop {
            if let Some(pipe) = fifo.open()? {
                // Before the first byte, so that a restart cannot take it for one that never went out.
                self.spool.reach(1)?;
                self.pipe = Some(pipe);
                self.shared.state.lock().note = None;
                return Ok(());
            }
            let mut state = self.shared.state.lock();
            if state.stop {
                return Err(Halt::Stopped);
            }
            state.note = Some(format!(
                "nobody reads the pipe {}: start a reader",
                fifo.path().display()
            ));
            let until = Instant::now() + LOOK_EVERY;
            while !state.stop && !self.shared.changed.wait_until(&mut state, until).timed_out() {}
        }
    }

    fn failed(&self, errno: Errno) -> Error {
        Error::os(
            format!("cannot write to the pipe {}", self.shared.fifo.path().display()),
            errno,
        )
    }

    fn reader_gone(&self) -> Error {
        let text = format!(
            "the reader of the pipe {} went away after {} bytes; the spool is kept in {}",
            self.shared.fifo.path().display(),
            self.sent_bytes,
            self.shared.spool_path
        );
        Error::new(ErrorKind::Io, text)
    }

    fn fail(&mut self, error: &Error) {
        tracing::error!(stream = %self.shared.options.name, %error, "the stream failed");
        // The pipe stays open: whoever reads it would take its end for that of the stream.
        let mut state = self.shared.state.lock();
        state.core.fail();
        state.note = Some(error.to_string());
        self.shared.changed.notify_all();
    }
}

/// What of `bytes`, which begin at `start`, is at or after `at`; `None` once that is nothing.
fn rest_of(bytes: &[u8], start: u64, at: u64) -> Option<&[u8]> {
    let done = usize::try_from(at.saturating_sub(start)).ok()?;
    bytes.get(done..).filter(|rest| !rest.is_empty())
}

fn zeros_bytes() -> u64 {
    u64::try_from(ZEROS.len()).unwrap_or(u64::MAX)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Internal, "cannot make a record", error)
}
