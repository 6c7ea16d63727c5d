//! `/sbin/mount.lacuna`: what mount(8) and fstab call, a link to this program.
//!
//! `mount.lacuna SPEC DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` becomes `lacuna mount`.

use std::ffi::OsString;
use std::path::Path;

/// The name under which the program is the helper.
const NAME: &str = "mount.lacuna";

/// The arguments of `lacuna` that these of the helper mean; as they are if this is not the helper.
/// `None`: nothing is to be done (`-f`, a dry run).
pub fn arguments(given: Vec<OsString>) -> Option<Vec<OsString>> {
    let is_helper = given
        .first()
        .and_then(|name| Path::new(name).file_name())
        .is_some_and(|name| name == NAME);
    if !is_helper {
        return Some(given);
    }
    let mut arguments: Vec<OsString> = ["lacuna", "mount"].map(OsString::from).into();
    let mut places = Vec::new();
    let mut rest = given.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => arguments.extend([Some(argument), rest.next()].into_iter().flatten()),
            Some("-N" | "-t") => drop(rest.next()),
            Some(flags)
                if flags.len() > 1
                    && flags.starts_with('-')
                    && flags[1..].chars().all(|flag| "sfnv".contains(flag)) =>
            {
                if flags.contains('f') {
                    return None;
                }
            }
            // Anything else is a place, or an error that `lacuna mount` reports.
            _ => places.push(argument),
        }
    }
    arguments.extend(places);
    Some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Option<Vec<OsString>> {
        arguments(words.iter().map(OsString::from).collect())
    }

    fn words(words: &[&str]) -> Option<Vec<OsString>> {
        Some(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn what_mount_passes_becomes_a_mount() {
        let fstab = run(&[
            "/sbin/mount.lacuna",
            "host/a",
            "/mnt",
            "-sn",
            "-o",
            "rw,_netdev,cache=64M",
        ]);
        assert_eq!(
            fstab,
            words(&["lacuna", "mount", "-o", "rw,_netdev,cache=64M", "host/a", "/mnt"])
        );
        assert_eq!(
            run(&["mount.lacuna", "h", "/m", "-t", "lacuna"]),
            words(&["lacuna", "mount", "h", "/m"])
        );
        assert_eq!(run(&["mount.lacuna", "h", "/m", "-fv"]), None);
    }

    #[test]
    fn under_its_own_name_nothing_changes() {
        assert_eq!(
            run(&["lacuna", "mount", "-f", "h"]),
            words(&["lacuna", "mount", "-f", "h"])
        );
    }
}
