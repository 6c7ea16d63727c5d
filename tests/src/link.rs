//! A link between two hosts that are not there: two network namespaces, a TUN device in each, and a thread for each
//! direction that moves the packets as slowly, lossily and out of order as [`Conditions`] say.
//!
//! Invariants:
//! - The namespaces have no name: descriptors of this process hold them, and the devices live as long as theirs. All of
//!   it is gone when the link is dropped or this process ends, however it ends.
//! - Nothing is lost but what the conditions say: the devices queue more than any of our senders has under way.
//! - Which packet meets which fate depends on the seed and the order of the packets alone ([`path`]).
//!
//! Left out on purpose: other programs' mounts. A process that enters a side shares the mount namespace with all others,
//! so what it mounts is seen by the test.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::namespace::Namespace;

pub mod conditions;
mod mover;
pub mod path;
mod rig;
mod side;

pub use conditions::Conditions;
pub use rig::LinkedRig;
pub use side::Side;

use mover::Mover;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 117, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 117, 0, 2);

/// See the module. The fields end in this order: who moves packets, then where they come from.
#[derive(Debug)]
pub struct Link {
    _movers: [Mover; 2],
    conditions: Arc<Mutex<Conditions>>,
    server: Side,
    client: Side,
}

impl Link {
    pub fn new(conditions: Conditions, seed: u64) -> Result<Self> {
        let (server, client) = (Side::new(SERVER)?, Side::new(CLIENT)?);
        let conditions = Arc::new(Mutex::new(conditions));
        let movers = [
            Mover::start(client.device()?, server.device()?, &conditions, seed)?,
            Mover::start(server.device()?, client.device()?, &conditions, !seed)?,
        ];
        Ok(Self {
            _movers: movers,
            conditions,
            server,
            client,
        })
    }

    /// Where `lacunad` belongs.
    pub fn server(&self) -> &Side {
        &self.server
    }

    /// Where `lacuna` belongs.
    pub fn client(&self) -> &Side {
        &self.client
    }

    /// The client loses its address and gets another one.
    pub fn change_client_address(&mut self, address: Ipv4Addr) -> Result<()> {
        self.client.change_address(address)
    }

    /// The namespaces of the server and of the client.
    pub fn namespaces(&self) -> [Namespace; 2] {
        [self.server.namespace(), self.client.namespace()]
    }

    pub fn conditions(&self) -> Conditions {
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These hold for packets that are sent from now on.
    pub fn set(&self, conditions: Conditions) {
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner) = conditions;
    }

    /// Nothing passes any more.
    pub fn cut(&self) {
        self.set(Conditions {
            cut: true,
            ..self.conditions()
        });
    }

    /// What was cut passes again.
    pub fn mend(&self) {
        self.set(Conditions {
            cut: false,
            ..self.conditions()
        });
    }
}
