//! `lacuna rm`: removes a volume or an empty folder.

use clap::Args;
use lacuna_transport::attr::NodeKind;

use super::Global;
use super::change::{Detail, Done, change};
use crate::error::{Error, ErrorKind};
use crate::remote::Remote;

#[derive(Debug, Args)]
pub struct RmArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// Remove a folder, which must be empty
    #[arg(long)]
    folder: bool,
    #[arg(long)]
    json: bool,
}

pub fn rm(global: &Global, args: &RmArgs) -> anyhow::Result<()> {
    change(global, &args.location, args.json, async |remote, location| {
        let attr = remote.stat(&location.path).await?;
        let is_folder = attr.kind == NodeKind::Folder;
        let wrong = match (is_folder, args.folder) {
            (true, false) => Some("is a folder: add --folder to remove it, if it is empty"),
            (false, true) => Some("is a volume, not a folder: leave --folder out to remove it"),
            (true, true) | (false, false) => None,
        };
        if let Some(wrong) = wrong {
            return Err(Error::new(ErrorKind::Invalid, format!("{location} {wrong}")));
        }
        let removed = remote.remove(&location.path, is_folder, Some(attr.id)).await;
        removed.map_err(|error| match error.kind() {
            ErrorKind::NotEmpty => Error::new(
                ErrorKind::NotEmpty,
                format!("{location} is not empty: remove what is in it first"),
            ),
            _ => error,
        })?;
        remote.flush_folder(&location.path.parent()).await?;
        Ok(Done::new(location, "removed", &attr, Detail::Nothing {}))
    })
}
