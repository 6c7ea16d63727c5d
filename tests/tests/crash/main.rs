//! `kill -9` under a writer: of the server, which comes back, and of the client, which is mounted again.
//!
//! `LACUNA_KILLS=N` kills the server so often (100 by default), `LACUNA_SEED=N` draws other operations.

use std::env;

use anyhow::{Context, Result};

mod client;
mod no_server;
mod server;
mod writer;

fn number_from(variable: &str, usual: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(usual),
    }
}
