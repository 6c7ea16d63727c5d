//! `lacuna push`: a file, a block device or a pipe into a volume.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::transfer::{Format, Job, Moved, TransferArgs, how_to_go_on, run, verified};
use crate::client::{Access, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::local::{Kind, Local};
use crate::transfer::push::{Push, push as push_source};
use crate::transfer::records::RecordSource;
use crate::transfer::source::{Detect, Source, raw};
use crate::transfer::{Sparse, verify};

#[derive(Debug, Args)]
pub struct PushArgs {
    /// A file, a block device, a FIFO, or - for the standard input
    source: PathBuf,
    /// HOST[:PORT]/VOLUME; made if it is not there
    location: String,
    /// The volume ends where the source ends; without this its size stays
    #[arg(long)]
    resize: bool,
    /// Find zeros by reading all of the source: for file systems that do not tell of holes
    #[arg(long)]
    detect_zeroes: bool,
    #[command(flatten)]
    transfer: TransferArgs,
}

pub fn push(global: &Global, args: &PushArgs) -> anyhow::Result<()> {
    run(global, &args.location, &args.transfer, false, async |job| {
        push_volume(job, args).await
    })
}

/// An open source, and what is known of it.
struct Opened {
    source: Box<dyn Source>,
    name: String,
    bytes: Option<u64>,
    hole_bytes: u64,
}

async fn push_volume(job: Job<'_>, args: &PushArgs) -> Result<Moved> {
    let (client, location, tally) = (job.client, job.location, job.tally);
    let options = &args.transfer;
    if client.is_read_only() {
        let text = format!(
            "{}: the server takes no changes from this client: it serves read-only, or it admitted this client for reading alone (`lacunad allow`)",
            location.server()
        );
        return Err(Error::new(ErrorKind::ReadOnly, text));
    }
    // Opening a FIFO waits for whoever writes it.
    let (path, part) = (args.source.clone(), options.part());
    let (format, detect) = (options.format, detect(args));
    let opened = tokio::task::spawn_blocking(move || open(&path, format, detect, part.length));
    let opened = tokio::select! {
        opened = opened => opened.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))??,
        () = job.interrupt.once() => {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted: nothing was pushed"));
        }
    };
    let there = match client.open_path(&location.path, Access::ReadWrite).await {
        Ok(volume) => Some(volume),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let plan = part.of_source(opened.bytes, there.as_ref().map(Volume::size), args.resize)?;
    let volume = match there {
        Some(volume) => volume,
        None => {
            let size = if plan.exact {
                plan.range.end()
            } else {
                plan.range.start()
            };
            client.create_path(&location.path, size).await?
        }
    };
    let push = Push {
        plan,
        sparse: options.sparse(),
        digest: options.digest(opened.hole_bytes),
        compare: options.compare(),
        tally: Arc::clone(tally),
    };
    let place = location.to_string();
    let pushed = push_source(&volume, push, opened.source, &opened.name, job.interrupt.once())
        .await
        .map_err(|error| how_to_go_on(error, tally, &place, true))?;
    if let Some(here) = pushed.digest.filter(|_| options.verify) {
        let compared = async {
            let there = verify::digest_of(&volume, pushed.range, here.kind).await?;
            verify::compare(here, there, &place)
        };
        verified(&job, compared).await?;
    }
    Ok(Moved {
        action: "pushed",
        digest: pushed.digest,
        verified: options.verify,
    })
}

fn detect(args: &PushArgs) -> Detect {
    match args.transfer.sparse() {
        _ if args.detect_zeroes => Detect::Everywhere,
        Sparse::Auto => Detect::Unmapped,
        Sparse::Always => Detect::InData,
        Sparse::Never => Detect::Nowhere,
    }
}

fn open(path: &std::path::Path, format: Format, detect: Detect, length: Option<u64>) -> Result<Opened> {
    let local = Local::source(path)?;
    let name = local.name.clone();
    if format == Format::Lacuna {
        let failed = |error: std::io::Error| local.failed("read", &error);
        let file = local.file.try_clone().map_err(failed)?;
        let source = RecordSource::open(file).map_err(failed)?;
        let bytes = source.size();
        return Ok(Opened {
            source: Box::new(source),
            name,
            bytes,
            // They are not told before they come.
            hole_bytes: bytes.unwrap_or(u64::MAX),
        });
    }
    let (bytes, hole_bytes) = match local.kind {
        Kind::Regular => {
            let blocks = local
                .file
                .metadata()
                .map_err(|error| local.failed("look at", &error))?;
            let allocated = blocks.blocks().saturating_mul(512);
            (Some(local.size), local.size.saturating_sub(allocated))
        }
        Kind::Device => (Some(local.size), 0),
        Kind::Stream => (None, 0),
    };
    let bytes_max = length.unwrap_or(u64::MAX);
    Ok(Opened {
        source: raw(local, detect, bytes_max),
        name,
        bytes,
        hole_bytes,
    })
}
