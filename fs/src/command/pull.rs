//! `lacuna pull`: a volume into a file, a block device or a pipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::transfer::{Format, Job, Moved, TransferArgs, how_to_go_on, run, verified};
use crate::client::Access;
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::local::{Kind, Local, STANDARD};
use crate::transfer::pull::{Compare, Pull, pull as pull_range};
use crate::transfer::records::RecordTarget;
use crate::transfer::target::{Target, raw};
use crate::transfer::verify;

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
    run(
        global,
        &args.location,
        &args.transfer,
        is_standard_output(&args.target),
        async |job| pull_volume(job, args).await,
    )
}

/// What is said must not go where the bytes go: `-`, or another name of it such as /dev/stdout.
fn is_standard_output(target: &Path) -> bool {
    if target == Path::new(STANDARD) {
        return true;
    }
    let (Ok(target), Ok(output)) = (
        rustix::fs::stat(target),
        rustix::fs::fstat(rustix::stdio::stdout()),
    ) else {
        return false;
    };
    // A terminal, or /dev/null: both may go there.
    let is_node =
        rustix::fs::FileType::from_raw_mode(output.st_mode) == rustix::fs::FileType::CharacterDevice;
    !is_node && (target.st_dev, target.st_ino) == (output.st_dev, output.st_ino)
}

async fn pull_volume(job: Job<'_>, args: &PullArgs) -> Result<Moved> {
    let options = &args.transfer;
    let volume = job.client.open_path(&job.location.path, Access::Read).await?;
    let attr = volume.attr();
    let range = options.part().of_volume(attr.size)?;
    let shown = args.target.display().to_string();
    if options.compare().is_some() && options.format == Format::Lacuna {
        return Err(options.no_compare(&shown));
    }
    // Opening a FIFO waits for whoever reads it.
    let path = args.target.clone();
    let local = tokio::task::spawn_blocking(move || Local::target(&path));
    let local = tokio::select! {
        local = local => local.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))??,
        () = job.interrupt.once() => {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted: nothing was pulled"));
        }
    };
    let can_resume = local.kind != Kind::Stream && options.format == Format::Raw;
    let compare = match options.compare() {
        Some(_) if !can_resume => return Err(options.no_compare(&shown)),
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
    let pull = Pull {
        range,
        sparse: options.sparse(),
        digest,
        compare,
        tally: Arc::clone(job.tally),
    };
    let digest = pull_range(&volume, pull, target, &shown, job.interrupt.once())
        .await
        .map_err(|error| how_to_go_on(error, job.tally, &shown, can_resume))?;
    if volume.attr().base != attr.base {
        tracing::warn!(location = %job.location, "was written while it was pulled: what came may be half old");
    }
    if let Some(here) = digest.filter(|_| options.verify) {
        let compared = async {
            let there = verify::digest_of(&volume, range, here.kind).await?;
            verify::compare(here, there, &shown)
        };
        verified(&job, compared).await?;
    }
    Ok(Moved {
        action: "pulled",
        digest,
        verified: options.verify,
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
