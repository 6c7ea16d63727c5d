//! `lacuna resize`: grows a volume with a hole, or cuts it.

use clap::Args;

use super::Global;
use super::change::{Bytes, Detail, Done, change, flushed, open};
use super::create::size;
use crate::error::{Error, ErrorKind};
use crate::remote::Remote;

#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// Bytes, or a number with K, M, G or T
    #[arg(value_parser = size)]
    size: u64,
    /// Cut the volume: what is beyond the new size is lost
    #[arg(long)]
    shrink: bool,
    #[arg(long)]
    json: bool,
}

pub fn resize(global: &Global, args: &ResizeArgs) -> anyhow::Result<()> {
    change(global, &args.location, args.json, async |remote, location| {
        let (volume, before) = open(remote, location).await?;
        if args.size < before.size && !args.shrink {
            let text = format!(
                "{location} has {} and would lose what is beyond {}: add --shrink if that is wanted; nothing was changed",
                Bytes(before.size),
                Bytes(args.size)
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let resized = flushed(remote, &volume, async |boot| {
            remote.resize(&volume, boot, args.size).await.map(drop)
        });
        let detail = Detail::Before {
            size_before: before.size,
        };
        Ok(Done::new(location, "resized", &resized.await?, detail))
    })
}
