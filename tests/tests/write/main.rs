//! What changes do through a real mount, and what they leave at the server: one module per call.

use anyhow::Result;
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;

mod allocate;
mod attributes;
mod compress;
mod copy_range;
mod create;
mod detect_zeroes;
mod folders;
mod fsync;
mod full;
mod lock;
mod mmap;
mod others;
mod punch;
mod rename;
mod special;
mod status;
mod truncate;
mod unlink;
mod write;
mod zero;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// An empty folder, mounted.
fn empty() -> Result<Rig> {
    Rig::filled(|_| Ok(()))
}

/// Bytes without a zero among them.
fn bytes(seed: u64, length: u64) -> Result<Vec<u8>> {
    Ok(Random::new(seed).bytes(usize::try_from(length)?))
}
