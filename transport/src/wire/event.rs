//! What a server tells without being asked, on the event stream.

use minicbor::{Decode, Encode};

use super::WireError;
use super::frame::Kind;
use super::message::{Message, VolumeChanged, decode, encode, within};
use crate::id::Handle;
use crate::limits::TEXT_BYTES_MAX;

/// An event: somebody else wants to write to this volume. A client that does not need it flushes and closes its
/// handles for changes; one that does says [`Kind::KeepLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaseRecalled {
    #[n(0)]
    pub handle: Handle,
    /// Who wants it, for logs; [`TEXT_BYTES_MAX`] bytes at most.
    #[n(1)]
    pub who: String,
}

/// An event: a lock that stood in the way of one that this client wanted was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LocksFreed {
    #[n(0)]
    pub handle: Handle,
}

/// What a server tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    VolumeChanged(VolumeChanged),
    LeaseRecalled(LeaseRecalled),
    LocksFreed(LocksFreed),
}

impl Event {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::VolumeChanged(_) => Kind::VolumeChanged,
            Self::LeaseRecalled(_) => Kind::LeaseRecalled,
            Self::LocksFreed(_) => Kind::LocksFreed,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::VolumeChanged(event) => encode(event),
            Self::LeaseRecalled(event) => encode(event),
            Self::LocksFreed(event) => encode(event),
        }
    }

    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, WireError> {
        match kind {
            Kind::VolumeChanged => decode(body).map(Self::VolumeChanged),
            Kind::LeaseRecalled => decode(body).map(Self::LeaseRecalled),
            Kind::LocksFreed => decode(body).map(Self::LocksFreed),
            other => Err(WireError::Unexpected {
                expected: "event",
                got: other.word(),
            }),
        }
    }
}

impl Message for LeaseRecalled {
    fn check(&self) -> Result<(), WireError> {
        within(self.who.len() <= TEXT_BYTES_MAX, "text of a recall")
    }
}

impl Message for LocksFreed {
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}
