//! The named pipe that a stream goes into. Nothing here waits longer than it is told to: a pipe may have no reader,
//! or one that takes nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// Asked for as the room of the pipe; what an unprivileged process may have. Less is no harm.
const PIPE_BYTES: usize = 1 << 20;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    Bytes(usize),
    /// The reader has to read first.
    Full,
    /// The reader has closed its end.
    ReaderGone,
}

/// A named pipe by its path.
#[derive(Clone, Debug)]
pub(super) struct Fifo {
    path: PathBuf,
}

impl Fifo {
    /// Makes it, for this user only, if there is nothing of that name.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let failed = |errno| Error::os(format!("cannot make the pipe {}", path.display()), errno);
        match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                let text = format!(
                    "cannot make the pipe {0}: make it with mkfifo {0}, for the user that lacunad runs as",
                    path.display()
                );
                return Err(Error::os(text, errno));
            }
            Err(errno) => return Err(failed(errno)),
        }
        let stat = rustix::fs::stat(path).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            let text = format!(
                "cannot stream into {}: it is not a pipe; name one, or a path where there is nothing yet",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for writing; `None` while nobody has it open for reading.
    pub(super) fn open(&self) -> Result<Option<Pipe>> {
        let failed = |errno| Error::os(format!("cannot open the pipe {}", self.path.display()), errno);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let end = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(end) => end,
            Err(Errno::NXIO | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        // Something else may have got the name.
        let stat = rustix::fs::fstat(&end).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Err(failed(Errno::INVAL));
        }
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&end, PIPE_BYTES) {
            tracing::debug!(%error, "the pipe keeps its size");
        }
        Ok(Some(Pipe { end }))
    }
}

/// The end that is written to.
#[derive(Debug)]
pub(super) struct Pipe {
    end: OwnedFd,
}

impl Pipe {
    /// Writes as much of `bytes` as the pipe has room for.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<Wrote, Errno> {
        loop {
            match rustix::io::write(&self.end, bytes) {
                Ok(count) => return Ok(Wrote::Bytes(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Wrote::Full),
                // The signal that comes with it is ignored in this process, as in all of Rust's.
                Err(Errno::PIPE) => return Ok(Wrote::ReaderGone),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Waits until there is room or the reader is gone, at most so long.
    pub(super) fn wait(&self, longest: Duration) -> Result<(), Errno> {
        let longest = Timespec::try_from(longest).map_err(|_| Errno::INVAL)?;
        let mut ends = [PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::OUT)];
        match rustix::event::poll(&mut ends, Some(&longest)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_is_made_and_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let fifo = Fifo::make(&path).unwrap();
        assert!(fifo.open().unwrap().is_none(), "nobody reads");
        Fifo::make(&path).unwrap();
        let reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let pipe = fifo.open().unwrap().unwrap();
        assert_eq!(pipe.write(b"abc"), Ok(Wrote::Bytes(3)));
        let mut reader = File::from(reader);
        let mut taken = [0; 3];
        reader.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"abc");
        while pipe.write(&[0; 65536]) != Ok(Wrote::Full) {}
        pipe.wait(Duration::from_millis(1)).unwrap();
        drop(reader);
        pipe.wait(Duration::from_secs(60)).unwrap();
        assert_eq!(pipe.write(b"x"), Ok(Wrote::ReaderGone));
    }

    #[test]
    fn nothing_but_a_pipe_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "kept").unwrap();
        let error = Fifo::make(&path).unwrap_err();
        assert!(error.to_string().contains("not a pipe"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }
}
