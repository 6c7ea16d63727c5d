//! `lacuna create`: a new volume, all hole.

use clap::Args;
use lacuna_transport::attr::NewNode;
use lacuna_transport::limits::VOLUME_BYTES_MAX;

use super::Global;
use super::change::{Bytes, Detail, Done, change, flushed};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::remote::quic::QuicRemote;
use crate::remote::{Remote, SharedPath};
use crate::size;

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// Bytes, or a number with K, M, G or T
    #[arg(value_parser = size)]
    size: u64,
    /// Permissions of the new volume, octal; the umask is not taken off
    #[arg(long, default_value = "0644", value_parser = mode)]
    mode: u32,
    #[arg(long)]
    json: bool,
}

pub fn create(global: &Global, args: &CreateArgs) -> anyhow::Result<()> {
    change(global, &args.location, args.json, async |remote, location| {
        create_at(remote, location, args).await
    })
}

async fn create_at(remote: &QuicRemote, location: &Location, args: &CreateArgs) -> Result<Done> {
    let path = SharedPath::new(location.path.clone());
    let node = NewNode {
        mode: args.mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let created = remote.create(&path, node, true).await;
    let (volume, attr) = created.map_err(|error| match error.kind() {
        ErrorKind::Exists => Error::new(
            ErrorKind::Exists,
            format!("{location} exists already, and was left as it is"),
        ),
        _ => error,
    })?;
    let filled = flushed(remote, &volume, async |boot| {
        remote.resize(&volume, boot, args.size).await.map(drop)
    });
    let attr = match filled.await {
        Ok(attr) => attr,
        Err(error) => {
            // Half made is worse than not made. Whether that works does not change what went wrong.
            let removed = remote.remove(&location.path, false, Some(attr.id)).await;
            tracing::debug!(?removed, "the volume could not get its size");
            return Err(error);
        }
    };
    remote.flush_folder(&location.path.parent()).await?;
    Ok(Done::new(location, "created", &attr, Detail::Nothing {}))
}

/// The size of a volume, as typed.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes > VOLUME_BYTES_MAX {
        let max = Bytes(VOLUME_BYTES_MAX);
        return Err(format!("{bytes} bytes are more than a volume can have, {max}"));
    }
    Ok(bytes)
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    // from_str_radix takes a sign too.
    let mode = mode.filter(|mode| *mode <= 0o7777 && !text.starts_with('+'));
    mode.ok_or_else(|| format!("'{text}' is not a mode: write it in octal, as 0644"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("7777"), Ok(0o7777));
        for bad in ["", "10000", "8", "-1", "+1", "0o644", "rw"] {
            assert!(mode(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn sizes_fit_an_off_t() {
        assert_eq!(size("9223372036854775807"), Ok(VOLUME_BYTES_MAX));
        assert!(size("9223372036854775808").is_err());
    }
}
