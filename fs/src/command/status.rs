//! `lacuna status`.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::Global;
use super::browse::print;
use crate::control;
use crate::fuse::mount;
use crate::size::human;
use crate::state::StateDir;
use crate::status::MountStatus;

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
            let state = match (&mount.down_secs, &mount.last_error) {
                (Some(secs), Some(error)) => format!("disconnected for {secs} s ({error})"),
                _ => format!("connected, {} µs", mount.rtt_us),
            };
            writeln!(out, "{} on {}", mount.source, mount.mountpoint)?;
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
            let (used, max) = (human(mount.cache_bytes), human(mount.cache_bytes_max));
            writeln!(out, "  cache       {used} of {max}")?;
        }
        Ok(())
    })
}

/// Every mount whose daemon answers, with its socket.
pub(super) fn live_mounts(state: &StateDir) -> anyhow::Result<Vec<(PathBuf, MountStatus)>> {
    let mut mounts = Vec::new();
    for socket in control::sockets(&state.path().join("mounts"))? {
        let Some(mut stream) = control::ask(&socket, "status")? else {
            continue;
        };
        let mut text = String::new();
        let asked = stream.read_to_string(&mut text).map_err(anyhow::Error::from);
        let parsed = asked.and_then(|_| Ok(serde_json::from_str(&text)?));
        match parsed {
            Ok(status) => mounts.push((socket, status)),
            // One that is ending just now, or stopped: the others still count.
            Err(error) => tracing::warn!(socket = %socket.display(), %error, "a mount does not answer"),
        }
    }
    Ok(mounts)
}
