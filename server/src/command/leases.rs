//! `lacunad leases` and `lacunad break-lease`

use std::io::Write;

use clap::Args;

use crate::control::{self, Answer};

#[derive(Debug, Args)]
pub(super) struct Leases {
    /// Print JSON: [{"volume", "name", "address", "since_unix_secs", "age_secs", "lingers_secs"}]
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: super::State,
}

#[derive(Debug, Args)]
pub(super) struct BreakLease {
    /// The volume, as clients see it: FOLDER/NAME below what is served
    volume: String,
    #[command(flatten)]
    state: super::State,
}

impl Leases {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let answer = control::ask(&self.state.folder()?, "leases")?;
        let leases = match answer {
            Some(Answer::Leases { leases }) => leases,
            Some(_) => anyhow::bail!(super::NONSENSE),
            None => anyhow::bail!("no lacunad runs on this state folder"),
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &leases)?;
            writeln!(out)?;
        } else if leases.is_empty() {
            writeln!(out, "no volume is open for writing")?;
        } else {
            for lease in &leases {
                writeln!(out, "{}: {lease}", lease.volume)?;
            }
        }
        Ok(())
    }
}

impl BreakLease {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let volume = self.volume.trim_matches('/');
        anyhow::ensure!(
            !volume.contains('\n'),
            "a name with a line break cannot be told to lacunad"
        );
        let answer = control::ask(&self.state.folder()?, &format!("break-lease {volume}"))?;
        match answer {
            Some(Answer::LeaseBroken { lease }) => {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{volume}: taken from {lease}")?;
                Ok(())
            }
            Some(_) => anyhow::bail!(super::NONSENSE),
            None => anyhow::bail!("no lacunad runs on this state folder"),
        }
    }
}
