//! `kill -9` under a writer: of the server, which comes back, and of the client, which is mounted again.
//!
//! `LACUNA_KILLS=N` kills the server so often (100 by default), `LACUNA_SEED=N` draws other operations.

mod client;
mod no_server;
mod server;
mod writer;
