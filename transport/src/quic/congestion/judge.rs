//! Whether losses and delays are congestion. Pure: time is an argument.
//!
//! The round trip without a queue is the shortest of the last ten seconds or more; what a packet took beyond it, it stood in
//! a queue. Delays that come and go (jitter, a busy processor) are not a queue: the shortest of several packets counts.
//!
//! Losses are counted in packets. As many as [`LOSS_USUAL`] are taken for the path's own. Above that they are congestion
//! on trial: if as many are lost with the smaller window, it was not the window, and it is given back.

use std::time::{Duration, Instant};

/// A queue of so much, or of a quarter of the round trip if that is more, is too long. Less would be noise of the processors
/// at both ends, and Cubic, which gives up a third, would leave the path idle.
const QUEUE_LIMIT_MIN: Duration = Duration::from_millis(5);
const QUEUE_LIMIT_PART: u32 = 4;
/// And it does not go away for so long: longer than a process waits for its turn on a processor.
const QUEUE_STANDS: Duration = Duration::from_millis(25);
/// A queue of so much, or of a sixteenth of the round trip, when packets are lost: they are lost because of it.
const QUEUE_SEEN_MIN: Duration = Duration::from_millis(1);
const QUEUE_SEEN_PART: u32 = 16;

/// The shortest round trip is forgotten after this or twice as long: the path may have become another.
const SHORTEST_KEPT: Duration = Duration::from_secs(10);
/// Packets whose shortest round trip tells whether there is a queue now.
const RECENT_PACKETS: u32 = 16;

/// What a path carried is forgotten after so many rounds or twice as many.
const CARRIED_ROUNDS: u32 = 8;

/// So much more than a path was seen to carry keeps it busy. Less than what is seen as a queue.
const FILLS_PART: u32 = 20;

/// A queue that stands after so many cuts in a row, each of a third of our part, is not ours.
const CUTS_IN_VAIN_MAX: u32 = 3;
/// Delays are no reason to give way for so long, if others do not.
const YIELDS_NOT: Duration = Duration::from_secs(10);

/// Packets that a share of losses is taken of: at 5 % lost, nearly never more than an eighth of them are.
const SHARE_PACKETS: u64 = 128;
/// One of so many lost is nothing special.
const LOSS_USUAL: u64 = 32;
/// One of so many lost is congestion on any path.
const LOSS_MOST: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    /// The window was too large.
    Congestion,
    /// The same, if a smaller window helps.
    Trial,
    /// It did.
    Settled,
    /// It did not.
    Acquitted,
}

/// Losses beside packets that arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    lost: u64,
    arrived: u64,
}

impl Share {
    fn packets(self) -> u64 {
        self.lost + self.arrived
    }

    /// More than one of `one_of`.
    fn is_above(self, one_of: u64) -> bool {
        self.lost * one_of > self.packets()
    }

    /// Forgets half of it once there are enough.
    fn age(&mut self) {
        if self.packets() >= 2 * SHARE_PACKETS {
            self.lost /= 2;
            self.arrived /= 2;
        }
    }
}

/// Losses that were taken for congestion: the share of packets sent since.
#[derive(Clone, Copy, Debug)]
struct Trial {
    since: Instant,
    share: Share,
    before: Share,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    mtu_bytes: u64,
    /// Shortest round trips: of this period, and of the one before.
    shortest: [Option<Duration>; 2],
    period_began: Instant,
    /// The same of the last few packets.
    recent: [Option<Duration>; 2],
    recent_packets: u32,
    /// A round ends with the first arrival of a packet that was sent in it.
    round_began: Instant,
    round_shortest: Option<Duration>,
    round_bytes: u64,
    /// What arrived in one round trip without a queue, at most: in these rounds, and in those before.
    carried_bytes: [u64; 2],
    carried_rounds: u32,
    /// How long the queue was in the last round.
    queue: Duration,
    /// Losses of what was sent until then have been answered for.
    yielded: Option<Instant>,
    /// The window was cut in the last round, which brings nothing yet that was sent with the smaller one.
    cut_takes_effect: bool,
    /// Each round since then had a queue above the limit.
    queue_since: Option<Instant>,
    /// How long it was when the window was cut, and how often that did not help.
    cut_at: Option<Duration>,
    cuts_in_vain: u32,
    yields_again: Option<Instant>,
    share: Share,
    /// One of so many may be lost without a queue.
    loss_usual: u64,
    trial: Option<Trial>,
}

