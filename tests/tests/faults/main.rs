//! What goes wrong in earnest, under tools that know nothing of it: daemons that are killed or suspended, mounts that
//! are taken away by force, volumes that are deleted or cut behind the server's back.
//!
//! `LACUNA_KILLS=N` kills so often under each tool (5 by default), `LACUNA_SEED=N` draws other moments,
//! `LACUNA_SUSPENDED=SECONDS` suspends the daemons for so long (18 by default, beyond the idle timeout of a session).

use std::env;

use anyhow::{Context, Result};

mod behind;
mod client;
mod forced;
mod server;
mod suspended;
mod tools;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn number_from(variable: &str, usual: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(usual),
    }
}

fn kills() -> Result<u64> {
    number_from("LACUNA_KILLS", 5)
}

fn seed() -> Result<u64> {
    number_from("LACUNA_SEED", 1)
}
