//! What applications see through a real mount: one module per call or behaviour.

use lacuna_tests::direct::{aligned, open_direct};

mod access;
mod attributes;
mod changes;
mod compress;
mod direct;
mod fetching;
mod folders;
mod holes;
mod huge;
mod mapped;
mod memory;
mod million;
mod read;
mod read_only;
mod restart;
mod seek;
mod space;
mod status;
mod unmount;
mod xattr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
