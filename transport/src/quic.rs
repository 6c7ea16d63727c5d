//! QUIC as lacuna uses it: identities instead of certificates, tuned endpoints, frames on streams.
//!
//! Both sides prove a public key (RFC 7250 raw keys, TLS 1.3); which keys are welcome is decided by
//! the caller: a client pins one ([`tls::client_config`]), a server asks its allow list after the
//! handshake, on every connection. There is no 0-RTT and no resumption, so no connection can skip that.

pub mod busy_poll;
pub mod close;
pub mod congestion;
pub mod endpoint;
pub mod frames;
pub mod identity;
pub mod packing;
pub mod tls;
