//! How the memory of a server is divided. Pure.
//!
//! One figure, `lacunad serve --memory`, is cut into thirty-seconds, and each part is a bound that something else holds:
//!
//! | part | thirty-seconds | who may use it |
//! |---|---|---|
//! | replies | 6 | requests that are worked for, and their replies until the client has acknowledged them |
//! | writes | 6 | payloads of writes, from their header until they are applied |
//! | listings | 4 | folders that are being sent |
//! | kept | 2 | buffers for payloads that nobody uses now |
//! | sessions | 4 | what each session costs, whatever it does |
//! | windows | 4 | what sessions may send beyond that before the server reads it |
//! | volumes | 3 | open volumes, and what is remembered of closed ones |
//! | operations | 1 | changes of names that are remembered |
//! | handshakes | 2 | connections that are not sessions yet |
//!
//! Where there are streams, what is known of their spools takes its part before that ([`with_streams`]).
//!
//! Not in it, and bounded by themselves: the program, its threads (their stacks, and 1 MiB for each that copies
//! within a device), what packs payloads. That is what is beyond the figure.

use std::fmt;

use lacuna_transport::limits::{HANDSHAKES_MAX, SESSIONS_MAX};

use crate::operations::shed::{UNIT_BYTES, UNITS_MAX};

/// Smallest `--memory`: a few sessions fit, with a few of the largest requests each.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Default of `--memory`, where the machine has four times as much.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;
/// A smaller machine gives this part of its memory: the page cache serves the volumes out of the rest.
const MACHINE_SHARE: u64 = 4;

const PARTS: u64 = 32;
/// All streams together take this part of a budget for what is known of their spools.
const STREAMS_SHARE: u64 = 16;

/// A lane that waits: its two halves in QUIC and its task.
const LANE_BYTES: u64 = 12 << 10;
/// The lanes and the control stream of a session.
const STREAMS: u64 = 65;
/// The receive window that every session gets.
pub const WINDOW_BYTES_MIN: u64 = 128 << 10;
/// What QUIC may take for each byte of a receive window: it keeps packets until they waste 1.5 times as much.
const WINDOW_COST: (u64, u64) = (5, 2);
/// The connection itself, its keys, and the session.
const CONNECTION_BYTES: u64 = 192 << 10;
/// A session that does nothing but have all its lanes and fill its smallest window.
const SESSION_BYTES: u64 = STREAMS * LANE_BYTES + cost_of_window(WINDOW_BYTES_MIN) + CONNECTION_BYTES;
/// A connection that has no session yet.
const HANDSHAKE_BYTES: u64 = 256 << 10;
/// An open volume: its handle, its descriptor, an event that waits for its client, what is known of it, and its lease,
/// of which as many may linger as volumes may be open.
const VOLUME_BYTES: u64 = 1 << 10;
/// Most open volumes, however much memory there is: descriptors and inotify watches end too.
const VOLUMES_MAX: usize = 1 << 20;

/// The largest window takes this part of what is left of the windows, so that those who come later find some too.
const WINDOW_SHARE: u64 = 4;

/// Bytes of memory behind a receive window.
pub const fn cost_of_window(window_bytes: u64) -> u64 {
    window_bytes * WINDOW_COST.0 / WINDOW_COST.1
}

/// The bounds that follow from a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    pub replies_bytes: u64,
    pub writes_bytes: u64,
    pub listings_bytes: u64,
    pub kept_bytes: u64,
    /// Beyond [`WINDOW_BYTES_MIN`] of each session, as memory.
    pub windows_bytes: u64,
    pub sessions: usize,
    /// Volumes that are open, all sessions together; as many are remembered.
    pub volumes: usize,
    /// Of changes of names, see [`crate::operations::shed`].
    pub operation_units: usize,
    pub handshakes: usize,
}

/// A budget that nothing can be served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too small: at least {} MiB", MEMORY_BYTES_MIN >> 20)
    }
}

impl std::error::Error for TooSmall {}

impl Division {
    /// Divides `budget_bytes`.
    pub fn of(budget_bytes: u64) -> Result<Self, TooSmall> {
        if budget_bytes < MEMORY_BYTES_MIN {
            return Err(TooSmall);
        }
        let part = |parts: u64| budget_bytes / PARTS * parts;
        let count = |bytes: u64, each: u64, most: usize| {
            usize::try_from(bytes / each).unwrap_or(usize::MAX).min(most)
        };
        Ok(Self {
            replies_bytes: part(6),
            writes_bytes: part(6),
            listings_bytes: part(4),
            kept_bytes: part(2),
            windows_bytes: part(4),
            sessions: count(part(4), SESSION_BYTES, SESSIONS_MAX),
            volumes: count(part(3), VOLUME_BYTES, VOLUMES_MAX),
            operation_units: count(part(1), UNIT_BYTES, UNITS_MAX),
            handshakes: count(part(2), HANDSHAKE_BYTES, HANDSHAKES_MAX),
        })
    }
}

