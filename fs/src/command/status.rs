//! `lacuna status`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::Global;
use super::output::{print, printable};
use crate::control;
use crate::fuse::mount;
use crate::size::human;
use crate::state::StateDir;
use crate::status::MountStatus;

/// How long a mount may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Operations that wait, as shown to a person; `--json` has more.
const WAITING_SHOWN_MAX: usize = 10;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this mount
    mountpoint: Option<PathBuf>,
    /// An array with one object for each mount
    #[arg(long)]
    json: bool,
}

pub fn status(global: &Global, args: &StatusArgs) -> anyhow::Result<()> {
    let state = StateDir::find(global.state.clone())?;
    let mut found = live_mounts(&state)?;
    if let Some(path) = &args.mountpoint {
        let wanted = mount::resolve(path).with_context(|| format!("cannot use {}", path.display()))?;
        found.retain(|(_, status)| Path::new(&status.mountpoint) == wanted);
        // One that is on its way out does not hide the one that took its place.
        if found.iter().any(|(_, status)| status.serving) {
            found.retain(|(_, status)| status.serving);
        }
        if found.is_empty() {
            anyhow::bail!(
                "no live mount at {}: `lacuna status` lists them all",
                path.display()
            );
        }
    }
    let mounts: Vec<MountStatus> = found.into_iter().map(|(_, status)| status).collect();
    print(args.json, &mounts, |out| {
        if mounts.is_empty() {
            writeln!(out, "no live mounts")?;
        }
        for mount in &mounts {
            let state = match (&mount.down_secs, &mount.last_error, mount.silent_secs) {
                (Some(secs), Some(error), _) => format!("disconnected for {secs} s ({error})"),
                (_, _, Some(secs)) => format!("silent for {secs} s"),
                _ => format!("connected, {} µs", mount.rtt_us),
            };
            let ending = if mount.serving {
                ""
            } else {
                " (unmounted, still saving)"
            };
            writeln!(out, "{} on {}{ending}", mount.source, mount.mountpoint)?;
            writeln!(
                out,
                "  server      {}: {state}, {} reconnects",
                mount.server, mount.reconnects
            )?;
            let (sent, received) = (human(mount.bytes_sent), human(mount.bytes_received));
            writeln!(
                out,
                "  network     {sent} sent, {received} received, {} requests",
                mount.requests_sent
            )?;
            let (holes, cached) = (human(mount.hole_bytes_read), human(mount.cache_bytes_read));
            writeln!(
                out,
                "  read        {holes} of holes, {cached} cached, {} fetched",
                human(mount.fetched_bytes)
            )?;
            let (written, dirty) = (human(mount.written_bytes), human(mount.dirty_bytes));
            let sent = human(mount.sent_bytes);
            writeln!(
                out,
                "  written     {written}, {sent} sent, {dirty} not flushed yet"
            )?;
            if mount.lost_bytes > 0 {
                let why = if mount.rescued.is_empty() {
                    "the volumes are gone"
                } else {
                    "see below"
                };
                writeln!(out, "  lost        {}: {why}", human(mount.lost_bytes))?;
            }
            for lost in &mount.rescued {
                let kept = match &lost.file {
                    Some(file) => format!("{} are kept in {}", human(lost.bytes), file.display()),
                    None => "nothing of it is kept".to_owned(),
                };
                writeln!(out, "  lost        of '{}': {kept} ({})", lost.volume, lost.why)?;
            }
            for open in &mount.refused_opens {
                writeln!(out, "  busy        {}", open.why)?;
            }
            let (used, max) = (human(mount.cache_bytes), human(mount.cache_bytes_max));
            writeln!(out, "  cache       {used} of {max}")?;
            show_waiting(out, mount)?;
        }
        Ok(())
    })
}

/// What waits for the server: the longest first.
fn show_waiting(out: &mut dyn Write, mount: &MountStatus) -> io::Result<()> {
    if mount.waiting_count == 0 {
        return Ok(());
    }
    writeln!(out, "  waiting     {} for the server", mount.waiting_count)?;
    let mut longest: Vec<_> = mount.waiting.iter().collect();
    longest.sort_by_key(|waiting| std::cmp::Reverse(waiting.secs));
    for waiting in longest.into_iter().take(WAITING_SHOWN_MAX) {
        let path = printable(waiting.path.as_deref().unwrap_or_default());
        writeln!(
            out,
            "              {} s  {} {path}",
            waiting.secs, waiting.operation
        )?;
    }
    Ok(())
}

/// Every mount whose daemon answers, with its socket.
pub(super) fn live_mounts(state: &StateDir) -> anyhow::Result<Vec<(PathBuf, MountStatus)>> {
    let mut mounts = Vec::new();
    for socket in control::sockets(&state.path().join("mounts"))? {
        match ask(&socket, ANSWER_TIMEOUT) {
            Ok(Some(status)) => mounts.push((socket, status)),
            Ok(None) => {}
            // One that is ending just now, or stopped: the others still count.
            Err(error) => tracing::warn!(socket = %socket.display(), %error, "a mount does not answer"),
        }
    }
    Ok(mounts)
}

/// Asks one mount; `None` if it has ended.
pub(super) fn ask(socket: &Path, timeout: Duration) -> anyhow::Result<Option<MountStatus>> {
    let Some(mut stream) = control::ask(socket, "status")? else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(timeout))?;
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        // It ended just now, before it read our word or after.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Ok(0) => return Ok(None),
        other => other?,
    };
    Ok(Some(serde_json::from_str(&text)?))
}
