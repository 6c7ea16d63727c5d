//! What a local path is: a regular file, a block device, or something that is read or written once in order.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};

use crate::error::{Error, ErrorKind, Result};

/// What stands for standard input and output.
pub const STANDARD: &str = "-";

/// Room in a pipe: with the usual 64 KiB both ends wait for each other sixteen times as often.
const PIPE_BYTES: usize = 1 << 20;

/// What kind of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Device,
    /// A pipe, a terminal, a socket.
    Stream,
}

/// An open local file.
#[derive(Debug)]
pub struct Local {
    pub file: File,
    pub kind: Kind,
    /// In bytes; 0 of a stream.
    pub size: u64,
    /// For messages.
    pub name: String,
}

impl Local {
    /// Opens what is to be read.
    pub fn source(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let opened = if is_standard(path) {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let file = opened.map_err(|error| failed("open", &name, &error))?;
        Self::new(file, name)?.where_it_stands(is_standard(path))
    }

    /// Opens what is to be written, and makes a regular file of what is not there. What is in it stays. A block
    /// device that something else uses (a file system on it is mounted) is refused.
    pub fn target(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if is_standard(path) {
            let opened = io::stdout().as_fd().try_clone_to_owned().map(File::from);
            let file = opened.map_err(|error| failed("open", &name, &error))?;
            return Self::new(file, name)?.where_it_stands(true);
        }
        let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
        let mut options = OpenOptions::new();
        options.write(true);
        match &kind {
            Ok(kind) if kind.is_block_device() => {
                let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
                options.read(true).custom_flags(exclusive);
            }
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {}
            Ok(_) => {
                options.read(true);
            }
            Err(_) => {
                options.read(true).create(true).truncate(false);
            }
        }
        let opened = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => {
                let text = format!("{name} is in use: is a file system on it mounted?");
                Error::new(ErrorKind::Busy, text)
            }
            _ => failed("open", &name, &error),
        })?;
        Self::new(opened, name)
    }

    fn new(mut file: File, name: String) -> Result<Self> {
        let metadata = file
            .metadata()
            .map_err(|error| failed("look at", &name, &error))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let text = format!("{name} is a folder: name a file, a block device or - for a pipe");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let (kind, size) = if kind.is_block_device() {
            let size = size_of_device(&mut file).map_err(|error| failed("measure", &name, &error))?;
            (Kind::Device, size)
        } else if kind.is_file() {
            (Kind::Regular, metadata.len())
        } else {
            // Fails for what is no pipe, or beyond what this user may have.
            rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES).ok();
            (Kind::Stream, 0)
        };
        Ok(Self {
            file,
            kind,
            size,
            name,
        })
    }

    /// What a shell opened for us (`- >> file`, or after another program of a group) goes on where it stands: in
    /// order, as a pipe does.
    fn where_it_stands(mut self, is_standard: bool) -> Result<Self> {
        if !is_standard || self.kind == Kind::Stream {
            return Ok(self);
        }
        let flags =
            rustix::fs::fcntl_getfl(&self.file).map_err(|error| self.failed("look at", &error.into()))?;
        let start = self.file.stream_position();
        let start = start.map_err(|error| failed("look at", &self.name, &error))?;
        if start > 0 || flags.contains(OFlags::APPEND) {
            (self.kind, self.size) = (Kind::Stream, 0);
        }
        Ok(self)
    }

    pub fn failed(&self, doing: &str, error: &io::Error) -> Error {
        failed(doing, &self.name, error)
    }
}

/// In bytes. The file goes on where it stood.
fn size_of_device(file: &mut File) -> io::Result<u64> {
    let before = file.stream_position()?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(before))?;
    Ok(size)
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// A local failure, for the user.
pub fn failed(doing: &str, name: &str, error: &io::Error) -> Error {
    let kind = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => ErrorKind::NoSpace,
        Some(rustix::io::Errno::NOENT) => ErrorKind::NotFound,
        Some(rustix::io::Errno::ACCESS) => ErrorKind::Denied,
        Some(rustix::io::Errno::PIPE) => {
            let text = format!("{name}: whoever read it went away");
            return Error::new(ErrorKind::Io, text);
        }
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("cannot {doing} {name}: {error}"))
}

/// Asks the file system, or the driver of a device, for a change of a range. False: it cannot do that.
pub fn fallocate(file: &File, how: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
    loop {
        match rustix::fs::fallocate(file, how, offset, len) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
