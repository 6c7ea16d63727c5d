//! Which codec pays on which path.
//!
//! Packing pays where the codec is faster than the path, and not where the processor is what is short: on one machine,
//! which a round trip that was ever shorter than [`NEAR`] tells, however busy the machine is now. What a path carries is estimated as the sender's congestion
//! window for each round trip: the window grows for as long as more gets through, so this is at least what was sent,
//! and both come from the QUIC stack without a clock of ours. One core packs some 900 MB/s of text with lz4 and some
//! 600 MB/s with zstd, which makes less of it; the bounds leave room for slower machines and for other work.
//!
//! | estimate | by path |
//! |---|---|
//! | any, but the shortest round trip is below [`NEAR`] | as it is |
//! | from [`FAST_BYTES_PER_S`] on | as it is |
//! | from [`MEDIUM_BYTES_PER_S`] on | lz4 |
//! | below | zstd |

use std::time::Duration;

use crate::wire::codec::{Codec, Offer, When};

/// Loopback answers in some 100 µs, also in a debug build; a network of 100 Mbit/s takes more for one packet each way.
pub const NEAR: Duration = Duration::from_micros(200);
/// About 1.6 Gbit/s: a fast local network.
pub const FAST_BYTES_PER_S: u64 = 200_000_000;
/// About 320 Mbit/s: below that the better ratio of zstd counts for more than its time.
pub const MEDIUM_BYTES_PER_S: u64 = 40_000_000;

/// What the sender knows of the way to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub rtt: Duration,
    /// The shortest so far.
    pub rtt_min: Duration,
    /// Congestion window: bytes that may be under way at once.
    pub window_bytes: u64,
}

impl Path {
    /// At least 1 µs is taken for a round trip.
    fn bytes_per_s(self) -> u64 {
        let rtt_us = self.rtt.as_micros().max(1);
        let bytes_per_s = u128::from(self.window_bytes) * 1_000_000 / rtt_us;
        u64::try_from(bytes_per_s).unwrap_or(u64::MAX)
    }
}

/// The codec to try for a payload; `None`: it goes as it is. `path` is asked for only if it matters.
pub fn choose(offer: Offer, path: impl FnOnce() -> Path) -> Option<Codec> {
    let offered = |order: [Codec; 2]| order.into_iter().find(|codec| offer.contains(*codec));
    match offer.when() {
        When::Always => offered([Codec::Zstd, Codec::Lz4]),
        When::ByPath => {
            let path = path();
            match path.bytes_per_s() {
                _ if path.rtt_min < NEAR => None,
                FAST_BYTES_PER_S.. => None,
                MEDIUM_BYTES_PER_S.. => offered([Codec::Lz4, Codec::Zstd]),
                _ => offered([Codec::Zstd, Codec::Lz4]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn chosen(codecs: &[Codec], rtt: Duration, window_bytes: u64) -> Option<Codec> {
        let offer = Offer::new(codecs, When::ByPath).unwrap();
        choose(offer, || Path {
            rtt,
            rtt_min: rtt,
            window_bytes,
        })
    }

    #[test]
    fn paths_decide() {
        let both = |rtt, window| chosen(&Codec::ALL, rtt, window);
        // Loopback, also before its window has grown.
        assert_eq!(both(MS / 10, 4 << 20), None);
        assert_eq!(both(MS / 5, 128 << 10), None);
        // A round trip that was not measured yet.
        assert_eq!(both(Duration::ZERO, 128 << 10), None);
        // 10 Gbit/s across a country, once it is filled.
        assert_eq!(both(MS * 10, 12 << 20), None);
        // 1 Gbit/s.
        assert_eq!(both(MS * 20, 2_500_000), Some(Codec::Lz4));
        // 100 Mbit/s, near and far.
        assert_eq!(both(MS * 40, 500_000), Some(Codec::Zstd));
        assert_eq!(both(MS * 2, 25_000), Some(Codec::Zstd));
    }

    /// However slow it is just now.
    #[test]
    fn a_path_within_one_machine_is_left_alone() {
        let offer = Offer::new(&Codec::ALL, When::ByPath).unwrap();
        let busy = |rtt_min| {
            choose(offer, || Path {
                rtt: MS * 100,
                rtt_min,
                window_bytes: 3_000_000,
            })
        };
        assert_eq!(busy(NEAR - Duration::from_nanos(1)), None);
        assert_eq!(busy(NEAR), Some(Codec::Zstd));
    }

    #[test]
    fn bounds_are_exact() {
        let second = Duration::from_secs(1);
        let at = |bytes_per_s| chosen(&Codec::ALL, second, bytes_per_s);
        assert_eq!(at(FAST_BYTES_PER_S), None);
        assert_eq!(at(FAST_BYTES_PER_S - 1), Some(Codec::Lz4));
        assert_eq!(at(MEDIUM_BYTES_PER_S), Some(Codec::Lz4));
        assert_eq!(at(MEDIUM_BYTES_PER_S - 1), Some(Codec::Zstd));
        assert_eq!(at(0), Some(Codec::Zstd));
        assert_eq!(chosen(&Codec::ALL, Duration::MAX, u64::MAX), Some(Codec::Zstd));
    }

    #[test]
    fn only_what_is_offered_is_chosen() {
        for codec in Codec::ALL {
            assert_eq!(chosen(&[codec], MS * 40, 500_000), Some(codec));
            assert_eq!(chosen(&[codec], MS * 20, 2_500_000), Some(codec));
            assert_eq!(chosen(&[codec], MS / 10, 4 << 20), None);
            let always = Offer::new(&[codec], When::Always).unwrap();
            let unasked = || -> Path { panic!("the path does not matter") };
            assert_eq!(choose(always, unasked), Some(codec));
        }
    }
}
