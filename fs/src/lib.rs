//! The client of lacuna: remote volumes as sparse local files.
//!
//! The core (map, cache, readahead, volumes, file system) knows neither FUSE nor QUIC and is driven by
//! tests over a server in memory; `fuse` is the adapter to the kernel, `remote` the door to a server,
//! `command` the program `lacuna`.

#![cfg_attr(
    test,
    allow(clippy::as_conversions, reason = "models index small arrays with offsets")
)]

pub mod cache;
#[cfg(feature = "quic")]
pub mod client;
#[cfg(all(feature = "fuse", feature = "quic"))]
pub mod command;
pub mod compress;
#[cfg(feature = "quic")]
pub mod control;
pub mod counters;
pub mod error;
pub mod extent_map;
pub mod file_system;
#[cfg(feature = "fuse")]
pub mod fuse;
#[cfg(feature = "quic")]
pub mod instance;
pub mod location;
pub mod memory;
pub mod mount_options;
pub mod namespace;
pub mod overlay;
pub mod readahead;
pub mod remote;
pub mod rescue;
pub mod run_map;
pub use lacuna_transport::size;
#[cfg(feature = "quic")]
pub mod state;
#[cfg(feature = "quic")]
pub mod status;
#[cfg(feature = "quic")]
pub mod transfer;
pub mod volume;
pub mod zeros;
