//! `lacuna punch` and `lacuna wipe`: a range of a volume, or all of it, becomes a hole or zeros.

use clap::Args;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::Reshape;

use super::Global;
use super::change::{Bytes, Detail, Done, change, flushed, open};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::remote::Remote;
use crate::size;

#[derive(Debug, Args)]
pub struct PunchArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// Where the hole begins: bytes, or a number with K, M, G or T
    #[arg(long, value_name = "N", value_parser = size::parse)]
    offset: u64,
    /// How long it is
    #[arg(long, value_name = "N", value_parser = size::parse)]
    length: u64,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct WipeArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    /// Where to begin, else at the start: bytes, or a number with K, M, G or T
    #[arg(long, value_name = "N", value_parser = size::parse)]
    offset: Option<u64>,
    /// How much, else to the end
    #[arg(long, value_name = "N", value_parser = size::parse)]
    length: Option<u64>,
    /// Make zeros that stay allocated, where the storage can, instead of a hole
    #[arg(long)]
    zero: bool,
    #[arg(long)]
    json: bool,
}

pub fn punch(global: &Global, args: &PunchArgs) -> anyhow::Result<()> {
    let what = ("punched", Reshape::Punch);
    let range = (Some(args.offset), Some(args.length));
    reshape(global, &args.location, args.json, what, range)
}

pub fn wipe(global: &Global, args: &WipeArgs) -> anyhow::Result<()> {
    let what = if args.zero {
        ("zeroed", Reshape::Zero)
    } else {
        ("wiped", Reshape::Punch)
    };
    reshape(
        global,
        &args.location,
        args.json,
        what,
        (args.offset, args.length),
    )
}

fn reshape(
    global: &Global,
    location: &str,
    json: bool,
    (action, how): (&'static str, Reshape),
    (offset, length): (Option<u64>, Option<u64>),
) -> anyhow::Result<()> {
    change(global, location, json, async |remote, location| {
        let (volume, attr) = open(remote, location).await?;
        let range = range_within(location, attr.size, offset, length)?;
        let reshaped = flushed(remote, &volume, async |boot| {
            if range.is_empty() {
                return Ok(());
            }
            remote.reshape(&volume, boot, how, range, false).await.map(drop)
        });
        let detail = Detail::Range {
            offset: range.start(),
            length: range.len(),
        };
        Ok(Done::new(location, action, &reshaped.await?, detail))
    })
}

/// The range that was asked for, if all of it lies in a volume of this size. Empty only for an empty volume
/// that is wiped as a whole.
fn range_within(
    location: &Location,
    size: u64,
    offset: Option<u64>,
    length: Option<u64>,
) -> Result<ByteRange> {
    let bad = |why: String| {
        let text = format!("{location}: {why}; nothing was changed");
        Err(Error::new(ErrorKind::Invalid, text))
    };
    let start = offset.unwrap_or(0);
    let Some(length) = length else {
        return match ByteRange::new(start, size) {
            Some(rest) if start == 0 || !rest.is_empty() => Ok(rest),
            _ => bad(format!(
                "there is nothing from {} on: the volume has {}",
                Bytes(start),
                Bytes(size)
            )),
        };
    };
    if length == 0 {
        return bad("a length of 0 is no range".to_owned());
    }
    match ByteRange::at(start, length) {
        None => bad(format!(
            "{start} and {length} bytes are more than any volume can have"
        )),
        Some(range) if range.end() > size => bad(format!(
            "the range ends at {}, but the volume has {}",
            Bytes(range.end()),
            Bytes(size)
        )),
        Some(range) => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inside_or_refused() {
        let location = Location::parse("host/volume").unwrap();
        let range = |size, offset, length| {
            range_within(&location, size, offset, length).map(|range| (range.start(), range.end()))
        };
        assert_eq!(range(10, None, None).unwrap(), (0, 10));
        assert_eq!(range(0, None, None).unwrap(), (0, 0));
        assert_eq!(range(10, Some(3), None).unwrap(), (3, 10));
        assert_eq!(range(10, None, Some(4)).unwrap(), (0, 4));
        assert_eq!(range(10, Some(3), Some(7)).unwrap(), (3, 10));
        for (offset, length) in [
            (Some(10), None),
            (Some(11), None),
            (Some(u64::MAX), None),
            (None, Some(0)),
            (None, Some(11)),
            (Some(4), Some(7)),
            (Some(10), Some(1)),
            (Some(u64::MAX), Some(1)),
            (Some(1), Some(u64::MAX)),
        ] {
            let error = range(10, offset, length).unwrap_err().to_string();
            assert!(error.contains("nothing was changed"), "{error}");
        }
        let error = range(10, Some(4), Some(7)).unwrap_err().to_string();
        assert!(
            error.contains("11 bytes") && error.contains("10 bytes"),
            "{error}"
        );
    }
}
