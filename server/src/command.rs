//! The commands of `lacunad`. Each prints what it did, or fails with one line that says what to do.

mod allow;
mod clients;
mod key;
mod leases;
mod revoke;
mod serve;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgAction, Args, Parser, Subcommand};
use lacuna_transport::quic::identity::Identity;

use crate::confine::user;
use crate::control::{self, Answer};
use crate::state;

/// Serves the files of a folder as volumes to `lacuna` clients.
#[derive(Debug, Parser)]
#[command(name = "lacunad", version, arg_required_else_help = true)]
pub struct Cli {
    /// More of the log on standard error (-v: requests, -vv: everything). LACUNA_LOG overrides it.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what lies below a folder.
    Serve(serve::Serve),
    /// Print this server's identity; the first call creates it.
    Key(key::Key),
    /// Admit a client, or change what it may do. Takes effect at once.
    Allow(allow::Allow),
    /// Admit a client no longer, and close its live sessions.
    Revoke(revoke::Revoke),
    /// Print who may connect and who is connected.
    Clients(clients::Clients),
    /// Print which volumes are open for writing, and by whom.
    Leases(leases::Leases),
    /// Take a volume away from the client that writes to it: what it sends from then on is refused.
    BreakLease(leases::BreakLease),
}

/// Where identity, allow list and control socket are.
#[derive(Debug, Args)]
struct State {
    /// Folder for identity and allow list [default: $LACUNA_STATE, else /var/lib/lacunad as root,
    /// else $XDG_STATE_HOME/lacunad or ~/.local/state/lacunad]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl State {
    /// The folder, to be used as its owner, which root becomes.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let state = state::folder(self.state.as_deref(), None)?;
        user::become_owner(&state)?;
        Ok(state)
    }
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(command) => command.run(),
            Command::Key(command) => command.run(),
            Command::Allow(command) => command.run(),
            Command::Revoke(command) => command.run(),
            Command::Clients(command) => command.run(),
            Command::Leases(command) => command.run(),
            Command::BreakLease(command) => command.run(),
        }
    }
}

/// A daemon of another version, maybe.
const NONSENSE: &str = "the running lacunad answered nonsense; restart it if it was updated";

fn identity(state: &Path) -> anyhow::Result<Identity> {
    Ok(Identity::load_or_create(state)?)
}

/// Makes a running daemon apply a changed allow list. Returns how many sessions it closed; `None` if
/// none runs.
fn reload(state: &Path) -> anyhow::Result<Option<usize>> {
    let answer = control::ask(state, "reload")
        .context("the allow list was changed, but the running lacunad did not confirm it; restart it")?;
    match answer {
        Some(Answer::Reloaded { closed }) => Ok(Some(closed)),
        Some(_) => anyhow::bail!(NONSENSE),
        None => Ok(None),
    }
}
