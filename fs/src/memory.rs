//! How the memory of a mount is divided. Pure.
//!
//! `-o memory=` is one figure for all that a mount keeps or has on its way:
//!
//! | part | how much | bounded by |
//! |---|---|---|
//! | requests of the kernel | `KERNEL_BYTES` | the buffer of the one reader, and the answers that are copied out at once |
//! | receive window | a sixteenth | QUIC |
//! | send window | an eighth | QUIC |
//! | extent maps | an eighth | runs that are held; what does not fit is unknown, and asked for again |
//! | cache | the rest, or `cache=` | the budget of [`crate::cache`]: data, prefetches, what is dirty |
//!
//! Without `memory=` the windows are those of the protocol, maps have a bound of their own, and the cache is what
//! `cache=` says. Beyond the figure is the program itself: its text, its threads, what is known of names.

use lacuna_transport::limits::{SEND_WINDOW_BYTES, SESSION_WINDOW_BYTES_MAX};
use lacuna_transport::size;

/// Default of `cache=`, where `memory=` is not given.
pub const CACHE_BYTES_DEFAULT: u64 = 256 << 20;
/// Smallest `cache=`: a few of the largest reads must fit at once.
pub const CACHE_BYTES_MIN: u64 = 8 << 20;
/// Smallest `memory=`.
pub const MEMORY_BYTES_MIN: u64 = 48 << 20;

/// The reader's buffer of 16 MiB, and one answer for each thread that copies one out.
const KERNEL_BYTES: u64 = 20 << 20;
/// A run of a map, with the tree around it.
const RUN_BYTES: u64 = 24;
/// Runs of all maps without `memory=`.
const MAP_RUNS_DEFAULT: usize = 64 << 20;

/// What follows from the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    pub cache_bytes: u64,
    /// Runs of extent maps held, all volumes together.
    pub map_runs_max: usize,
    /// What the server may send ahead at most; on a short path it is less.
    pub receive_window_bytes: u32,
    /// What is kept until the server has acknowledged it.
    pub send_window_bytes: u64,
}

impl Default for Division {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
            map_runs_max: MAP_RUNS_DEFAULT,
            receive_window_bytes: SESSION_WINDOW_BYTES_MAX,
            send_window_bytes: SEND_WINDOW_BYTES,
        }
    }
}

impl Division {
    /// Divides `memory_bytes`, of which the cache is to have `cache_bytes`. The error is for whoever wrote the options.
    pub fn of(memory_bytes: Option<u64>, cache_bytes: Option<u64>) -> Result<Self, String> {
        if let Some(cache_bytes) = cache_bytes.filter(|bytes| *bytes < CACHE_BYTES_MIN) {
            return Err(too_small("cache", cache_bytes, CACHE_BYTES_MIN));
        }
        let Some(memory_bytes) = memory_bytes else {
            return Ok(Self {
                cache_bytes: cache_bytes.unwrap_or(CACHE_BYTES_DEFAULT),
                ..Self::default()
            });
        };
        if memory_bytes < MEMORY_BYTES_MIN {
            return Err(too_small("memory", memory_bytes, MEMORY_BYTES_MIN));
        }
        let receive = (memory_bytes / 16).min(u64::from(SESSION_WINDOW_BYTES_MAX));
        let send = (memory_bytes / 8).min(SEND_WINDOW_BYTES);
        let maps = memory_bytes / 8;
        let left = memory_bytes.saturating_sub(KERNEL_BYTES + receive + send + maps);
        let cache_bytes = cache_bytes.unwrap_or(left);
        if cache_bytes > left {
            return Err(format!(
                "-o cache={}: {} of memory={} are needed elsewhere (requests, windows, maps): make it {} at most, or memory= larger",
                size::human(cache_bytes),
                size::human(memory_bytes - left),
                size::human(memory_bytes),
                size::human(left)
            ));
        }
        Ok(Self {
            cache_bytes,
            map_runs_max: usize::try_from(maps / RUN_BYTES).unwrap_or(MAP_RUNS_DEFAULT),
            receive_window_bytes: u32::try_from(receive).unwrap_or(SESSION_WINDOW_BYTES_MAX),
            send_window_bytes: send,
        })
    }
}

fn too_small(option: &str, bytes: u64, bytes_min: u64) -> String {
    let (bytes, bytes_min) = (size::human(bytes), size::human(bytes_min));
    format!("-o {option}={bytes} is too small: at least {bytes_min}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_in_the_whole() {
        for memory in [MEMORY_BYTES_MIN, 100_000_000, 256 << 20, 1 << 30, 1 << 40] {
            let division = Division::of(Some(memory), None).unwrap();
            let maps = u64::try_from(division.map_runs_max).unwrap() * RUN_BYTES;
            let all = KERNEL_BYTES
                + u64::from(division.receive_window_bytes)
                + division.send_window_bytes
                + maps
                + division.cache_bytes;
            assert!(all <= memory, "{memory}: {division:?}");
            assert!(division.cache_bytes >= CACHE_BYTES_MIN, "{memory}: {division:?}");
        }
    }

    #[test]
    fn without_it_everything_is_as_the_cache_says() {
        assert_eq!(Division::of(None, None), Ok(Division::default()));
        let large = Division::of(None, Some(1 << 40)).unwrap();
        assert_eq!(large.cache_bytes, 1 << 40);
        assert_eq!(large.receive_window_bytes, SESSION_WINDOW_BYTES_MAX);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let error = Division::of(Some(128 << 20), Some(128 << 20)).unwrap_err();
        let fits = Division::of(Some(128 << 20), None).unwrap().cache_bytes;
        assert!(error.contains(&size::human(fits)), "{error}");
        assert_eq!(
            Division::of(Some(128 << 20), Some(fits)).unwrap().cache_bytes,
            fits
        );
        assert!(
            Division::of(Some(MEMORY_BYTES_MIN - 1), None)
                .unwrap_err()
                .contains("48 MiB")
        );
        assert!(Division::of(None, Some(1 << 20)).unwrap_err().contains("8 MiB"));
    }
}
