//! The vocabulary that client and server share, the wire protocol, and QUIC.
//!
//! * [`range`], [`extent`], [`id`], [`path`], [`attr`]: valid values. Whatever holds one of these
//!   types has been checked; nothing inside checks again.
//! * [`digest`]: what a volume's bytes come to, also out of order and over holes.
//! * [`limits`]: every bound of the protocol, each with its reason.
//! * [`wire`]: bytes to values and back, without IO and without a runtime.
//! * [`compression`] (feature `compression`): packs payloads and unpacks them.
//! * [`records`]: a volume as a stream of records, for pipes and files.
//! * [`size`]: sizes as people write them, for the commands of both sides.
//! * [`bulk_write`] (feature `files`): writes to files that leave the page cache to others.
//! * [`quic`] (feature `quic`): identities, TLS, endpoints and frames on streams.
//! * [`confine`] (feature `confine`): what both daemons give up for good.
//!
//! What a request *means* lives elsewhere: in `lacuna` (client) and `lacuna-server`.

pub mod attr;
#[cfg(feature = "files")]
pub mod bulk_write;
#[cfg(feature = "compression")]
pub mod compression;
#[cfg(feature = "confine")]
pub mod confine;
pub mod digest;
pub mod extent;
mod hex;
pub mod id;
pub mod limits;
pub mod locks;
pub mod path;
#[cfg(feature = "quic")]
pub mod quic;
pub mod range;
pub mod records;
pub mod size;
pub mod wire;
