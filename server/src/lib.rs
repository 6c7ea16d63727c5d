//! Storage backends, sessions and the daemon of lacuna.
//!
//! * [`backend`]: the one door to storage, and what is behind it.
//! * [`generation`], [`catalog`]: which content a volume has, who has it open, who is told of changes.
//! * [`operations`]: changes of names, each with effect once.
//! * [`access`]: who may connect.
//! * [`state`], [`control`]: the state folder, and talking to the daemon that runs on it.
//! * [`serve`], [`session`]: QUIC in, requests answered; [`buffers`]: memory for their payloads.
//! * [`command`]: what the binary `lacunad` offers.
//!
//! Nothing here knows of mounts or caches: that is the crate `lacuna`.

#![forbid(unsafe_code)]

pub mod access;
pub mod backend;
pub mod buffers;
pub mod catalog;
mod clock;
pub mod command;
pub mod control;
pub mod error;
pub mod generation;
pub mod locks;
pub mod operations;
pub mod serve;
pub mod session;
pub mod state;

pub use error::{Error, ErrorKind};
