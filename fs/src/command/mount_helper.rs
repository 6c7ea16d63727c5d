//! `/sbin/mount.lacuna` and `/sbin/umount.fuse`: what mount(8), fstab and umount(8) call, links to this program.
//!
//! | the helper | means |
//! |---|---|
//! | `mount.lacuna SPEC DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]` | `lacuna mount` |
//! | `umount.fuse.lacuna DIR [-flnrv] [-N NAMESPACE] [-t TYPE]` | `lacuna umount`, `-f` `--force`, `-l` `--lazy` |
//! | `umount.fuse`, the same | that if DIR is a mount of ours, else `umount -i` with the same arguments |
//!
//! umount(8) names its helper after the type in the mount table, `fuse.lacuna`; but of an absolute path it asks
//! statfs(2) (libmount, `lookup_umount_fs_by_statfs`), which knows no more than `fuse`. Without a helper it
//! returns when the kernel has unmounted, before the daemon has saved the rest. The helper itself calls the
//! kernel, or fusermount3, or `umount -i`, none of which call helpers: nothing comes back here.

use std::ffi::OsString;
use std::path::Path;

/// Names under which the program is a helper.
const MOUNT_NAMES: [&str; 2] = ["mount.lacuna", "mount.fuse.lacuna"];
const UMOUNT_NAMES: [&str; 2] = ["umount.lacuna", "umount.fuse.lacuna"];
const UMOUNT_ANY_NAME: &str = "umount.fuse";

/// What a command line means.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// The arguments of `lacuna`, its name first.
    Lacuna(Vec<OsString>),
    /// The arguments of umount(8), for a mount of somebody else.
    Umount(Vec<OsString>),
    /// A dry run.
    Nothing,
}

/// What the arguments of this program, or of a helper, mean; `is_ours` tells if something of ours is mounted
/// there.
pub fn call(given: Vec<OsString>, is_ours: impl Fn(&Path) -> bool) -> Call {
    let name = given.first().and_then(|name| Path::new(name).file_name());
    let is = |one: &str| name.is_some_and(|name| name == one);
    if MOUNT_NAMES.into_iter().any(is) {
        return translate("mount", "sfnv", given, |flag| (flag != 'f').then_some(None));
    }
    if is(UMOUNT_ANY_NAME) && !given.get(1).is_some_and(|dir| is_ours(Path::new(dir))) {
        let rest = given.into_iter().skip(1);
        return Call::Umount(std::iter::once("-i".into()).chain(rest).collect());
    }
    if is(UMOUNT_ANY_NAME) || UMOUNT_NAMES.into_iter().any(is) {
        return translate("umount", "flnrv", given, |flag| {
            Some(match flag {
                'f' => Some("--force"),
                'l' => Some("--lazy"),
                _ => None,
            })
        });
    }
    Call::Lacuna(given)
}

/// Rewrites the arguments of a helper with these flags; `meaning` gives the option of one, if it has one, or
/// says that nothing is to be done.
fn translate(
    command: &str,
    known: &str,
    given: Vec<OsString>,
    meaning: impl Fn(char) -> Option<Option<&'static str>>,
) -> Call {
    let mut arguments: Vec<OsString> = ["lacuna", command].map(OsString::from).into();
    let mut places = Vec::new();
    let mut rest = given.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => arguments.extend([Some(argument), rest.next()].into_iter().flatten()),
            Some("-N" | "-t") => drop(rest.next()),
            Some(flags)
                if flags.len() > 1
                    && flags.starts_with('-')
                    && flags[1..].chars().all(|flag| known.contains(flag)) =>
            {
                for flag in flags[1..].chars() {
                    let Some(option) = meaning(flag) else {
                        return Call::Nothing;
                    };
                    arguments.extend(option.map(OsString::from));
                }
            }
            // Anything else is a place, or an error that the command reports.
            _ => places.push(argument),
        }
    }
    arguments.extend(places);
    Call::Lacuna(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Call {
        let given = words.iter().map(OsString::from).collect();
        call(given, |dir| dir == Path::new("/mnt"))
    }

    fn words(words: &[&str]) -> Call {
        Call::Lacuna(words.iter().map(OsString::from).collect())
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
        assert_eq!(run(&["mount.lacuna", "h", "/m", "-fv"]), Call::Nothing);
    }

    #[test]
    fn what_umount_passes_becomes_an_unmount() {
        assert_eq!(
            run(&["/sbin/umount.fuse.lacuna", "/mnt", "-nv", "-t", "fuse.lacuna"]),
            words(&["lacuna", "umount", "/mnt"])
        );
        assert_eq!(
            run(&["umount.lacuna", "/mnt", "-lr", "-f", "-N", "/proc/1/ns/mnt"]),
            words(&["lacuna", "umount", "--lazy", "--force", "/mnt"])
        );
    }

    #[test]
    fn mounts_of_others_are_left_to_umount() {
        assert_eq!(
            run(&["umount.fuse", "/mnt", "-n"]),
            words(&["lacuna", "umount", "/mnt"])
        );
        let other = ["-i", "/other", "-l"].map(OsString::from).into();
        assert_eq!(run(&["/sbin/umount.fuse", "/other", "-l"]), Call::Umount(other));
        assert_eq!(run(&["umount.fuse"]), Call::Umount(vec!["-i".into()]));
    }

    #[test]
    fn under_its_own_name_nothing_changes() {
        assert_eq!(
            run(&["lacuna", "mount", "-f", "h"]),
            words(&["lacuna", "mount", "-f", "h"])
        );
    }
}
