//! What `lacuna pull` and `lacuna push` share: options, progress, the result, the end by a signal.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lacuna_transport::digest::{Digest, DigestKind};
use serde::Serialize;

use super::Global;
use super::interrupt::Interrupt;
use super::output::printable;
use crate::client::{Client, Compress, Options, WINDOW_BYTES_MIN};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::size::{self, human};
use crate::transfer::range::Part;
use crate::transfer::{Sparse, Tally, verify};

/// Threads for the network; files are read and written by others.
const WORKERS: usize = 2;
/// How long a read that nothing can end may hold up the end of the program.
const GOODBYE: Duration = Duration::from_millis(100);
/// How often progress is shown: on a terminal, and as JSON.
const BAR_PAUSE: Duration = Duration::from_millis(200);
const JSON_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// Begin at this byte of the volume (K, M, G, T)
    #[arg(long, value_name = "N", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// Move so many bytes (K, M, G, T) [default: the rest]
    #[arg(long, value_name = "N", value_parser = size::parse)]
    length: Option<u64>,
    /// What becomes of zeros: auto keeps holes, and finds zeros where the source has no map; always also looks
    /// for them in data; never makes holes into zeros that take space
    #[arg(long, value_enum, default_value = "auto")]
    sparse: SparseWord,
    /// The form of what is not a volume: its bytes, or records that keep holes in a pipe or a file
    #[arg(long, value_enum, default_value = "raw")]
    pub(super) format: Format,
    /// Compare the digests of both ends afterwards
    #[arg(long)]
    pub(super) verify: bool,
    /// Go on after an interruption: what is there is compared, and only what differs moves
    #[arg(long)]
    resume: bool,
    /// Move only the blocks that differ from what is there
    #[arg(long)]
    delta: bool,
    /// blake3 is what `b3sum` of the raw bytes shows, and hashes all zeros of holes; tree costs nothing for
    /// holes; auto is blake3 up to 1 GiB of holes
    #[arg(long, value_enum, default_value = "auto")]
    digest: DigestWord,
    /// Most bytes on their way (K, M, G, T)
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    window: u64,
    /// Pack payloads: auto does where the path is slow enough for it to pay
    #[arg(long, value_name = "auto|none|zstd|lz4", default_value = "auto")]
    compress: Compress,
    /// On the standard error: a bar on a terminal, a line of JSON each second and at the end, or nothing
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressWord,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SparseWord {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Raw,
    Lacuna,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DigestWord {
    Auto,
    Blake3,
    Tree,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgressWord {
    Auto,
    Json,
    None,
}

impl TransferArgs {
    pub(super) fn part(&self) -> Part {
        Part {
            offset: self.offset,
            length: self.length,
        }
    }

    pub(super) fn sparse(&self) -> Sparse {
        match self.sparse {
            SparseWord::Auto => Sparse::Auto,
            SparseWord::Always => Sparse::Always,
            SparseWord::Never => Sparse::Never,
        }
    }

    /// `None` if nothing is compared first; else whether block by block.
    pub(super) fn compare(&self) -> Option<bool> {
        (self.resume || self.delta).then_some(self.delta)
    }

    /// Why [`Self::compare`] asks for something the other side cannot do.
    pub(super) fn no_compare(&self, name: &str) -> Error {
        let option = if self.delta { "--delta" } else { "--resume" };
        let text =
            format!("{option} compares with what is there, and {name} cannot be read again: leave it out");
        Error::new(ErrorKind::Invalid, text)
    }

    pub(super) fn digest(&self, hole_bytes: u64) -> Option<DigestKind> {
        match self.digest {
            DigestWord::None if self.verify => Some(DigestKind::Tree),
            DigestWord::None => None,
            DigestWord::Blake3 => Some(DigestKind::Blake3),
            DigestWord::Tree => Some(DigestKind::Tree),
            DigestWord::Auto => Some(verify::kind_for(hole_bytes)),
        }
    }
}

/// What was moved; printed as one line or as one object.
#[derive(Debug)]
pub(super) struct Moved {
    /// `pulled` or `pushed`.
    pub(super) action: &'static str,
    pub(super) digest: Option<Digest>,
    pub(super) verified: bool,
}

/// Sizes are in bytes.
#[derive(Debug, Serialize)]
struct Report {
    /// HOST:PORT/PATH.
    volume: String,
    action: &'static str,
    /// In all, as the range of the volume counts them.
    bytes: u64,
    data_bytes: u64,
    hole_bytes: u64,
    /// Found to be there already.
    same_bytes: u64,
    /// Payload of QUIC, both ways.
    wire_bytes: u64,
    seconds: f64,
    digest: Option<String>,
    verified: bool,
}

impl Report {
    fn print(&self, json: bool, to_stderr: bool) -> io::Result<()> {
        let mut out: Box<dyn Write> = if to_stderr {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        };
        if json {
            return writeln!(out, "{}", serde_json::to_string(self)?);
        }
        write!(
            out,
            "{} {}: {} ({} bytes), {} data, {} hole",
            self.action,
            printable(&self.volume),
            human(self.bytes),
            self.bytes,
            human(self.data_bytes),
            human(self.hole_bytes)
        )?;
        if self.same_bytes > 0 {
            write!(out, ", {} the same", human(self.same_bytes))?;
        }
        write!(
            out,
            ", {} on the wire, {:.2} s",
            human(self.wire_bytes),
            self.seconds
        )?;
        if let Some(digest) = &self.digest {
            write!(out, ", {digest}")?;
        }
        if self.verified {
            write!(out, ", verified")?;
        }
        writeln!(out)
    }
}

/// What a transfer is made with.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) location: &'a Location,
    pub(super) tally: &'a Arc<Tally>,
    pub(super) interrupt: &'a Interrupt,
}

/// Connects, moves, and prints what was moved.
pub(super) fn run(
    global: &Global,
    location: &str,
    args: &TransferArgs,
    to_stderr: bool,
    work: impl AsyncFnOnce(Job<'_>) -> Result<Moved>,
) -> anyhow::Result<()> {
    if args.window < WINDOW_BYTES_MIN {
        let text = format!("--window takes {} or more", human(WINDOW_BYTES_MIN));
        return Err(Error::new(ErrorKind::Invalid, text).into());
    }
    let location = Location::parse(location).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(connect_and_move(global, &location, args, to_stderr, work));
    runtime.shutdown_timeout(GOODBYE);
    outcome
}

async fn connect_and_move(
    global: &Global,
    location: &Location,
    args: &TransferArgs,
    to_stderr: bool,
    work: impl AsyncFnOnce(Job<'_>) -> Result<Moved>,
) -> anyhow::Result<()> {
    let options = Options {
        state: global.state.clone(),
        window_bytes: args.window,
        compress: args.compress,
        ..Options::default()
    };
    let begun = Instant::now();
    let client = Client::connect_to(location, options).await?;
    let tally = Arc::new(Tally::default());
    let meter = tokio::spawn(show(args.progress, begun, Arc::clone(&tally)));
    let interrupt = Interrupt::new()?;
    let job = Job {
        client: &client,
        location,
        tally: &tally,
        interrupt: &interrupt,
    };
    let at_once = || {
        Error::new(
            ErrorKind::Interrupted,
            "interrupted twice: ended without waiting for anything",
        )
    };
    let moved = tokio::select! {
        moved = work(job) => moved,
        () = interrupt.twice() => return Err(at_once().into()),
    };
    meter.abort();
    // Its bar is taken off the terminal before anything else is printed.
    meter.await.ok();
    if args.progress == ProgressWord::Json {
        print_json(begun, &tally);
    }
    let wire = client.wire_bytes();
    let closed = tokio::select! {
        closed = client.close() => closed,
        () = interrupt.twice() => Err(at_once()),
    };
    let moved = moved?;
    closed?;
    let report = Report {
        volume: location.to_string(),
        action: moved.action,
        bytes: tally.done(),
        data_bytes: tally.data(),
        hole_bytes: tally.hole(),
        same_bytes: tally.same(),
        wire_bytes: wire.0 + wire.1,
        seconds: begun.elapsed().as_secs_f64(),
        digest: moved.digest.map(|digest| digest.to_string()),
        verified: moved.verified,
    };
    report.print(args.json, to_stderr)?;
    Ok(())
}

/// An interruption, with how far it got and how to go on.
pub(super) fn how_to_go_on(error: Error, tally: &Tally, place: &str, can_resume: bool) -> Error {
    if error.kind() != ErrorKind::Interrupted {
        return error;
    }
    let bytes = tally.done();
    let text = if can_resume {
        format!(
            "interrupted: {bytes} bytes are in {place} and stay there; the same command with --resume goes on"
        )
    } else {
        format!("interrupted: {bytes} bytes went to {place}, which cannot be taken up: begin again")
    };
    Error::new(ErrorKind::Interrupted, text)
}

/// The digests of both ends are compared until an end is wanted.
pub(super) async fn verified(job: &Job<'_>, comparing: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        compared = comparing => compared,
        () = job.interrupt.once() => {
            let text = "interrupted: all of it was moved, but the digests were not compared";
            Err(Error::new(ErrorKind::Interrupted, text))
        }
    }
}

/// Taken off the terminal also when the task is ended.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows how far a transfer is, until it is aborted.
async fn show(how: ProgressWord, begun: Instant, tally: Arc<Tally>) {
    match how {
        ProgressWord::None => {}
        ProgressWord::Json => show_json(begun, &tally).await,
        ProgressWord::Auto if io::stderr().is_terminal() => show_bar(&tally).await,
        ProgressWord::Auto => {}
    }
}

async fn show_bar(tally: &Tally) {
    let bar = Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
    let known = "{bar:24} {bytes} of {total_bytes}, {msg}, {eta} left";
    let (known, unknown) = (
        ProgressStyle::with_template(known),
        ProgressStyle::with_template("{bytes}, {msg}"),
    );
    let (Ok(known), Ok(unknown)) = (known, unknown) else {
        return;
    };
    bar.0.set_style(unknown);
    let mut last = (Instant::now(), 0);
    loop {
        tokio::time::sleep(BAR_PAUSE).await;
        if tally.total() > 0 && bar.0.length().is_none() {
            bar.0.set_length(tally.total());
            bar.0.set_style(known.clone());
        }
        let now = (Instant::now(), tally.data());
        let millis = u64::try_from((now.0 - last.0).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let rate = (now.1 - last.1).saturating_mul(1000) / millis;
        last = now;
        bar.0.set_position(tally.done());
        let (data, hole) = (human(tally.data()), human(tally.hole()));
        bar.0
            .set_message(format!("{data} data and {hole} hole, {}/s", human(rate)));
    }
}

async fn show_json(begun: Instant, tally: &Tally) {
    loop {
        tokio::time::sleep(JSON_PAUSE).await;
        print_json(begun, tally);
    }
}

fn print_json(begun: Instant, tally: &Tally) {
    let line = serde_json::json!({
        "seconds": begun.elapsed().as_secs_f64(),
        "bytes": tally.done(),
        "total_bytes": Some(tally.total()).filter(|total| *total > 0),
        "data_bytes": tally.data(),
        "hole_bytes": tally.hole(),
        "same_bytes": tally.same(),
    });
    // Whoever asked for it may have gone away.
    writeln!(io::stderr(), "{line}").ok();
}
