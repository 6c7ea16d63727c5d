//! `lacuna pull`: a volume into a file, a block device or a pipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::transfer::{Format, Moved, TransferArgs, how_to_go_on, run, told_to_end};
use crate::client::{Access, Client};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::transfer::local::{Kind, Local, STANDARD};
use crate::transfer::pull::{Compare, Pull, pull as pull_range};
use crate::transfer::records::RecordTarget;
use crate::transfer::target::{Target, raw};
use crate::transfer::{Tally, verify};

#[derive(Debug, Args)]
pub struct PullArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// A file, a block device, a FIFO, or - for the standard output
    target: PathBuf,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub fn pull(global: &Global, args: &PullArgs) -> anyhow::Result<()> {
    let to_stderr = args.target == Path::new(STANDARD);
    run(
        global,
        &args.location,
        &args.transfer,
        to_stderr,
        async |client, location, tally| pull_volume(client, location, args, tally).await,
    )
}

async fn pull_volume(
    client: &Client,
    location: &Location,
    args: &PullArgs,
    tally: &Arc<Tally>,
) -> Result<Moved> {
    let options = &args.transfer;
    let volume = client.open_path(&location.path, Access::Read).await?;
    let attr = volume.attr();
    let range = options.part().of_volume(attr.size)?;
    // Opening a FIFO waits for whoever reads it.
    let path = args.target.clone();
    let local = tokio::task::spawn_blocking(move || Local::target(&path));
    let local = tokio::select! {
        local = local => local.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))??,
        () = told_to_end() => return Err(Error::new(ErrorKind::Interrupted, "interrupted: nothing was pulled")),
    };
    let name = local.name.clone();
    let compare = match options.compare() {
        Some(_) if local.kind == Kind::Stream || options.format == Format::Lacuna => {
            return Err(options.no_compare(&name));
        }
        Some(blocks) => {
            let old = local
                .file
                .try_clone()
                .map_err(|error| local.failed("open", &error))?;
            Some(Compare {
                old,
                old_bytes: local.size,
                blocks,
            })
        }
        None => None,
    };
    let digest = options.digest(range.len().saturating_sub(attr.allocated_bytes));
    let target = target_for(local, options, range.len())?;
    let job = Pull {
        range,
        digest,
        compare,
        tally: Arc::clone(tally),
    };
    let digest = pull_range(&volume, job, target, &name, told_to_end())
        .await
        .map_err(|error| how_to_go_on(error, tally, &name))?;
    if volume.attr().base != attr.base {
        tracing::warn!(%location, "was written while it was pulled: what came may be half old");
    }
    let verified = options.verify;
    if let Some(here) = digest.filter(|_| verified) {
        let there = verify::digest_of(&volume, range, here.kind).await?;
        verify::compare(here, there, &name)?;
    }
    Ok(Moved {
        action: "pulled",
        digest,
        verified,
    })
}

fn target_for(local: Local, options: &TransferArgs, bytes: u64) -> Result<Box<dyn Target>> {
    match options.format {
        Format::Raw => {
            if local.kind == Kind::Device && local.size < bytes {
                let text = format!(
                    "{} has {} bytes, fewer than the {bytes} to be pulled; nothing was changed",
                    local.name, local.size
                );
                return Err(Error::new(ErrorKind::NoSpace, text));
            }
            Ok(raw(local, options.sparse()))
        }
        Format::Lacuna => {
            if local.kind == Kind::Device {
                let text = format!(
                    "{} is a block device: records go into a file or a pipe",
                    local.name
                );
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            let begun = match local.kind {
                Kind::Regular => local.file.set_len(0),
                Kind::Stream | Kind::Device => Ok(()),
            };
            let file = local.file.try_clone();
            let target = begun.and_then(|()| RecordTarget::new(file?, bytes));
            Ok(Box::new(target.map_err(|error| local.failed("write", &error))?))
        }
    }
}
