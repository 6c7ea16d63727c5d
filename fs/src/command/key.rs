//! `lacuna key` and `lacuna trust`.

use clap::Args;
use lacuna_transport::quic::identity::KeyId;

use super::Global;
use crate::location::Location;
use crate::state::StateDir;

#[derive(Debug, Args)]
pub struct KeyArgs {}

#[derive(Debug, Args)]
pub struct TrustArgs {
    /// HOST[:PORT]
    server: String,
    /// sha256:… as printed by `lacunad key` on the server
    key: KeyId,
    /// Replace another key that is pinned for this server
    #[arg(long)]
    replace: bool,
}

pub fn key(global: &Global, _args: &KeyArgs) -> anyhow::Result<()> {
    let state = StateDir::find(global.state.clone())?;
    println!("{}", state.identity()?.id());
    Ok(())
}

pub fn trust(global: &Global, args: &TrustArgs) -> anyhow::Result<()> {
    let location = Location::parse(&args.server).map_err(anyhow::Error::msg)?;
    if !location.path.is_root() {
        anyhow::bail!(
            "trust a server, not a path: lacuna trust {} {}",
            location.server(),
            args.key
        );
    }
    let state = StateDir::find(global.state.clone())?;
    state.trust(&location.server(), args.key, args.replace)?;
    println!("{} is trusted with {}", location.server(), args.key);
    Ok(())
}
