//! Numbers from the environment, with which a person asks for another run of a test.

use std::env;
use std::str::FromStr;

use anyhow::{Context, Result};

/// What the variable says; `None` if it is not set, an error if it is something else.
pub fn number<N>(variable: &str) -> Result<Option<N>>
where
    N: FromStr,
    N::Err: std::error::Error + Send + Sync + 'static,
{
    let parse = |text: String| {
        text.parse()
            .with_context(|| format!("{variable} is not a number"))
    };
    env::var(variable).ok().map(parse).transpose()
}

/// The same, with what it usually is.
pub fn number_or<N>(variable: &str, usual: N) -> Result<N>
where
    N: FromStr,
    N::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(number(variable)?.unwrap_or(usual))
}
