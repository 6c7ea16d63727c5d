//! One direction of a link, without IO: packets go in, and come out when they are due, or never.
//!
//! Time is an argument, counted from the start of the link; chance comes from a seed.
//!
//! Invariants:
//! - Packets come out in the order in which they went in, but for those that the conditions let be overtaken.
//! - What is on its way is bounded ([`ON_THE_WAY_BYTES_MAX`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::conditions::{Conditions, WHOLE_PPM};
use crate::random::Random;

/// 10 Gbit/s for 200 ms: more than any link that is emulated holds. What comes beyond it is lost.
pub const ON_THE_WAY_BYTES_MAX: usize = 256 << 20;

/// How much later than all others a packet comes that is overtaken: several packets of any usual rate.
const OVERTAKEN: Duration = Duration::from_millis(2);

const NS_PER_S: u128 = 1_000_000_000;

/// A packet on its way; the earlier one is the greater one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Reverse<Duration>,
    number: Reverse<u64>,
    packet: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Path {
    random: Random,
    on_the_way: BinaryHeap<Due>,
    on_the_way_bytes: usize,
    /// When the last packet that keeps its order is due.
    last_due: Duration,
    /// When the sender has sent all that it took, at its rate.
    free_at: Duration,
    number: u64,
    lost: u64,
}

