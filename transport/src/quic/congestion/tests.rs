//! The controller over [`paths`](super::paths) in virtual time, beside Cubic.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;

use super::QueueAwareConfig;
use super::paths::{Factory, Path, World};
use crate::limits::INITIAL_WINDOW_BYTES;

const RATE_MBIT: u64 = 100;
/// What is not measured: slow start, and what it did to the queue.
const BEGINNING: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(4);

fn ours() -> Factory {
    Arc::new(QueueAwareConfig::default())
}

fn cubic() -> Factory {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    Arc::new(cubic)
}

/// Percent of the bottleneck that each of these gets.
fn shares(path: Path, senders: &[Factory]) -> Vec<u64> {
    let mut world = World::new(path);
    for sender in senders {
        world.add(sender, Duration::ZERO);
    }
    world.run(BEGINNING);
    let moved = world.run(MEASURED);
    moved
        .into_iter()
        .map(|bytes| world.percent(bytes, MEASURED))
        .collect()
}

/// Share of one sender, and how long the queue is at most after its beginning.
fn alone(path: Path, sender: &Factory) -> (u64, Duration) {
    let mut world = World::new(path);
    world.add(sender, Duration::ZERO);
    world.run(BEGINNING);
    let mut bytes = 0;
    let mut queue_max = Duration::ZERO;
    for _ in 0..40 {
        bytes += world.run(MEASURED / 40)[0];
        queue_max = queue_max.max(world.queue());
    }
    (world.percent(bytes, MEASURED), queue_max)
}

#[test]
fn a_path_that_loses_one_percent_is_used() {
    for rtt_ms in [20, 100] {
        let path = Path::new(rtt_ms, 1, RATE_MBIT, 1_250_000);
        let (ours, cubic) = (shares(path, &[ours()])[0], shares(path, &[cubic()])[0]);
        assert!(ours >= 75, "{rtt_ms} ms: {ours} %");
        assert!(
            ours >= 2 * cubic,
            "{rtt_ms} ms: {ours} % of us, {cubic} % of Cubic"
        );
    }
}

#[test]
fn a_path_is_filled_and_a_deep_queue_is_not() {
    let path = Path::new(20, 0, RATE_MBIT, 12_500_000);
    let (share, queue_max) = alone(path, &ours());
    assert!(share >= 90, "{share} %");
    assert!(queue_max <= Duration::from_millis(20), "{queue_max:?}");
    // A queue that a test cannot see would prove nothing.
    let (_, of_cubic) = alone(path, &cubic());
    assert!(of_cubic >= Duration::from_millis(200), "{of_cubic:?}");
}

/// Longer than the shortest round trip is kept: what we keep under way ourselves must not be taken for the path.
#[test]
fn the_round_trip_does_not_grow_with_time() {
    for loss_percent in [0, 1] {
        let mut world = World::new(Path::new(20, loss_percent, RATE_MBIT, 12_500_000));
        world.add(&ours(), Duration::ZERO);
        world.run(Duration::from_secs(90));
        let mut shortest = Duration::MAX;
        let mut bytes = 0;
        for _ in 0..100 {
            bytes += world.run(MEASURED / 40)[0];
            shortest = shortest.min(world.queue());
        }
        assert!(
            shortest <= Duration::from_millis(2),
            "{loss_percent} %: {shortest:?}"
        );
        let share = world.percent(bytes, MEASURED / 40 * 100);
        assert!(share >= 85, "{loss_percent} %: {share} %");
    }
}

#[test]
fn a_queue_too_short_to_be_seen_is_not_flooded() {
    let mut world = World::new(Path::new(20, 0, RATE_MBIT, 25_000));
    world.add(&ours(), Duration::ZERO);
    world.run(BEGINNING);
    let bytes = world.run(MEASURED)[0];
    let share = world.percent(bytes, MEASURED);
    assert!(share >= 75, "{share} %");
    let path = world.sender(0).stats().path;
    assert!(
        path.lost_packets * 10 < path.sent_packets,
        "{} of {} packets lost",
        path.lost_packets,
        path.sent_packets
    );
}

#[test]
fn two_of_us_share_a_path() {
    for queue_bytes in [250_000, 12_500_000] {
        let shares = shares(Path::new(20, 0, RATE_MBIT, queue_bytes), &[ours(), ours()]);
        assert!(shares.iter().all(|share| *share >= 25), "{shares:?} %");
        assert!(shares.iter().sum::<u64>() >= 85, "{shares:?} %");
    }
}

#[test]
fn cubic_beside_us_gets_its_part_and_we_get_ours() {
    let shares = shares(Path::new(20, 0, RATE_MBIT, 250_000), &[ours(), cubic()]);
    assert!(shares.iter().all(|share| *share >= 15), "{shares:?} %");
}