/// Of a budget: what is left to divide when there are so many streams, and the part of each. The smallest budget is
/// not made smaller: then the streams are beyond it.
pub fn with_streams(budget_bytes: u64, streams: usize) -> (u64, u64) {
    let Some(each) = u64::try_from(streams)
        .ok()
        .and_then(|streams| (budget_bytes / STREAMS_SHARE).checked_div(streams))
    else {
        return (budget_bytes, 0);
    };
    let left = budget_bytes - budget_bytes / STREAMS_SHARE;
    (left.max(budget_bytes.min(MEMORY_BYTES_MIN)), each)
}

/// The default for a machine with `machine_bytes` of memory.
pub fn default_bytes(machine_bytes: u64) -> u64 {
    (machine_bytes / MACHINE_SHARE).clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_DEFAULT)
}

/// The receive window of a new session that could use `wanted_bytes`, when windows of `free_bytes` of memory are left.
pub fn window(free_bytes: u64, wanted_bytes: u32) -> u64 {
    let share = free_bytes / WINDOW_SHARE * WINDOW_COST.1 / WINDOW_COST.0;
    (WINDOW_BYTES_MIN + share).min(u64::from(wanted_bytes))
}

#[cfg(test)]
mod tests {
    use lacuna_transport::limits::{LANES_MAX, SESSION_WINDOW_BYTES, SESSION_WINDOW_BYTES_MAX};

    use super::*;

    /// Whatever the budget: the parts, used up, are not more than it.
    #[test]
    fn the_parts_fit_in_the_whole() {
        for budget in [
            MEMORY_BYTES_MIN,
            MEMORY_BYTES_MIN + 12345,
            512 << 20,
            MEMORY_BYTES_DEFAULT,
            1 << 40,
        ] {
            let division = Division::of(budget).unwrap();
            let many = |count: usize, each: u64| u64::try_from(count).unwrap() * each;
            let all = division.replies_bytes
                + division.writes_bytes
                + division.listings_bytes
                + division.kept_bytes
                + division.windows_bytes
                + many(division.sessions, SESSION_BYTES)
                + many(division.volumes, VOLUME_BYTES)
                + many(division.operation_units, UNIT_BYTES)
                + many(division.handshakes, HANDSHAKE_BYTES);
            assert!(all <= budget, "{budget}: {division:?}");
            assert!(
                division.sessions >= 6 && division.handshakes >= 8,
                "{budget}: {division:?}"
            );
        }
        assert_eq!(Division::of(MEMORY_BYTES_MIN - 1), Err(TooSmall));
        assert_eq!(STREAMS, u64::from(LANES_MAX) + 1);
    }

    /// Sessions that come one after the other never get more windows than there is memory, and the first ones do
    /// not take all.
    #[test]
    fn windows_shrink_with_their_number_and_stay_inside() {
        let division = Division::of(MEMORY_BYTES_DEFAULT).unwrap();
        for wanted in [SESSION_WINDOW_BYTES, SESSION_WINDOW_BYTES_MAX] {
            let mut free = division.windows_bytes;
            for number in 0..division.sessions {
                let window = window(free, wanted);
                assert!(window >= WINDOW_BYTES_MIN);
                assert!(number >= 4 || window >= 4 << 20, "{number}: {window}");
                let cost = cost_of_window(window - WINDOW_BYTES_MIN);
                free = free.checked_sub(cost).expect("inside");
            }
            assert_eq!(window(u64::MAX / 8, wanted), u64::from(wanted));
            assert_eq!(window(0, wanted), WINDOW_BYTES_MIN);
        }
    }

    #[test]
    fn streams_take_their_part_before_the_rest_is_divided() {
        let budget = MEMORY_BYTES_DEFAULT;
        assert_eq!(with_streams(budget, 0), (budget, 0));
        assert_eq!(with_streams(budget, 1), (budget / 16 * 15, budget / 16));
        let (left, each) = with_streams(budget, 3);
        assert!(left + 3 * each <= budget && left + 3 * each > budget - 3);
        assert_eq!(with_streams(MEMORY_BYTES_MIN, 1).0, MEMORY_BYTES_MIN);
    }

    #[test]
    fn a_small_machine_keeps_most_of_its_memory() {
        assert_eq!(default_bytes(64 << 30), MEMORY_BYTES_DEFAULT);
        assert_eq!(default_bytes(2 << 30), 512 << 20);
        assert_eq!(default_bytes(0), MEMORY_BYTES_MIN);
    }
}
