//! `lacuna finish`: has all of a stream go into its pipe, and waits for its end.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use lacuna_transport::wire::message::{StreamReport, StreamState};
use serde::Serialize;

use super::Global;
use super::connect::ask;
use super::output::{print, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::remote::quic::QuicRemote;
use crate::size::human;

/// How often the server is asked how far it is.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The command as a whole has no deadline: `--timeout` is for a stream that stands still.
const NO_DEADLINE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Takes what was written in this line off the terminal.
const CLEAR: &str = "\r\x1b[K";

#[derive(Debug, Args)]
#[command(
    after_help = "What a live mount has not sent yet is not in the stream: fsync or unmount first. Writes that come after are refused."
)]
pub struct FinishArgs {
    /// HOST[:PORT]/VOLUME, a volume of `lacunad serve --stream`
    location: String,
    /// Give up when nothing went into the pipe for so long; the server goes on by itself
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    timeout: u64,
    #[arg(long)]
    json: bool,
}

/// A stream, as shown. Numbers are bytes.
#[derive(Debug, Serialize)]
pub(super) struct ShownStream {
    state: &'static str,
    position: u64,
    readable_from: u64,
    held_bytes: u64,
    spool_bytes_max: Option<u64>,
    window_bytes: u64,
    refused_bytes: u64,
    enough_bytes: Option<u64>,
    note: Option<String>,
}

impl ShownStream {
    pub(super) fn new(report: StreamReport) -> Self {
        Self {
            state: report.state.word(),
            position: report.position,
            readable_from: report.readable_from,
            held_bytes: report.held_bytes,
            spool_bytes_max: report.spool_bytes_max,
            window_bytes: report.window_bytes,
            refused_bytes: report.refused_bytes,
            enough_bytes: report.enough_bytes,
            note: report.note,
        }
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.note {
            Some(note) => writeln!(out, "stream:     {}: {}", self.state, printable(note))?,
            None => writeln!(out, "stream:     {}", self.state)?,
        }
        writeln!(out, "position:   {}", self.position)?;
        let spool = self.spool_bytes_max.map(|most| format!(" of {most}"));
        writeln!(
            out,
            "spool:      {}{}",
            self.held_bytes,
            spool.unwrap_or_default()
        )?;
        writeln!(
            out,
            "window:     {}, readable from {}",
            self.window_bytes, self.readable_from
        )?;
        match self.enough_bytes {
            Some(enough) => writeln!(
                out,
                "refused:    {}; spool={enough} would have been enough",
                self.refused_bytes
            ),
            None => writeln!(out, "refused:    {}", self.refused_bytes),
        }
    }
}

#[derive(Debug, Serialize)]
struct Finished {
    /// HOST:PORT/PATH.
    volume: String,
    size: u64,
    #[serde(flatten)]
    stream: ShownStream,
}

pub fn finish(global: &Global, args: &FinishArgs) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let done = ask(global, &args.location, NO_DEADLINE, async |remote, location| {
        let mut shown = false;
        let result = wait(remote, location, patience, &mut shown).await;
        if shown {
            write!(io::stderr(), "{CLEAR}").ok();
        }
        let report = result?;
        Ok(Finished {
            volume: location.to_string(),
            size: report.size,
            stream: ShownStream::new(report),
        })
    })?;
    print(args.json, &done, |out| {
        write!(
            out,
            "finished {}: {} bytes are out",
            printable(&done.volume),
            done.size
        )?;
        match (done.stream.refused_bytes, done.stream.enough_bytes) {
            (1.., Some(enough)) => writeln!(
                out,
                "; {} bytes came too late and are not in it: spool={enough} would have been enough",
                done.stream.refused_bytes
            ),
            _ => writeln!(out),
        }
    })
}

async fn wait(
    remote: &QuicRemote,
    location: &Location,
    patience: Duration,
    shown: &mut bool,
) -> Result<StreamReport> {
    let (mut position, mut moved) = (None, Instant::now());
    loop {
        let report = remote.finish(&location.path, true).await?;
        match report.state {
            StreamState::Finished => return Ok(report),
            StreamState::Failed => {
                let why = report.note.unwrap_or_else(|| "the stream failed".to_owned());
                return Err(Error::new(ErrorKind::Io, printable(&why)));
            }
            StreamState::Open | StreamState::Finishing => {}
        }
        if position.replace(report.position) != Some(report.position) {
            moved = Instant::now();
        } else if moved.elapsed() >= patience {
            let why = report
                .note
                .unwrap_or_else(|| "its reader takes nothing".to_owned());
            let text = format!(
                "{location} stands still at {} of {}: {}; it goes on by itself, and `lacuna finish` tells when it is done",
                report.position,
                report.size,
                printable(&why)
            );
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        if io::stderr().is_terminal() {
            *shown = true;
            let (out, size) = (human(report.position), human(report.size));
            write!(io::stderr(), "{CLEAR}{out} of {size} are out").ok();
            io::stderr().flush().ok();
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
