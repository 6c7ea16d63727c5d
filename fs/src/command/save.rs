//! The daemon's side of an unmount: having everything flushed at the server, and the word on it.
//!
//! As long as something goes on, it goes on; the deadline is for the time in which nothing does.

use std::time::Duration;

use crate::control::SAVED;
use crate::error::{Error, ErrorKind};
use crate::file_system::FileSystem;
use crate::remote::quic::QuicRemote;
use crate::rescue::{RESCUE_TIMEOUT, RescueReport};

/// Has everything written so far flushed. The error says what could not be, and can be later: what belongs to
/// a volume that the server does not have any more is [`at_the_end`]'s to report.
pub(super) async fn now(
    fs: &FileSystem<QuicRemote>,
    source: &str,
    deadline: Option<Duration>,
) -> anyhow::Result<()> {
    let errors = flush(fs, deadline).await;
    let gone = |error: &&Error| matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound);
    match errors.iter().find(|error| !gone(error)) {
        None => Ok(()),
        Some(error) => Err(unsaved(source, fs.shared().dirty_bytes(), error)),
    }
}

/// The same once nobody writes any more: nothing may be left, and nothing have been lost before.
pub(super) async fn at_the_end(
    fs: &FileSystem<QuicRemote>,
    source: &str,
    deadline: Option<Duration>,
) -> anyhow::Result<()> {
    let errors = flush(fs, deadline).await;
    for error in &errors {
        tracing::error!(%error, "could not be saved");
    }
    let shared = fs.shared();
    if tokio::time::timeout(RESCUE_TIMEOUT, shared.rescue.kept())
        .await
        .is_err()
    {
        tracing::error!("a rescue file cannot be written in time");
    }
    let rescued = shared.rescue.reports();
    let (left, lost) = (shared.dirty_bytes(), shared.counters.lost_bytes.value());
    let why = match errors.first() {
        Some(error) => error.to_string(),
        None if !rescued.is_empty() => rescued.iter().map(lost_to_another).collect::<Vec<_>>().join("; "),
        None if lost > 0 => {
            let names: Vec<String> = shared.lost().iter().map(|path| format!("'{path}'")).collect();
            let names = names.join(", ");
            format!("{lost} of them belong to volumes that the server does not have any more: {names}")
        }
        None if left > 0 => "the mount ended while they were written".to_owned(),
        None => return Ok(()),
    };
    Err(unsaved(source, left + lost, why))
}

/// What the control socket says of an outcome.
pub(super) fn word(outcome: &anyhow::Result<()>) -> String {
    match outcome {
        Ok(()) => SAVED.to_owned(),
        Err(error) => error.to_string().replace('\n', " "),
    }
}

async fn flush(fs: &FileSystem<QuicRemote>, deadline: Option<Duration>) -> Vec<Error> {
    let shared = fs.shared();
    let all = async { Ok(fs.flush_all().await) };
    let flushed = shared.while_it_goes_on_within(deadline, "save", all).await;
    flushed.unwrap_or_else(|error| vec![error])
}

fn lost_to_another(report: &RescueReport) -> String {
    let kept = match &report.file {
        Some(file) => format!("what was lost is in {}", file.display()),
        None => "what was lost could not be kept".to_owned(),
    };
    format!("'{}' was written by another client; {kept}", report.volume)
}

fn unsaved(source: &str, bytes: u64, why: impl std::fmt::Display) -> anyhow::Error {
    // Sizes, punches and the like have no bytes.
    let what = if bytes == 0 {
        "changes that were made".to_owned()
    } else {
        format!("{bytes} bytes that were written")
    };
    anyhow::anyhow!("{source}: {what} are not known to be saved at the server: {why}")
}
