//! A connection for one command.

use std::time::Duration;

use super::Global;
use crate::client::connect::connect;
use crate::compress::Compress;
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::memory::Division;
use crate::remote::quic::QuicRemote;
use crate::state::StateDir;

/// Connects to the server of a location, makes a request, and says goodbye.
pub(super) fn ask<T>(
    global: &Global,
    location: &str,
    deadline: Duration,
    request: impl AsyncFnOnce(&QuicRemote, &Location) -> Result<T>,
) -> anyhow::Result<T> {
    let location = Location::parse(location).map_err(anyhow::Error::msg)?;
    let state = StateDir::find(global.state.clone())?;
    block_on(async {
        let (link, _events) = connect(
            &state,
            &location,
            Compress::Auto,
            &Division::default(),
            Some(deadline),
        )
        .await?;
        let remote = QuicRemote::new(link);
        let result = with_deadline(tokio::time::timeout(deadline, request(&remote, &location)).await);
        remote.link().close_and_wait().await;
        Ok(result?)
    })
}

/// Runs `work` on a runtime of one thread, for short commands.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// A failed call, for the user.
pub fn with_deadline<T>(result: Result<Result<T>, tokio::time::error::Elapsed>) -> Result<T> {
    result.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::TimedOut,
            "the server did not answer in time",
        ))
    })
}
