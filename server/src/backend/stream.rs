//! A volume that is a stream: what is written to it goes into a pipe, once and in order.
//!
//! * [`options`]: what the operator asks for.
//! * `core`: what goes out next and which changes are too late; pure.
//! * `spool`, `runs`: what is held back, on disk and as a set.
//! * `pipe`, `emitter`: the pipe, and the thread that fills it.
//! * `volume`: the stream as a volume of an export.
//!
//! **Invariants**
//!
//! * Every change lands in the spool. It goes out when the stream is finished, or when the spool has no room.
//! * What is out cannot be changed: such a change is [`ErrorKind::Refused`], and that change alone.
//! * A change that needs room waits for the pipe, for a bounded time.
//! * A byte is read as it was written, or not at all: what has left the spool is an error.
//! * A reader that goes away after it took a byte ends the stream as failed; the spool stays.
//!
//! Left out on purpose: reserving space (a stream has none to reserve), and holes that stay allocated (a zeroed
//! range is a hole in the spool, and reads the same out of the pipe).

mod core;
mod emitter;
pub mod options;
mod pipe;
mod runs;
mod spool;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lacuna_transport::attr::Timestamp;
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::limits::{REPLY_TIMEOUT, TEXT_BYTES_MAX};
use lacuna_transport::range::ByteRange;
use lacuna_transport::size::human;
use lacuna_transport::wire::message::{StreamReport, StreamState};
use parking_lot::{Condvar, Mutex};

use self::core::{Core, Phase, RUN_BYTES, Refusal, Shape, Ticket, Verdict};
use self::options::StreamOptions;
use self::pipe::Fifo;
use self::spool::Spool;
pub use self::volume::StreamVolume;
use super::OpenVolume;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};

/// How long a change waits for room.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// While nothing goes out.
    stall: Duration,
    /// In all.
    all: Duration,
}

/// The client gives up after [`REPLY_TIMEOUT`].
const PATIENCE: Patience = Patience {
    stall: Duration::from_secs(20),
    all: Duration::from_secs(45),
};
const _: () = assert!(
    PATIENCE.stall.as_secs() < PATIENCE.all.as_secs() && PATIENCE.all.as_secs() < REPLY_TIMEOUT.as_secs()
);
/// Extents of a spool that are looked at together when it is found.
const RUNS: usize = 4096;

/// See the module. Dropping it ends the thread that emits; the spool stays unless the stream was finished.
pub struct Stream {
    shared: Arc<Shared>,
    emitter: Option<JoinHandle<()>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.shared.options.name)
    }
}

#[derive(Debug)]
struct Shared {
    options: StreamOptions,
    fifo: Fifo,
    spool: Arc<dyn OpenVolume>,
    spool_path: String,
    state: Mutex<State>,
    /// Something of the state is another than before.
    changed: Condvar,
    patience: Patience,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// Why it failed, or what it waits for.
    note: Option<String>,
    stop: bool,
    /// When something last went out.
    progress: Instant,
    /// Sessions that have it open for writing.
    writers: HashSet<u64>,
    times: Times,
}

/// Times of the volume: those of the spool move when something leaves it.
#[derive(Clone, Copy, Debug)]
struct Times {
    changed_ns: u64,
    modified: Timestamp,
}

impl Times {
    /// Later than any before.
    fn change(&mut self) {
        self.changed_ns = clock::now_ns().max(self.changed_ns.saturating_add(1));
    }

    fn changed(&self) -> Timestamp {
        Timestamp {
            seconds: i64::try_from(self.changed_ns / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: u32::try_from(self.changed_ns % 1_000_000_000).unwrap_or(0),
        }
    }
}

impl Stream {
    /// Makes the pipe if need be: what a confined daemon cannot do.
    pub fn make_pipe(options: &StreamOptions) -> Result<()> {
        Fifo::make(&options.fifo).map(drop)
    }

