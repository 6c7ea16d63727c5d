//! Connections that are no sessions yet: how many there may be, and from where.
//!
//! | under way | an address that is not proven | a proven one |
//! |---|---|---|
//! | few | welcome | welcome |
//! | half of the most | must prove itself (Retry), which costs us nothing to remember | welcome, unless it has its share already |
//! | the most | no answer | no answer |
//!
//! Before its address is proven, QUIC stops sending to a client at three times what it sent (RFC 9000, 8.1): quinn
//! counts, and the packet that reaches the bound may go beyond it by less than its length. No answer is less than that: a client that means it sends its packet again after a second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use lacuna_transport::limits::{HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_UNPROVEN_MAX};
use parking_lot::Mutex;

/// What becomes of a client's first packet.
#[derive(Debug)]
pub(crate) enum Verdict {
    Welcome(Slot),
    /// It is to show that it receives at its address.
    Prove,
    Ignore,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Handshakes {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A handshake under way, until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
        })
    }

    pub(crate) fn begin(self: &Arc<Self>, address: IpAddr, proven: bool) -> Verdict {
        let address = network(address);
        let mut state = self.state.lock();
        if state.under_way >= self.most {
            return Verdict::Ignore;
        }
        let under_way = state.under_way;
        let of_address = state.by_address.entry(address).or_default();
        if under_way >= HANDSHAKES_UNPROVEN_MAX.min(self.most / 2) {
            let full = *of_address >= HANDSHAKES_PER_ADDRESS_MAX.min(self.most / 4);
            if !proven || full {
                if *of_address == 0 {
                    state.by_address.remove(&address);
                }
                return if proven { Verdict::Ignore } else { Verdict::Prove };
            }
        }
        *of_address += 1;
        state.under_way += 1;
        Verdict::Welcome(Slot {
            handshakes: Arc::clone(self),
            address,
        })
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        self.state.lock().under_way
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.handshakes.state.lock();
        state.under_way -= 1;
        if let Some(count) = state.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

/// What one host has for itself: an address of IPv4, the first 64 bits of one of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 256;

    fn welcome(handshakes: &Arc<Handshakes>, address: &str, proven: bool) -> Option<Slot> {
        match handshakes.begin(address.parse().unwrap(), proven) {
            Verdict::Welcome(slot) => Some(slot),
            Verdict::Prove | Verdict::Ignore => None,
        }
    }

    #[test]
    fn addresses_have_to_be_proven_when_there_are_many() {
        let handshakes = Handshakes::new(MOST);
        let few: Vec<_> = (0..HANDSHAKES_UNPROVEN_MAX)
            .map(|_| welcome(&handshakes, "10.0.0.1", false).unwrap())
            .collect();
        let other = "10.0.0.2".parse().unwrap();
        assert!(matches!(handshakes.begin(other, false), Verdict::Prove));
        assert!(matches!(handshakes.begin(other, true), Verdict::Welcome(_)));
        drop(few);
        assert_eq!(handshakes.under_way(), 0);
        assert!(handshakes.state.lock().by_address.is_empty());
        assert!(matches!(handshakes.begin(other, false), Verdict::Welcome(_)));
    }

    #[test]
    fn one_address_leaves_room_for_others_and_the_most_is_the_most() {
        let handshakes = Handshakes::new(MOST);
        let flood: Vec<_> = (0..1000)
            .filter_map(|_| welcome(&handshakes, "2001:db8::1", true))
            .collect();
        assert_eq!(flood.len(), HANDSHAKES_PER_ADDRESS_MAX);
        assert!(
            welcome(&handshakes, "2001:db8::2", true).is_none(),
            "the same network"
        );
        let others: Vec<_> = (0..1000_u32)
            .filter_map(|number| {
                welcome(
                    &handshakes,
                    &format!("10.0.{}.{}", number / 250, number % 250),
                    true,
                )
            })
            .collect();
        assert_eq!(flood.len() + others.len(), MOST);
        assert!(matches!(
            handshakes.begin("10.9.9.9".parse().unwrap(), true),
            Verdict::Ignore
        ));
        drop((flood, others));
        assert!(handshakes.state.lock().by_address.is_empty());
    }
}
