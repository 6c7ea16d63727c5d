//! Congestion control: Cubic, told only of what is congestion.
//!
//! Cubic takes every lost packet for a queue that was full. On a path that loses one packet in a hundred for other reasons
//! (radio, a bad cable) it ends at about twelve packets for each round trip, whatever the path could carry. And it does not
//! take a queue for congestion before that is full, which on a path with a deep one means seconds for all who use it.
//! So [`QueueAware`] asks `Judge` first:
//!
//! | what happened | then |
//! |---|---|
//! | packets lost while a queue was seen | congestion |
//! | packets lost without one | repeated, nothing else, unless they are more than the path usually loses |
//! | a queue above its limit that does not go away | congestion, though nothing was lost |
//! | the same, and it stays however much we give way | others keep it full: only losses count for a while |
//! | marked packets (ECN), or nothing arrives for long | congestion |
//!
//! How the window grows, and how much congestion takes from it, is left to Cubic: on a shared queue we then take what
//! another Cubic takes. Invariants: a window is at least two packets, and never grows beyond [`WINDOW_BYTES_MAX`].

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use crate::limits::{INITIAL_WINDOW_BYTES, SEND_WINDOW_BYTES};

mod judge;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod tests;

use judge::{Judge, Verdict};

/// No more than this is ever unacknowledged, so a larger window would only take longer to come down.
pub const WINDOW_BYTES_MAX: u64 = SEND_WINDOW_BYTES;

/// Makes a [`QueueAware`] for each connection.
#[derive(Debug)]
pub struct QueueAwareConfig {
    cubic: Arc<CubicConfig>,
}

impl Default for QueueAwareConfig {
    fn default() -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW_BYTES);
        Self {
            cubic: Arc::new(cubic),
        }
    }
}

impl ControllerFactory for QueueAwareConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(QueueAware {
            cubic: Cubic::new(Arc::clone(&self.cubic), now, current_mtu),
            before: None,
            judge: Judge::new(now),
        })
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct QueueAware {
    cubic: Cubic,
    /// As it was before, while what was taken for congestion is on trial.
    before: Option<Cubic>,
    judge: Judge,
}

impl QueueAware {
    fn carry_out(&mut self, verdict: Verdict, now: Instant, sent: Instant) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Congestion => {
                self.before = None;
                self.cubic.on_congestion_event(now, sent, false, 0);
            }
            Verdict::Trial => {
                self.before.get_or_insert_with(|| self.cubic.clone());
                self.cubic.on_congestion_event(now, sent, false, 0);
            }
            Verdict::Settled => self.before = None,
            Verdict::Acquitted => {
                if let Some(before) = self.before.take()
                    && before.window() > self.cubic.window()
                {
                    self.cubic = before;
                }
            }
        }
    }
}

impl Controller for QueueAware {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        let verdict = self.judge.on_ack(now, sent, bytes);
        if self.cubic.window() < WINDOW_BYTES_MAX {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
        self.carry_out(verdict, now, now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        if is_persistent_congestion {
            self.before = None;
            self.cubic.on_congestion_event(now, sent, true, lost_bytes);
            return;
        }
        let verdict = match lost_bytes {
            // Packets that were marked on their way.
            0 => Verdict::Congestion,
            _ => self.judge.on_loss(now, sent, lost_bytes),
        };
        self.carry_out(verdict, now, sent);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.before = None;
        self.judge.on_mtu(u64::from(new_mtu));
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let carried_bytes = self.judge.fills_bytes().min(WINDOW_BYTES_MAX);
        self.cubic.window().max(carried_bytes)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
