//! How fine the change times of a file system are.
//!
//! Since Linux 6.13 some file systems have multigrain timestamps (Documentation/filesystems/
//! multigrain-ts.rst): once a change time was looked at, the next change gets another one. Elsewhere
//! change times advance with the timer tick, every 1 to 10 ms, and two changes can share one.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Twice the longest timer tick of Linux (HZ=100).
const COARSE: Duration = Duration::from_millis(20);

/// Magic numbers of statfs(2) of those with FS_MGTIME in 6.13: ext4, xfs, btrfs, tmpfs.
const MULTIGRAIN: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// The tick of the file system of `dir`. A file system mounted below it may be coarser than its
/// parent; then two changes within one tick, of a volume that nobody has open, can look like one.
#[allow(
    clippy::useless_conversion,
    reason = "the type of f_type differs between architectures"
)]
pub(super) fn tick_of(dir: BorrowedFd<'_>) -> Duration {
    let multigrain = rustix::fs::fstatfs(dir)
        .ok()
        .and_then(|stat| i64::try_from(stat.f_type).ok())
        .is_some_and(|magic| MULTIGRAIN.contains(&magic));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if multigrain && at_least_6_13(&kernel) {
        Duration::ZERO
    } else {
        COARSE
    }
}

fn at_least_6_13(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 13),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        for (release, expected) in [
            ("6.13.0", true),
            ("6.18.44-x", true),
            ("7.0", true),
            ("6.9.1", false),
            ("5.19", false),
            ("", false),
        ] {
            assert_eq!(at_least_6_13(release), expected, "{release}");
        }
    }
}