    /// Finds or makes the spool below `state`, makes the pipe if need be, and starts to emit.
    pub fn start(options: StreamOptions, state: &Path) -> Result<Arc<Self>> {
        Self::start_with(options, state, PATIENCE)
    }

    fn start_with(options: StreamOptions, state: &Path, patience: Patience) -> Result<Arc<Self>> {
        let fifo = Fifo::make(&options.fifo)?;
        let spool = Spool::open(state, &options.name, options.size)?;
        let shape = Shape {
            size: options.size,
            spool_bytes_max: options.spool_bytes_max,
            window_bytes: options.window_bytes,
            runs_max: usize::try_from(options.map_bytes / RUN_BYTES).unwrap_or(usize::MAX),
        };
        let mut core = Core::new(shape);
        found(&mut core, spool.volume())?;
        let mut note = None;
        if spool.mark() > 0 {
            core.lost_track(spool.mark());
            let text = format!(
                "lacunad ended when bytes of '{}' had gone out, and nobody knows how many: save what is left in {}, then remove it and what is beside it to begin anew",
                options.name,
                spool.path().display()
            );
            tracing::error!("{text}");
            note = Some(text);
        }
        let mut times = Times {
            changed_ns: 0,
            modified: Timestamp::default(),
        };
        times.change();
        times.modified = times.changed();
        let shared = Arc::new(Shared {
            fifo,
            spool: spool.shared(),
            spool_path: spool.path().display().to_string(),
            state: Mutex::new(State {
                core,
                note,
                stop: false,
                progress: Instant::now(),
                writers: HashSet::new(),
                times,
            }),
            changed: Condvar::new(),
            patience,
            options,
        });
        let emitter = emitter::start(Arc::clone(&shared), spool)?;
        Ok(Arc::new(Self {
            shared,
            emitter: Some(emitter),
        }))
    }

    /// Has all of it go out and ends it. Returns at once; [`Self::report`] tells how far it is.
    pub fn finish(&self) {
        let mut state = self.shared.state.lock();
        if state.core.phase() == Phase::Open {
            tracing::info!(stream = %self.shared.options.name, "finishing the stream");
            state.core.finish();
            self.shared.changed.notify_all();
        }
    }

    pub fn report(&self) -> StreamReport {
        let (options, state) = (&self.shared.options, self.shared.state.lock());
        let core = &state.core;
        let mut note = state.note.clone();
        if let Some(note) = &mut note {
            note.truncate(note.floor_char_boundary(TEXT_BYTES_MAX));
        }
        StreamReport {
            state: match core.phase() {
                Phase::Open => StreamState::Open,
                Phase::Finishing => StreamState::Finishing,
                Phase::Finished => StreamState::Finished,
                Phase::Failed => StreamState::Failed,
            },
            size: options.size,
            position: core.position(),
            readable_from: core.gone(),
            held_bytes: core.held_bytes(),
            spool_bytes_max: options.spool_bytes_max,
            window_bytes: options.window_bytes,
            refused_bytes: core.refused_bytes(),
            enough_bytes: core.enough_bytes(),
            note,
        }
    }

    /// A session has it open for writing.
    pub fn writer_came(&self, session: u64) {
        self.shared.state.lock().writers.insert(session);
    }

