//! What `lacuna status --json` says of one mount.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The fields every version has; others may come with them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    pub server: String,
    pub connected: bool,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub requests_sent: u64,
    pub hole_bytes_read: u64,
    pub cache_bytes_read: u64,
    pub fetched_bytes: u64,
    pub written_bytes: u64,
    pub dirty_bytes: u64,
    pub cache_bytes: u64,
    pub cache_bytes_max: u64,
    pub rtt_us: u64,
    pub reconnects: u64,
    /// Without a session, and what the last attempt to get one said.
    pub down_secs: Option<u64>,
    pub last_error: Option<String>,
    /// With one, from which nothing comes.
    pub silent_secs: Option<u64>,
    pub waiting_count: u64,
    pub waiting: Vec<Waiting>,
}

/// An operation that waits for the server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Waiting {
    pub operation: String,
    pub path: Option<String>,
    pub secs: u64,
}

impl Status {
    /// The one object of `lacuna status MOUNTPOINT --json`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let mounts: Vec<Self> = serde_json::from_slice(json)
            .with_context(|| format!("status: {}", String::from_utf8_lossy(json)))?;
        ensure!(mounts.len() == 1, "status of {} mounts", mounts.len());
        mounts.into_iter().next().context("status of no mount")
    }
}
