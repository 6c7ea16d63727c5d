//! What goes wrong in earnest, under tools that know nothing of it: daemons that are killed or suspended, mounts that
//! are taken away by force, volumes that are deleted or cut behind the server's back.
//!
//! `LACUNA_KILLS=N` kills so often under each tool (5 by default), `LACUNA_SEED=N` draws other moments,
//! `LACUNA_SUSPENDED=SECONDS` suspends the daemons for so long (18 by default, beyond the idle timeout of a session).

use anyhow::Result;
use lacuna_tests::variable;

mod behind;
mod client;
mod forced;
mod server;
mod suspended;
mod tools;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn kills() -> Result<u64> {
    variable::number_or("LACUNA_KILLS", 5)
}

fn seed() -> Result<u64> {
    variable::number_or("LACUNA_SEED", 1)
}
