//! Mounting and unmounting, and what the kernel says about mounts.
//!
//! The mount is made here and not by fuser, whose own unmounting may hit another file system. Root
//! mounts by itself; others go through `fusermount3`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

/// File system type in /proc/mounts.
pub const FS_TYPE: &str = "fuse.lacuna";
/// Kernel readahead of the mount. What runs past the end of an extent into a hole stays small: with 4096 a
/// sparse copy fills twice as much page cache with zeros that nobody reads. Fetching in time is the business
/// of our own readahead, which knows the holes.
const READ_AHEAD_KB: &str = "128";
const DEVICE: &str = "/dev/fuse";

#[derive(Debug, Error)]
pub enum MountError {
    #[error("the mountpoint {} does not exist: create it with mkdir", .0.display())]
    Missing(PathBuf),
    #[error("the mountpoint {} is not a folder", .0.display())]
    NotFolder(PathBuf),
    #[error("{} is already a mountpoint ({fs_type} of {source_name}): unmount it first", path.display())]
    Taken {
        path: PathBuf,
        fs_type: String,
        source_name: String,
    },
    #[error("{} is a dead FUSE mount: run `umount -l {}` first", .0.display(), .0.display())]
    Dead(PathBuf),
    #[error("there is no {DEVICE}: run `modprobe fuse`, or give the container the device")]
    NoDevice,
    #[error("no permission to {0}: run as root, or install fusermount3 (package fuse3)")]
    NoPermission(&'static str),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("fusermount3: {0}")]
    Helper(String),
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// Shown as the source in /proc/mounts.
    pub source: String,
    /// Absolute, without links.
    pub mountpoint: PathBuf,
    pub allow_other: bool,
    pub noexec: bool,
    pub read_only: bool,
}

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    pub fs_type: String,
    pub source: String,
    /// `MAJOR:MINOR`.
    pub device: String,
}

/// All mounts this process sees, oldest first.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect())
}

/// The topmost mount exactly at `path`.
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.mountpoint == path))
}

/// The mountpoint as the kernel names it; does not touch what is mounted there, which may be dead.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    // Only a link is read here; a mountpoint is none.
    if fs::read_link(&path).is_ok() {
        return fs::canonicalize(path);
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => fs::canonicalize(path),
    }
}

/// Checks what can be checked before asking the kernel, and gives the absolute path.
pub fn check_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(path.to_owned()));
        }
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            return Err(MountError::Dead(path.to_owned()));
        }
        Err(error) => return Err(MountError::Io("cannot use the mountpoint", error)),
    };
    let meta = fs::metadata(&path).map_err(|error| MountError::Io("cannot use the mountpoint", error))?;
    if !meta.is_dir() {
        return Err(MountError::NotFolder(path));
    }
    match mount_at(&path).map_err(|error| MountError::Io("cannot read /proc/self/mountinfo", error))? {
        Some(MountEntry { fs_type, source, .. }) => Err(MountError::Taken {
            path,
            fs_type,
            source_name: source,
        }),
        None => Ok(path),
    }
}

/// Mounts; the descriptor speaks for the new file system and must be served at once.
pub fn mount(request: &MountRequest) -> Result<OwnedFd, MountError> {
    match fs::metadata(DEVICE) {
        Ok(meta) if meta.file_type().is_char_device() => {}
        _ => return Err(MountError::NoDevice),
    }
    if !rustix::process::geteuid().is_root() {
        return mount_with_helper(request);
    }
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => MountError::NoPermission("open /dev/fuse"),
            _ => MountError::Io("cannot open /dev/fuse", error),
        })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    if request.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if request.read_only {
        flags |= MountFlags::RDONLY;
    }
    if request.noexec {
        flags |= MountFlags::NOEXEC;
    }
    let data = std::ffi::CString::new(data).expect("no zero byte in it");
    rustix::mount::mount(
        request.source.as_str(),
        &request.mountpoint,
        FS_TYPE,
        flags,
        Some(data.as_c_str()),
    )
    .map_err(|errno| match errno {
        Errno::PERM | Errno::ACCESS => MountError::NoPermission("mount"),
        Errno::NODEV => MountError::NoDevice,
        errno => MountError::Io("cannot mount", errno.into()),
    })?;
    Ok(device.into())
}

fn mount_with_helper(request: &MountRequest) -> Result<OwnedFd, MountError> {
    let io = |error| MountError::Io("cannot talk to fusermount3", error);
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(|errno| io(errno.into()))?;
    // A comma or backslash in the source would end the option.
    let source = request.source.replace('\\', "\\\\").replace(',', "\\,");
    let access = if request.read_only { "ro" } else { "rw" };
    let mut options = format!("{access},nosuid,nodev,default_permissions,subtype=lacuna,fsname={source}");
    for (wanted, option) in [(request.allow_other, ",allow_other"), (request.noexec, ",noexec")] {
        if wanted {
            options.push_str(option);
        }
    }
    let output = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(&request.mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoPermission("mount"),
            _ => io(error),
        })?;
    drop(theirs);
    if !output.status.success() {
        return Err(MountError::Helper(first_line(&output.stderr)));
    }
    receive_descriptor(&ours).map_err(io)
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("it sent no descriptor"))
}

