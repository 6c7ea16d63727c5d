//! Storage backends, sessions and the daemon of lacuna.
//!
//! * [`backend`]: the one door to storage, and what is behind it.
//! * [`generation`], [`catalog`]: which content a volume has, who has it open, who is told of changes.
//! * [`operations`]: changes of names, each with effect once; [`lease`]: one writer of a volume at a time;
//!   [`journal`]: what a restart knows of both.
//! * [`access`]: who may connect.
//! * [`state`], [`control`]: the state folder, and talking to the daemon that runs on it.
//! * [`serve`], [`session`]: QUIC in, requests answered; [`buffers`]: memory for their payloads.
//! * [`memory`]: one budget and what follows from it; `fair`: who of many clients gets the next share.
//! * [`confine`]: what the daemon gives up before it serves.
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
pub mod confine;
pub mod control;
pub mod error;
mod fair;
pub mod generation;
pub mod journal;
pub mod lease;
pub mod locks;
pub mod memory;
pub mod operations;
pub mod serve;
pub mod session;
pub mod state;
mod wanted;

pub use error::{Error, ErrorKind};
