//! What a live mount says of itself: shown by `lacuna status`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::remote::link::{Link, LinkState};
use crate::remote::quic::QuicRemote;
use crate::rescue::RescueReport;
use crate::volume::Shared;
use crate::volume::waiting::Waiter;

/// One mount. All counters are since the mount began; sizes are in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    pub mountpoint: String,
    /// HOST:PORT/FOLDER.
    pub source: String,
    pub pid: u32,
    /// Tells mounts at one place apart: `MAJOR:MINOR`, as in /proc/self/mountinfo.
    #[serde(default)]
    pub device: String,
    /// False once nobody can use it any more, and what is left is being saved.
    #[serde(default)]
    pub serving: bool,
    /// HOST:PORT.
    pub server: String,
    pub connected: bool,
    /// Seconds without a session; absent while connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_secs: Option<u64>,
    /// What the last attempt to connect said; absent while connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// QUIC stream payload of this mount, both ways.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub requests_sent: u64,
    pub hole_bytes_read: u64,
    pub cache_bytes_read: u64,
    pub fetched_bytes: u64,
    pub written_bytes: u64,
    /// Written, and not flushed at the server.
    pub dirty_bytes: u64,
    /// Payload that the server took; more than was written where it had to be sent again.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Acknowledged, and not at the server: the volume does not exist any more, took it too late, or another client
    /// writes to it.
    #[serde(default)]
    pub lost_bytes: u64,
    /// The latest losses to other clients, and the files that keep what was lost.
    #[serde(default)]
    pub rescued: Vec<RescueReport>,
    /// Volumes that could not be opened for writing when that was last tried.
    #[serde(default)]
    pub refused_opens: Vec<RefusedOpen>,
    /// Cached, being fetched or being read, in whole pages of 4 KiB.
    pub cache_bytes: u64,
    pub cache_bytes_max: u64,
    pub rtt_us: u64,
    pub reconnects: u64,
    /// Seconds for which nothing came from the server although there is a session; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_secs: Option<u64>,
    /// Operations that have waited for the server for a second or more.
    #[serde(default)]
    pub waiting_count: u64,
    /// The first of them.
    #[serde(default)]
    pub waiting: Vec<WaitingOperation>,
}

/// An operation that waits for the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitingOperation {
    /// What an application or the client itself does: `read`, `lookup`, `fsync` and so on.
    pub operation: String,
    /// Of the volume or folder at the server; absent if it is about none, empty for the exported folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub secs: u64,
}

impl From<Waiter> for WaitingOperation {
    fn from(waiter: Waiter) -> Self {
        Self {
            operation: waiter.operation,
            path: waiter.path,
            secs: waiter.since.elapsed().as_secs(),
        }
    }
}

/// Another client writes to the volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedOpen {
    pub volume: String,
    /// Names that client.
    pub why: String,
}

/// Who a mount is, apart from its counters.
#[derive(Clone, Debug)]
pub struct MountName {
    pub mountpoint: String,
    pub source: String,
    pub device: String,
}

impl MountStatus {
    pub fn of(name: &MountName, serving: bool, link: &Link, shared: &Arc<Shared<QuicRemote>>) -> Self {
        let state = link.state();
        let (down_secs, last_error) = match &state {
            LinkState::Down(since, why) => (Some(since.elapsed().as_secs()), Some(why.clone())),
            LinkState::Connected(_) | LinkState::Closed => (None, None),
        };
        let rtt_us = if let LinkState::Connected(session) = &state {
            session.rtt_us()
        } else {
            0
        };
        let wire = link.counters();
        Self {
            mountpoint: name.mountpoint.clone(),
            source: name.source.clone(),
            pid: std::process::id(),
            device: name.device.clone(),
            serving,
            server: link.target().name.clone(),
            connected: matches!(state, LinkState::Connected(_)),
            down_secs,
            last_error,
            bytes_sent: wire.traffic.sent.load(Ordering::Relaxed),
            bytes_received: wire.traffic.received.load(Ordering::Relaxed),
            requests_sent: wire.requests_sent.load(Ordering::Relaxed),
            hole_bytes_read: shared.counters.hole_bytes_read.value(),
            cache_bytes_read: shared.counters.cache_bytes_read.value(),
            fetched_bytes: shared.counters.fetched_bytes.value(),
            written_bytes: shared.counters.written_bytes.value(),
            dirty_bytes: shared.dirty_bytes(),
            sent_bytes: shared.counters.sent_bytes.value(),
            lost_bytes: shared.counters.lost_bytes.value(),
            rescued: shared.rescue.reports(),
            refused_opens: refused_opens(shared),
            cache_bytes: shared.cache.bytes(),
            cache_bytes_max: shared.cache.bytes_max(),
            rtt_us,
            reconnects: wire.reconnects.load(Ordering::Relaxed),
            silent_secs: link.silent_since().map(|since| since.elapsed().as_secs()),
            waiting_count: shared.waiting.count(),
            waiting: shared.waiting.named().into_iter().map(Into::into).collect(),
        }
    }
}

fn refused_opens(shared: &Shared<QuicRemote>) -> Vec<RefusedOpen> {
    let refused = shared.refused_opens().into_iter();
    let refused = refused.map(|(path, why)| RefusedOpen {
        volume: path.to_string(),
        why,
    });
    refused.collect()
}
