//! Real mounts over a link that delays, loses, cuts and moves: what tools see is what they see without it.

mod address;
mod cut;
mod emulator;
mod far;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
