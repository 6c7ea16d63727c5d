//! `lacunad key`

use std::io::Write;

use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(flatten)]
    state: super::State,
}

impl Key {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let identity = super::identity(&self.state.folder()?)?;
        writeln!(std::io::stdout(), "{}", identity.id())?;
        Ok(())
    }
}