impl Path {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            on_the_way: BinaryHeap::new(),
            on_the_way_bytes: 0,
            last_due: Duration::ZERO,
            free_at: Duration::ZERO,
            number: 0,
            lost: 0,
        }
    }

    /// `packet` is sent at `now`.
    pub fn take(&mut self, now: Duration, packet: &[u8], conditions: &Conditions) {
        // Always as many draws for a packet, so that one condition does not change the luck under another.
        let [lost, twice, overtaken] = [
            conditions.loss_ppm,
            conditions.duplicate_ppm,
            conditions.reorder_ppm,
        ]
        .map(|chance_ppm| self.random.below(WHOLE_PPM.into()) < chance_ppm.into());
        let jitter = self.jitter(conditions.jitter);
        let Some(sent) = self.send(now, packet.len(), conditions) else {
            self.lost += 1;
            return;
        };
        if lost || conditions.cut {
            self.lost += 1;
            return;
        }
        let in_order = (sent + conditions.rtt / 2 + jitter).max(self.last_due);
        let due = if overtaken {
            in_order + OVERTAKEN
        } else {
            self.last_due = in_order;
            in_order
        };
        for _ in 0..1 + u8::from(twice) {
            self.push(due, packet);
        }
    }

    /// When the next packet is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.on_the_way.peek().map(|due| due.at.0)
    }

    /// The next packet that is due by `now`.
    pub fn give(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let packet = self.on_the_way.pop()?.packet;
        self.on_the_way_bytes -= packet.len();
        Some(packet)
    }

    /// How many packets were lost, for whatever reason.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// When the last bit of a packet has left the sender; `None` if its queue is full.
    fn send(&mut self, now: Duration, length: usize, conditions: &Conditions) -> Option<Duration> {
        let Some(rate_bits) = conditions.rate_bits else {
            self.free_at = now;
            return Some(now);
        };
        let start = self.free_at.max(now);
        let waiting_bytes = (start - now).as_nanos() * u128::from(rate_bits) / 8 / NS_PER_S;
        if waiting_bytes > u128::from(conditions.queue_bytes) {
            return None;
        }
        let bits = u128::try_from(length).ok()? * 8;
        let takes_ns = bits * NS_PER_S / u128::from(rate_bits.max(1));
        self.free_at = start + Duration::from_nanos(u64::try_from(takes_ns).ok()?);
        Some(self.free_at)
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.random.between(0, most_ns))
    }

    fn push(&mut self, due: Duration, packet: &[u8]) {
        if self.on_the_way_bytes + packet.len() > ON_THE_WAY_BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.on_the_way_bytes += packet.len();
        self.number += 1;
        self.on_the_way.push(Due {
            at: Reverse(due),
            number: Reverse(self.number),
            packet: packet.to_vec(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` packets of 1000 bytes, one each `gap`; says which arrived and when, until all have.
    fn passed(conditions: &Conditions, count: u32, gap: Duration) -> Vec<(u32, Duration)> {
        let mut path = Path::new(7);
        for number in 0..count {
            let mut packet = number.to_le_bytes().to_vec();
            packet.resize(1000, 0);
            path.take(gap * number, &packet, conditions);
        }
        let mut arrived = Vec::new();
        while let Some(due) = path.next_due() {
            assert!(
                due.is_zero() || path.give(due - Duration::from_nanos(1)).is_none(),
                "given before it was due"
            );
            let packet = path.give(due).unwrap();
            assert_eq!(packet.len(), 1000);
            arrived.push((u32::from_le_bytes(packet[..4].try_into().unwrap()), due));
        }
        assert_eq!(path.on_the_way_bytes, 0);
        arrived
    }

    fn numbers(arrived: &[(u32, Duration)]) -> Vec<u32> {
        arrived.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_packet_takes_half_a_round_trip() {
        let arrived = passed(&Conditions::of(20, 0), 100, MS);
        let expected: Vec<_> = (0..100).map(|number| (number, MS * number + MS * 10)).collect();
        assert_eq!(arrived, expected);
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let conditions = Conditions {
            jitter: 5 * MS,
            ..Conditions::of(20, 0)
        };
        let arrived = passed(&conditions, 1000, MS);
        assert_eq!(numbers(&arrived), (0..1000).collect::<Vec<_>>());
        let late = |(number, at): &(u32, Duration)| *at - MS * *number - 10 * MS;
        assert!(arrived.iter().all(|packet| late(packet) <= 5 * MS));
        assert!(arrived.iter().any(|packet| late(packet) > 4 * MS));
        assert!(arrived.iter().any(|packet| late(packet) < MS));
    }

    #[test]
    fn as_many_are_lost_as_was_said() {
        let arrived = passed(&Conditions::of(1, 5), 100_000, MS / 100);
        assert!(
            (94_000..96_000).contains(&arrived.len()),
            "{} arrived",
            arrived.len()
        );
        assert!(numbers(&arrived).is_sorted());
        let all = Conditions {
            loss_ppm: WHOLE_PPM,
            ..Conditions::default()
        };
        assert_eq!(passed(&all, 100, MS), []);
    }

    #[test]
    fn some_arrive_twice_and_some_are_overtaken() {
        let twice = Conditions {
            duplicate_ppm: 100_000,
            ..Conditions::of(1, 0)
        };
        let arrived = numbers(&passed(&twice, 1000, MS));
        assert!((1050..1200).contains(&arrived.len()), "{} arrived", arrived.len());
        assert!(arrived.is_sorted());

        let overtaken = Conditions {
            reorder_ppm: 100_000,
            ..Conditions::of(1, 0)
        };
        let mut arrived = numbers(&passed(&overtaken, 1000, MS));
        let jumps = arrived.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((50..200).contains(&jumps), "{jumps} are overtaken");
        arrived.sort_unstable();
        assert_eq!(arrived, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_rate_spreads_packets_and_a_full_queue_loses_them() {
        // 1000 bytes take 1 ms at 8 Mbit/s.
        let slow = Conditions {
            rate_bits: Some(8_000_000),
            queue_bytes: 10_000,
            ..Conditions::default()
        };
        let arrived = passed(&slow, 1000, Duration::ZERO);
        let expected: Vec<_> = (0..11).map(|number| (number, MS * (number + 1))).collect();
        assert_eq!(arrived, expected);
        // As fast as the rate: nothing waits, nothing is lost.
        assert_eq!(passed(&slow, 1000, MS).len(), 1000);
        // Twice as fast: half of them.
        let half = passed(&slow, 1000, MS / 2).len();
        assert!((495..520).contains(&half), "{half} arrived");
    }

    #[test]
    fn nothing_passes_what_was_cut_and_all_does_again() {
        let mut path = Path::new(1);
        let whole = Conditions::of(10, 0);
        path.take(Duration::ZERO, b"before", &whole);
        path.take(MS, b"during", &whole.with("cut").unwrap());
        path.take(2 * MS, b"after", &whole);
        assert_eq!(path.give(5 * MS).unwrap(), b"before");
        assert_eq!(path.next_due(), Some(7 * MS));
        assert_eq!(path.give(7 * MS).unwrap(), b"after");
        assert_eq!((path.next_due(), path.lost()), (None, 1));
    }

    #[test]
    fn what_is_on_the_way_is_bounded() {
        let mut path = Path::new(1);
        let packet = vec![0; 1 << 20];
        for _ in 0..300 {
            path.take(Duration::ZERO, &packet, &Conditions::of(1000, 0));
        }
        assert_eq!(path.on_the_way_bytes, ON_THE_WAY_BYTES_MAX);
        assert_eq!(path.lost(), 300 - 256);
    }
}
