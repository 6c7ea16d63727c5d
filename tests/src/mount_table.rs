//! The mount table of this process (/proc/self/mountinfo), and taking mounts out of it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

/// One mount.
#[derive(Clone, Debug)]
pub struct Entry {
    pub mountpoint: PathBuf,
    /// `fuse.lacuna`, `ext4`, ...
    pub fs_type: String,
    pub source: OsString,
    /// Options of this mount and of its file system, comma separated.
    pub options: String,
}

/// All mounts, oldest first.
pub fn entries() -> Result<Vec<Entry>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    table
        .lines()
        .map(|line| parse(line).with_context(|| format!("mount table: {line}")))
        .collect()
}

/// The topmost mount on exactly `path`.
pub fn at(path: &Path) -> Result<Option<Entry>> {
    Ok(entries()?
        .into_iter()
        .rev()
        .find(|entry| entry.mountpoint == path))
}

/// Detaches everything mounted on or below `dir`, the newest first.
pub fn detach_below(dir: &Path) {
    let Ok(entries) = entries() else { return };
    for entry in entries
        .iter()
        .rev()
        .filter(|entry| entry.mountpoint.starts_with(dir))
    {
        detach(&entry.mountpoint);
    }
}

/// Takes `mountpoint` out of the tree at once, even while it is in use.
pub fn detach(mountpoint: &Path) {
    // Already gone is as good.
    let _ = unmount(mountpoint, UnmountFlags::DETACH);
}

fn parse(line: &str) -> Option<Entry> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let right: Vec<_> = right.split(' ').collect();
    Some(Entry {
        mountpoint: PathBuf::from(unescape(left.get(4)?)),
        fs_type: (*right.first()?).to_owned(),
        source: unescape(right.get(1)?),
        options: format!("{},{}", left.get(5)?, right.get(2)?),
    })
}

/// Spaces, tabs, newlines and backslashes are written as `\ooo`.
fn unescape(field: &str) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let decoded = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes() {
        let line = r"29 23 0:26 / /mnt/a\040b\134c ro,relatime shared:1 - fuse.lacuna host:1/x ro,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.mountpoint, Path::new(r"/mnt/a b\c"));
        assert_eq!(entry.fs_type, "fuse.lacuna");
        assert_eq!(entry.source, "host:1/x");
        assert_eq!(entry.options, "ro,relatime,ro,user_id=0");
    }
}
