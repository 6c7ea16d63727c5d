//! Landlock: which files the daemon can still reach once it serves.
//!
//! | what | rights |
//! |---|---|
//! | the exported folder | all that a client can ask for: files and folders, no links, no devices, no execution; only reading if it is read-only |
//! | the state folder | the same, and its control socket |
//! | each pipe of a stream | writing |
//! | /dev/urandom, /dev/null | reading; and writing |
//!
//! TCP and signals to other processes are refused too. The second wall: names are resolved below the exported folder
//! already (`openat2`), and this holds if that did not. Descriptors that were open before keep what they can: the
//! devices, the socket. Rights are of inodes, so a pipe that is replaced is not ours any more, and what a folder is
//! called does not matter. File systems mounted below the export belong to it.
//!
//! Not seen by Landlock: stat(2), chmod(2), chown(2), utimensat(2), which go by descriptors that `openat2` gave.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use crate::error::{Error, ErrorKind, Result};

/// The latest that is asked for; what the kernel does not know of it is left out.
const ABI_MAX: ABI = ABI::V6;
/// Linux 5.19. Before that, renaming between folders is refused to whoever uses Landlock at all.
const ABI_MIN: ABI = ABI::V2;

/// What stays within reach.
#[derive(Debug)]
pub struct Reach<'a> {
    pub export: BorrowedFd<'a>,
    pub read_only: bool,
    pub state: &'a Path,
    pub pipes: &'a [PathBuf],
}

/// How much of it the kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    All,
    /// An older kernel: what it knows.
    Files,
    Nothing,
}

fn reading() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

fn changing() -> BitFlags<AccessFs> {
    reading()
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
        })
}

/// Takes all else from the calling thread and those it starts later. Implies no new privileges.
pub fn restrict(reach: &Reach<'_>) -> Result<Hold> {
    let Some(rules) = begin()? else {
        return Ok(Hold::Nothing);
    };
    let export = if reach.read_only { reading() } else { changing() };
    let state = open(reach.state)?;
    let mut rules = rules
        .add_rule(PathBeneath::new(reach.export, export))
        .and_then(|rules| rules.add_rule(PathBeneath::new(state, changing() | AccessFs::MakeSock)))
        .map_err(failed)?;
    for pipe in reach.pipes {
        let rule = PathBeneath::new(open(pipe)?, AccessFs::WriteFile);
        rules = rules.add_rule(rule).map_err(failed)?;
    }
    let both = AccessFs::ReadFile | AccessFs::WriteFile;
    for (device, access) in [("/dev/urandom", AccessFs::ReadFile.into()), ("/dev/null", both)] {
        // A container may lack it, and then nothing opens it.
        if let Ok(device) = PathFd::new(device) {
            rules = rules.add_rule(PathBeneath::new(device, access)).map_err(failed)?;
        }
    }
    let status = rules.restrict_self().map_err(failed)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Hold::All,
        RulesetStatus::PartiallyEnforced => Hold::Files,
        RulesetStatus::NotEnforced => Hold::Nothing,
    })
}

/// `None` where the kernel knows too little of it.
fn begin() -> Result<Option<RulesetCreated>> {
    let needed = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI_MIN));
    let Ok(rules) = needed else {
        return Ok(None);
    };
    rules
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_MAX))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI_MAX)))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map(Some)
        .map_err(failed)
}

fn open(path: &Path) -> Result<PathFd> {
    PathFd::new(path).map_err(|error| {
        let text = format!("cannot open {} to keep it within reach", path.display());
        Error::with_source(ErrorKind::Io, text, error)
    })
}

fn failed(error: RulesetError) -> Error {
    Error::with_source(
        ErrorKind::Io,
        "cannot restrict the files within reach (Landlock)",
        error,
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::ErrorKind as IoKind;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A folder `served`, one `state`, and one `other` beside them, each with a file.
    fn beds() -> tempfile::TempDir {
        let bed = tempfile::tempdir().unwrap();
        for name in ["served", "state", "other"] {
            fs::create_dir(bed.path().join(name)).unwrap();
            fs::write(bed.path().join(name).join("file"), "kept").unwrap();
        }
        bed
    }

    /// Runs `work`, with the bed, in a thread that reaches `served`, `state` and `pipes` only.
    fn restricted(bed: &Path, read_only: bool, pipes: &[PathBuf], work: impl FnOnce(&Path) + Send) {
        let dir = File::open(bed.join("served")).unwrap();
        let reach = Reach {
            export: dir.as_fd(),
            read_only,
            state: &bed.join("state"),
            pipes,
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                assert_eq!(restrict(&reach).unwrap(), Hold::All, "this needs Linux 6.12");
                work(bed);
            });
            thread.join().unwrap();
        });
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == IoKind::PermissionDenied)
    }

    #[test]
    fn what_lies_outside_is_out_of_reach() {
        let bed = beds();
        restricted(bed.path(), false, &[], |bed| {
            let other = bed.join("other");
            assert!(refused(fs::read(other.join("file"))));
            assert!(refused(fs::read("/etc/passwd")));
            assert!(refused(fs::read_dir(&other)));
            assert!(refused(File::create(other.join("new"))));
            assert!(refused(fs::remove_file(other.join("file"))));
            assert!(refused(OpenOptions::new().write(true).open(other.join("file"))));
            assert!(refused(fs::rename(bed.join("served/file"), other.join("new"))));
            assert!(refused(std::net::TcpListener::bind("127.0.0.1:0")));
        });
        assert_eq!(fs::read(bed.path().join("other/file")).unwrap(), b"kept");
    }

    #[test]
    fn what_is_served_can_be_changed() {
        let bed = beds();
        restricted(bed.path(), false, &[], |bed| {
            let served = bed.join("served");
            fs::create_dir(served.join("folder")).unwrap();
            fs::rename(served.join("file"), served.join("folder/moved")).unwrap();
            File::create(served.join("folder/moved")).unwrap();
            fs::remove_file(served.join("folder/moved")).unwrap();
            fs::remove_dir(served.join("folder")).unwrap();
            assert!(refused(std::os::unix::fs::symlink("/", served.join("link"))));
            assert!(refused(UnixListener::bind(served.join("socket"))));
            UnixListener::bind(bed.join("state/socket")).unwrap();
            fs::remove_file(bed.join("state/socket")).unwrap();
            File::open("/dev/urandom").unwrap();
        });
    }

    #[test]
    fn a_read_only_export_can_only_be_read() {
        let bed = beds();
        restricted(bed.path(), true, &[], |bed| {
            let file = bed.join("served/file");
            assert_eq!(fs::read(&file).unwrap(), b"kept");
            assert!(refused(OpenOptions::new().write(true).open(&file)));
            assert!(refused(File::create(bed.join("served/new"))));
            assert!(refused(fs::remove_file(&file)));
            fs::write(bed.join("state/new"), "written").unwrap();
        });
    }

    #[test]
    fn a_pipe_can_be_written_and_what_is_beside_it_cannot() {
        let bed = beds();
        let pipe = bed.path().join("other/file");
        restricted(bed.path(), false, std::slice::from_ref(&pipe), |bed| {
            OpenOptions::new().write(true).open(&pipe).unwrap();
            assert!(refused(fs::read(&pipe)));
            assert!(refused(File::create(bed.join("other/new"))));
        });
    }
}