impl Judge {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            mtu_bytes: 1200,
            shortest: [None; 2],
            period_began: now,
            recent: [None; 2],
            recent_packets: 0,
            round_began: now,
            round_shortest: None,
            round_bytes: 0,
            carried_bytes: [0; 2],
            carried_rounds: 0,
            queue: Duration::ZERO,
            yielded: None,
            cut_takes_effect: false,
            queue_since: None,
            cut_at: None,
            cuts_in_vain: 0,
            yields_again: None,
            share: Share::default(),
            loss_usual: LOSS_USUAL,
            trial: None,
        }
    }

    pub(super) fn on_mtu(&mut self, mtu_bytes: u64) {
        self.mtu_bytes = mtu_bytes;
    }

    /// What the path was seen to carry: with less under way it is idle for a part of the time.
    pub(super) fn carried_bytes(&self) -> u64 {
        self.carried_bytes[0].max(self.carried_bytes[1])
    }

    /// What keeps the path busy. No round trip is as short as the shortest, so it takes a twentieth more than what was carried, but only
    /// while that does not stand in a queue: the shortest round trip is to be seen again.
    pub(super) fn fills_bytes(&self) -> u64 {
        let carried_bytes = self.carried_bytes();
        if self.queue > self.floor() / FILLS_PART {
            return carried_bytes;
        }
        carried_bytes + carried_bytes / u64::from(FILLS_PART)
    }

    /// A packet of so many bytes arrived.
    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) -> Verdict {
        let rtt = now.saturating_duration_since(sent);
        self.note_rtt(now, rtt);
        self.round_bytes += bytes;
        self.share.arrived += 1;
        self.share.age();
        if let Some(trial) = self.trial.as_mut().filter(|trial| sent > trial.since) {
            trial.share.arrived += 1;
            if trial.share.packets() >= SHARE_PACKETS {
                return self.end_trial();
            }
        }
        if sent < self.round_began {
            return Verdict::Nothing;
        }
        let rtt = self.round_shortest.take().unwrap_or(rtt);
        self.note_carried(now.saturating_duration_since(self.round_began));
        self.round_began = now;
        self.on_round(now, rtt)
    }

    /// Packets were lost that had `bytes` in all.
    /// The last one was sent at `sent`.
    pub(super) fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64) -> Verdict {
        let packets = bytes.div_ceil(self.mtu_bytes);
        self.share.lost += packets;
        self.share.age();
        if let Some(trial) = &mut self.trial {
            trial.share.lost += packets;
        }
        let floor = self.floor();
        let queue = least(self.recent).unwrap_or(floor).saturating_sub(floor);
        if queue > QUEUE_SEEN_MIN.max(floor / QUEUE_SEEN_PART) {
            // As Cubic, once for what was sent until now, but not as far below what passes.
            if self.yielded.is_none_or(|yielded| sent > yielded) {
                self.yielded = Some(now);
                self.carried_bytes = self.carried_bytes.map(|bytes| bytes / 5 * 4);
                self.cut_at = None;
                self.cuts_in_vain = 0;
            }
            return Verdict::Congestion;
        }
        if self.trial.is_some()
            || self.share.packets() < SHARE_PACKETS
            || !self.share.is_above(self.loss_usual)
        {
            return Verdict::Nothing;
        }
        let before = std::mem::take(&mut self.share);
        if before.is_above(LOSS_MOST) {
            return Verdict::Congestion;
        }
        self.trial = Some(Trial {
            since: now,
            share: Share::default(),
            before,
        });
        Verdict::Trial
    }

    fn note_rtt(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.period_began) >= SHORTEST_KEPT {
            self.shortest = [None, self.shortest[0]];
            self.period_began = now;
            // What the path loses may have changed as well.
            self.loss_usual = LOSS_USUAL;
        }
        if self.recent_packets == RECENT_PACKETS {
            self.recent = [None, self.recent[0]];
            self.recent_packets = 0;
        }
        self.recent_packets += 1;
        for shortest in [
            &mut self.shortest[0],
            &mut self.recent[0],
            &mut self.round_shortest,
        ] {
            *shortest = Some(shortest.map_or(rtt, |shortest| shortest.min(rtt)));
        }
    }

    fn note_carried(&mut self, round: Duration) {
        let bytes = u128::from(std::mem::take(&mut self.round_bytes)) * self.floor().as_nanos();
        let bytes = u64::try_from(bytes / round.as_nanos().max(1)).unwrap_or(u64::MAX);
        if self.carried_rounds == CARRIED_ROUNDS {
            self.carried_bytes = [0, self.carried_bytes[0]];
            self.carried_rounds = 0;
        }
        self.carried_rounds += 1;
        self.carried_bytes[0] = self.carried_bytes[0].max(bytes);
    }

    /// A round ended, of which `rtt` was the shortest.
    fn on_round(&mut self, now: Instant, rtt: Duration) -> Verdict {
        self.queue = rtt.saturating_sub(self.floor());
        if std::mem::take(&mut self.cut_takes_effect) {
            return Verdict::Nothing;
        }
        let floor = self.floor();
        let queue = self.queue;
        if queue <= QUEUE_LIMIT_MIN.max(floor / QUEUE_LIMIT_PART) {
            self.queue_since = None;
            self.cuts_in_vain = 0;
            return match self.cut_at.take() {
                Some(_) => Verdict::Settled,
                None => Verdict::Nothing,
            };
        }
        let since = *self.queue_since.get_or_insert(now);
        let stands = rtt.max(now.saturating_duration_since(since)) >= QUEUE_STANDS;
        if !stands || self.yields_again.is_some_and(|again| now < again) {
            return Verdict::Nothing;
        }
        self.yields_again = None;
        // Had it been ours, a cut would have taken more than an eighth of it.
        if self.cut_at.is_some_and(|before| queue > before - before / 8) {
            self.cuts_in_vain += 1;
        }
        if self.cuts_in_vain == CUTS_IN_VAIN_MAX {
            self.cuts_in_vain = 0;
            self.cut_at = None;
            self.yields_again = Some(now + YIELDS_NOT);
            return Verdict::Acquitted;
        }
        self.cut_at = Some(queue);
        self.queue_since = None;
        self.cut_takes_effect = true;
        Verdict::Trial
    }

    fn end_trial(&mut self) -> Verdict {
        let Some(trial) = self.trial.take() else {
            return Verdict::Nothing;
        };
        self.share = Share::default();
        // Half as many of as many: it was the window.
        if trial.share.lost * 2 * trial.before.packets() < trial.before.lost * trial.share.packets() {
            return Verdict::Settled;
        }
        self.loss_usual = LOSS_MOST;
        Verdict::Acquitted
    }

    /// The round trip without a queue.
    fn floor(&self) -> Duration {
        least(self.shortest).unwrap_or_default()
    }
}

