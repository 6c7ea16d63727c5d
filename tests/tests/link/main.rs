//! Real mounts over a link that delays, loses, cuts and moves: what tools see is what they see without it.

mod emulator;
