//! `lacunad revoke`

use std::io::Write;

use clap::Args;

use crate::access::AllowList;

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The client's key or name.
    #[arg(value_name = "KEY|NAME")]
    client: String,
    #[command(flatten)]
    state: super::State,
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let state = self.state.folder()?;
        let entry = AllowList::change(&state, |list| list.revoke(&self.client))?;
        let closed = super::reload(&state)?.unwrap_or(0);
        writeln!(
            std::io::stdout(),
            "{} ({}) may no longer connect; {closed} sessions closed",
            entry.name,
            entry.key
        )?;
        Ok(())
    }
}