/// Raises the kernel's readahead, for files opened from now on.
pub fn raise_readahead(mountpoint: &Path) -> io::Result<()> {
    let Some(entry) = mount_at(mountpoint)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    fs::write(
        format!("/sys/class/bdi/{}/read_ahead_kb", entry.device),
        READ_AHEAD_KB,
    )
}

/// Unmounts. `lazy` takes the name away at once and the rest when the last user is done.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        } | UnmountFlags::NOFOLLOW;
        return rustix::mount::unmount(mountpoint, flags).map_err(io::Error::from);
    }
    let mut command = Command::new("fusermount3");
    command
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = first_line(&output.stderr);
    if text.contains("busy") {
        Err(Errno::BUSY.into())
    } else {
        Err(io::Error::other(text))
    }
}

/// Ends what is mounted there for all its users, as `umount -f`: who waits for it gets an error at once. What is in use
/// keeps its name, which its daemon takes away. Only root may.
pub fn abort(mountpoint: &Path) -> io::Result<()> {
    let flags = UnmountFlags::FORCE | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Processes that use something below `mountpoint`: what keeps it busy, as `PID (NAME)`.
pub fn users_of(mountpoint: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut users = Vec::new();
    for process in processes.flatten() {
        let path = process.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.parse::<u32>().is_ok())
        else {
            continue;
        };
        let links = ["cwd", "root", "exe"].map(|name| path.join(name)).into_iter();
        let open = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let below = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
        let mapped = || {
            let maps = fs::read_to_string(path.join("maps")).unwrap_or_default();
            maps.lines()
                .filter_map(|line| {
                    line.find('/')
                        .map(|at| Path::new(&line[at..]).starts_with(mountpoint))
                })
                .any(|hit| hit)
        };
        if links.chain(open).any(below) || mapped() {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            users.push(format!("{pid} ({})", name.trim_end()));
        }
    }
    users
}

/// A mount of ours that must not outlive a failure on the way to serving it.
#[derive(Debug)]
pub struct MountGuard {
    mountpoint: PathBuf,
    device: Option<String>,
}

impl MountGuard {
    /// Guards the mount that was just made at `mountpoint`.
    pub fn new(mountpoint: &Path) -> Self {
        let device = mount_at(mountpoint).ok().flatten().map(|entry| entry.device);
        Self {
            mountpoint: mountpoint.to_owned(),
            device,
        }
    }

    /// Unmounts if what is mounted there still is ours; lazily if it is in use.
    pub fn unmount(&self) {
        if self.is_mounted() && unmount(&self.mountpoint, false).is_err() {
            tracing::warn!(mountpoint = %self.mountpoint.display(), "in use: detaching it");
            if let Err(error) = unmount(&self.mountpoint, true) {
                tracing::error!(mountpoint = %self.mountpoint.display(), %error, "cannot unmount");
            }
        }
    }
}

impl MountGuard {
    /// True while it still has its place.
    pub fn is_mounted(&self) -> bool {
        let found = mount_at(&self.mountpoint).ok().flatten();
        found.is_some_and(|entry| entry.fs_type == FS_TYPE && Some(&entry.device) == self.device.as_ref())
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .lines()
        .next()
        .unwrap_or("failed without a word")
        .to_owned()
}

fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    use std::os::unix::ffi::OsStringExt;
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let mountpoint = std::ffi::OsString::from_vec(unescape(fields.nth(1)?)).into();
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    Some(MountEntry {
        mountpoint,
        fs_type,
        source,
        device,
    })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digit: u8| matches!(digit, b'0'..=b'7').then(|| u32::from(digit - b'0'));
        let code = match (first, tail) {
            (b'\\', [a, b, c, ..]) => octal(*a)
                .zip(octal(*b))
                .zip(octal(*c))
                .map(|((a, b), c)| a * 64 + b * 8 + c),
            _ => None,
        };
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Where a daemon's output goes when nobody looks.
pub fn null_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_parse_with_escapes_and_optional_fields() {
        let line = b"36 35 0:52 / /mnt/a\\040b rw,nosuid shared:1 master:2 - fuse.lacuna host:1/x\\134y rw,user_id=0";
        let entry = parse_mount(line).unwrap();
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entry.device, "0:52");
        assert_eq!(entry.fs_type, FS_TYPE);
        assert_eq!(entry.source, "host:1/x\\y");
        assert_eq!(parse_mount(b""), None);
        assert_eq!(unescape(b"a\\04"), b"a\\04");
    }

    #[test]
    fn the_root_file_system_is_a_mount() {
        assert!(
            mount_at(Path::new("/proc"))
                .unwrap()
                .is_some_and(|entry| entry.fs_type == "proc")
        );
        assert!(matches!(
            check_mountpoint(Path::new("/proc")),
            Err(MountError::Taken { .. })
        ));
        assert!(matches!(
            check_mountpoint(Path::new("/nowhere/at/all")),
            Err(MountError::Missing(_))
        ));
        assert!(matches!(
            check_mountpoint(Path::new("/proc/self/stat")),
            Err(MountError::NotFolder(_))
        ));
    }
}
