//! The controller over paths in virtual time ([`paths`](super::paths)), beside Cubic.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig};

use super::QueueAwareConfig;
use super::paths::{Factory, Path, World};
use crate::limits::INITIAL_WINDOW_BYTES;

fn ours() -> Factory {
    Arc::new(QueueAwareConfig::default())
}

fn cubic() -> Factory {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    Arc::new(cubic)
}
fn bbr() -> Factory {
    let mut cubic = BbrConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    Arc::new(cubic)
}

#[test]
fn table() {
    let secs = Duration::from_secs;
    let all: [(&str, fn() -> Factory); 1] = [("ours", ours)];
    for (rtt, loss, rate, queue) in [
        (1, 0, 100, 1_250_000), (1, 1, 100, 1_250_000), (1, 5, 100, 1_250_000),
        (20, 0, 100, 1_250_000), (20, 1, 100, 1_250_000), (20, 5, 100, 1_250_000),
        (100, 0, 100, 1_250_000), (100, 1, 100, 1_250_000), (100, 5, 100, 1_250_000),
        (20, 0, 100, 25_000), (20, 0, 100, 125_000), (20, 0, 100, 12_500_000),
        (20, 0, 1000, 1_250_000), (100, 1, 1000, 1_250_000),
    ] {
        for (name, factory) in all {
            let mut world = World::new(Path::new(rtt, loss, rate, queue));
            world.add(&factory(), secs(0));
            let first = world.run(secs(2))[0];
            let (mut moved, mut queued, mut max) = (0, Duration::ZERO, Duration::ZERO);
            for _ in 0..80 { moved += world.run(secs(1) / 10)[0]; queued += world.queue(); max = max.max(world.queue()); }
            let stats = world.sender(0).stats().path;
            println!("{rtt:4} ms {loss} % {rate:4} Mbit/s queue {queue:9} {name:6} first 2 s {:3} %, then {:3} %  queue {:4.0} ms max {:4.0}  lost {} of {} cwnd {}",
                world.percent(first, secs(2)), world.percent(moved, secs(8)), (queued / 80).as_secs_f64() * 1e3, max.as_secs_f64()*1e3, stats.lost_packets, stats.sent_packets, stats.cwnd);
        }
    }
    for (rtt, loss, rate, queue) in [(20, 0, 100, 25_000), (20, 0, 100, 250_000), (20, 0, 100, 1_250_000), (20, 0, 100, 12_500_000),(100, 0, 100, 1_250_000), (20, 1, 100, 250_000)] {
        for (name, a, b, later) in [("ours+ours", ours(), ours(), 0), ("ours, later ours", ours(), ours(), 5), ("ours, later cubic", ours(), cubic(), 5), ("cubic, later ours", cubic(), ours(), 5), ] {
            let mut world = World::new(Path::new(rtt, loss, rate, queue));
            world.add(&a, secs(0));
            world.run(secs(later));
            world.add(&b, secs(0));
            world.run(secs(5));
            let mut v = vec![];
            for _ in 0..3 { let m = world.run(secs(5)); v.push((world.percent(m[0], secs(5)), world.percent(m[1], secs(5)))); }
            println!("{rtt:4} ms {loss} % {rate:4} Mbit/s queue {queue:9} {name:20} {v:?} %, queue {:?}", world.queue());
        }
    }
}
