//! The harness of the tests on real mounts: it starts `lacunad`, mounts with `lacuna`, makes sample
//! volumes by real means and compares what tools see through the mount with what they see without it.
//!
//! Invariants:
//! - Nothing outlives a test: every process, mount and loop device belongs to a [`sandbox::Sandbox`],
//!   which ends them when it is dropped, after a panic too.
//! - Nothing waits for a time, only for a state with a deadline ([`wait`]); no port is fixed.
//! - The product is driven through its commands only. The harness links neither `fs` nor `server`.
//!
//! Left out on purpose: a silent skip. A host without /dev/fuse or root fails with what to do ([`host`]).

pub mod at_once;
pub mod backing;
pub mod binaries;
pub mod comb;
pub mod command;
pub mod compare;
pub mod direct;
pub mod host;
pub mod link;
pub mod locker;
pub mod loop_device;
pub mod mapping;
pub mod measure;
pub mod model;
pub mod mount;
pub mod mount_table;
pub mod namespace;
pub mod process;
pub mod random;
pub mod reshape;
pub mod rig;
pub mod samples;
pub mod sandbox;
pub mod seek_map;
pub mod server;
pub mod status;
pub mod table;
pub mod twin;
pub mod variable;
pub mod wait;
