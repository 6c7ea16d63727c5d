//! `lacunad allow`

use std::io::Write;

use clap::Args;
use lacuna_transport::quic::identity::KeyId;

use crate::access::{Access, AllowList};

#[derive(Debug, Args)]
pub(super) struct Allow {
    /// The client's key, as 'lacuna key' prints it there: sha256:...
    key: KeyId,
    /// What to call this client [default: the name it has, else the start of its key]
    #[arg(long)]
    name: Option<String>,
    /// It may not change anything.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    state: super::State,
}

impl Allow {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let state = self.state.folder()?;
        let access = if self.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let entry = AllowList::change(&state, |list| list.allow(self.key, self.name.as_deref(), access))?;
        // A client that lost the right to write must connect again.
        super::reload(&state)?;
        let rights = match entry.access {
            Access::ReadWrite => "read and write",
            Access::ReadOnly => "read",
        };
        writeln!(std::io::stdout(), "{} ({}) may {rights}", entry.name, entry.key)?;
        Ok(())
    }
}
