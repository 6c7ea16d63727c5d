//! The bytes on the wire, pinned. A change here is a change of the protocol.