fn least(of: [Option<Duration>; 2]) -> Option<Duration> {
    of.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A judge for whom 200 packets, one each ms, took `rtt`; and the time then.
    fn judge_of(rtt: Duration) -> (Judge, Instant) {
        let mut now = Instant::now();
        let mut judge = Judge::new(now);
        judge.on_mtu(1000);
        assert_eq!(arrive(&mut judge, &mut now, 200, rtt), []);
        (judge, now)
    }

    /// `count` packets arrive, one each ms; what was made of them.
    fn arrive(judge: &mut Judge, now: &mut Instant, count: u32, rtt: Duration) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for _ in 0..count {
            *now += MS;
            verdicts.push(judge.on_ack(*now, now.checked_sub(rtt).unwrap(), 1000));
        }
        verdicts.retain(|verdict| *verdict != Verdict::Nothing);
        verdicts
    }

    fn lose(judge: &mut Judge, now: Instant) -> Verdict {
        judge.on_loss(now, now.checked_sub(50 * MS).unwrap(), 1000)
    }

    #[test]
    fn a_few_losses_without_a_queue_are_nothing_and_with_one_they_are_congestion() {
        let (mut judge, mut now) = judge_of(50 * MS);
        for _ in 0..50 {
            assert_eq!(lose(&mut judge, now), Verdict::Nothing);
            assert_eq!(arrive(&mut judge, &mut now, 99, 50 * MS), []);
        }
        // One packet that is late is no queue, many are.
        arrive(&mut judge, &mut now, 1, 58 * MS);
        assert_eq!(lose(&mut judge, now), Verdict::Nothing);
        arrive(&mut judge, &mut now, 2 * RECENT_PACKETS, 58 * MS);
        assert_eq!(lose(&mut judge, now), Verdict::Congestion);
    }

    #[test]
    fn many_losses_are_congestion_unless_as_many_are_lost_with_a_smaller_window() {
        for (helps, expected) in [(true, Verdict::Settled), (false, Verdict::Acquitted)] {
            let (mut judge, mut now) = judge_of(50 * MS);
            let trial = (0..200).find_map(|_| {
                arrive(&mut judge, &mut now, 19, 50 * MS);
                let verdict = lose(&mut judge, now);
                (verdict != Verdict::Nothing).then_some(verdict)
            });
            assert_eq!(trial, Some(Verdict::Trial));
            let mut verdicts = Vec::new();
            while verdicts.is_empty() {
                verdicts = arrive(&mut judge, &mut now, 19, 50 * MS);
                if !helps {
                    assert_eq!(lose(&mut judge, now), Verdict::Nothing);
                }
            }
            assert_eq!(verdicts, [expected]);
        }
    }

    #[test]
    fn most_packets_lost_is_congestion_whatever_the_queue() {
        let (mut judge, now) = judge_of(50 * MS);
        let verdicts: Vec<_> = (0..SHARE_PACKETS).map(|_| lose(&mut judge, now)).collect();
        assert!(verdicts.iter().any(|verdict| *verdict != Verdict::Nothing));
    }

    #[test]
    fn a_queue_that_stands_is_congestion_until_it_goes_away() {
        let (mut judge, mut now) = judge_of(20 * MS);
        assert_eq!(arrive(&mut judge, &mut now, 200, 24 * MS), []);
        let verdicts = arrive(&mut judge, &mut now, 100, 40 * MS);
        assert_eq!(verdicts[0], Verdict::Trial);
        assert_eq!(arrive(&mut judge, &mut now, 200, 22 * MS), [Verdict::Settled]);
    }

    #[test]
    fn a_queue_that_stays_whatever_we_do_is_left_to_others() {
        let (mut judge, mut now) = judge_of(20 * MS);
        let verdicts = arrive(&mut judge, &mut now, 2000, 40 * MS);
        let (last, cuts) = verdicts.split_last().unwrap();
        assert_eq!(*last, Verdict::Acquitted);
        assert!(cuts.iter().all(|verdict| *verdict == Verdict::Trial), "{cuts:?}");
        // But a loss still counts.
        assert_eq!(lose(&mut judge, now), Verdict::Congestion);
    }

    #[test]
    fn what_a_path_carries_is_what_arrives_in_a_round_trip_without_a_queue() {
        let (mut judge, mut now) = judge_of(20 * MS);
        arrive(&mut judge, &mut now, 200, 40 * MS);
        let carried_bytes = judge.carried_bytes();
        assert!((18_000..=22_000).contains(&carried_bytes), "{carried_bytes}");
    }
}