    /// A session is over; `clean`: it said goodbye, and will not come back.
    pub fn writer_left(&self, session: u64, clean: bool) {
        let last = {
            let mut state = self.shared.state.lock();
            state.writers.remove(&session) && state.writers.is_empty()
        };
        if last && clean && self.shared.options.finish_on_umount {
            self.finish();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(emitter) = self.emitter.take()
            && emitter.join().is_err()
        {
            tracing::error!(stream = %self.shared.options.name, "the thread that emits panicked");
        }
    }
}

/// Tells the core of what an earlier run left in the spool.
fn found(core: &mut Core, spool: &dyn OpenVolume) -> Result<()> {
    let mut rest = ByteRange::up_to(spool.attr()?.size);
    while !rest.is_empty() {
        let extents = spool.extents(rest, RUNS)?;
        let Some(last) = extents.last() else { break };
        rest = rest.split_at(last.range.end()).1;
        for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
            core.found(extent.range);
        }
    }
    Ok(())
}

impl Shared {
    /// Makes a change of `range`, which is not empty: waits for its turn and for room. One that `frees` needs none.
    fn change(&self, range: ByteRange, frees: bool, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if range.end() > self.options.size {
            let text = format!(
                "the stream '{}' ends at {} and keeps that size",
                self.options.name, self.options.size
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let _landing = Landing {
            shared: self,
            ticket: self.admit(range, frees)?,
        };
        work()
    }

    fn admit(&self, range: ByteRange, frees: bool) -> Result<Ticket> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        let named = state.core.enough_bytes();
        let mut verdict = state.core.ask(range, frees);
        loop {
            match verdict {
                Verdict::Taken(ticket) => return Ok(ticket),
                Verdict::Refused(refusal) => {
                    self.changed.notify_all();
                    let error = self.refused(range, refusal, &state);
                    // Once for each spool that it names: there may be thousands.
                    match state.core.enough_bytes() == named {
                        true => tracing::debug!("{error}"),
                        false => tracing::warn!("{error}"),
                    }
                    return Err(error);
                }
                Verdict::Waits(ticket) => {
                    // The one who emits makes room for it.
                    self.changed.notify_all();
                    let stalled = begun.max(state.progress) + self.patience.stall;
                    let until = stalled.min(begun + self.patience.all);
                    if Instant::now() >= until {
                        state.core.withdraw(ticket);
                        self.changed.notify_all();
                        return Err(self.no_room(&state));
                    }
                    self.changed.wait_until(&mut state, until);
                    verdict = state.core.again(ticket);
                }
            }
        }
    }

    fn refused(&self, range: ByteRange, refusal: Refusal, state: &State) -> Error {
        let name = &self.options.name;
        let text = match refusal {
            Refusal::Out { enough_bytes } => format!(
                "{range} of the stream '{name}' comes too late: all up to {} is out; spool={enough_bytes} would have been enough",
                state.core.position()
            ),
            Refusal::Finished => format!("the stream '{name}' is finished and takes nothing any more"),
            Refusal::Failed => format!(
                "the spool of the stream '{name}' is full, and nothing goes out any more: {}",
                state.note.as_deref().unwrap_or("it failed")
            ),
            Refusal::Scattered => format!(
                "what the spool of the stream '{name}' holds is too scattered: write larger pieces, or in order, or give lacunad more --memory"
            ),
        };
        let kind = match refusal {
            Refusal::Scattered => ErrorKind::NoSpace,
            Refusal::Out { .. } | Refusal::Finished | Refusal::Failed => ErrorKind::Refused,
        };
        Error::new(kind, text)
    }

    fn no_room(&self, state: &State) -> Error {
        let waits = state.note.as_deref().unwrap_or("its reader takes too little");
        let text = format!(
            "the spool of the stream '{}' is full ({}): {waits}",
            self.options.name,
            human(self.options.spool_bytes_max.unwrap_or(0)),
        );
        Error::new(ErrorKind::NoSpace, text)
    }

    /// Checks that what was read from `offset` on was still there.
    fn still_there(&self, offset: u64) -> Result<()> {
        let gone = self.state.lock().core.gone();
        if offset < gone {
            let text = format!(
                "{offset} of the stream '{}' is out: it can be read from {gone} on",
                self.options.name
            );
            return Err(Error::new(ErrorKind::Io, text));
        }
        Ok(())
    }
}

/// A change that was taken; it has landed when this is dropped, whatever came of it.
struct Landing<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.core.landed(self.ticket);
        state.times.change();
        state.times.modified = state.times.changed();
        self.shared.changed.notify_all();
    }
}
