//! The wire protocol: bytes to valid values and back. Described in docs/PROTOCOL.md.
//!
//! * [`frame`]: the fixed header in front of everything.
//! * [`message`]: bodies of requests and replies, CBOR.
//! * [`read`]: the body of a read, fixed little-endian, followed by raw payload.
//! * [`codec`]: how payloads are packed.
//! * [`digest`]: hashes of units, for comparing without moving bytes.
//! * [`map_page`]: pages of an extent map, delta-coded.
//! * [`error_code`]: what can go wrong, as numbers.
//!
//! Decoders take any bytes: they return an error, allocate no more than the bytes they were given
//! justify, and never panic. The golden-byte tests in `golden.rs` pin every encoding.

pub mod codec;
pub mod digest;
pub mod error_code;
pub mod event;
pub mod frame;
#[cfg(test)]
mod golden;
pub mod lock;
pub mod map_page;
pub mod message;
mod ranges;
pub mod read;
pub mod write;

use thiserror::Error;

use crate::path::PathError;

/// ALPN of this major version. A peer with another one is refused during the handshake.
pub const ALPN: &[u8] = b"lacuna/1";

/// Minor version of the protocol: both sides use the lower one.
pub const VERSION: u16 = 0;

/// Why bytes of a peer are not what they should be.
#[derive(Debug, Error)]
pub enum WireError {
    #[error("unknown frame kind {0}")]
    UnknownKind(u16),
    #[error("unknown code {0}")]
    UnknownCode(u16),
    #[error("a {kind} frame of {bytes} bytes is over its bound of {bytes_max}")]
    TooLong {
        kind: &'static str,
        bytes: u32,
        bytes_max: u32,
    },
    #[error("a message does not parse: {0}")]
    Message(#[from] minicbor::decode::Error),
    #[error("{0} more bytes after the end of a message")]
    Trailing(usize),
    #[error("a message ends early")]
    Truncated,
    #[error("a value is out of its bounds: {0}")]
    OutOfBounds(&'static str),
    #[error("a packed payload does not unpack to {bytes} bytes ({codec}): {why}")]
    Packed {
        codec: &'static str,
        bytes: usize,
        why: String,
    },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("expected a {expected} frame, got {got}")]
    Unexpected {
        expected: &'static str,
        got: &'static str,
    },
}
