//! The error of this crate: what the caller can do, what it was about, where it came from.

use std::fmt;

use lacuna_transport::wire::WireError;
use lacuna_transport::wire::error_code::ErrorCode;
use rustix::io::Errno;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such volume or folder.
    NotFound,
    NotFolder,
    /// A volume was needed.
    NotVolume,
    /// Storage permissions at the server.
    Denied,
    /// The mount, export or client is read-only.
    ReadOnly,
    /// The volume was removed or replaced.
    Stale,
    Invalid,
    /// The handle was not opened for this.
    BadHandle,
    /// A named bound is reached.
    Exhausted,
    NoSpace,
    NameTooLong,
    /// The name is taken.
    Exists,
    NotEmpty,
    /// In use, by someone else or by the server's host.
    Busy,
    /// Somebody else holds a lock on it.
    Locked,
    /// The two names are on different file systems of the server.
    CrossDevice,
    /// Larger than the storage can hold in one volume.
    TooLarge,
    /// The storage refuses it to anyone.
    NotPermitted,
    /// The server will never take these bytes: too late for a stream.
    Refused,
    /// Somebody else may write to the volume now: what was not sent is lost to it.
    Fenced,
    /// The server's storage failed, or this machine's.
    Io,
    Unsupported,
    /// No offset with data (or with a hole) at or after the one asked for.
    NoExtent,
    /// No such extended attribute.
    NoAttribute,
    /// There is no connection, and none came within the deadline.
    Disconnected,
    /// The server did not answer within the deadline.
    TimedOut,
    /// The user asked for the end of it.
    Interrupted,
    /// The server refuses this client.
    NotAllowed,
    /// The server has another key than the pinned one.
    WrongKey,
    /// The peer broke the protocol or speaks another version.
    Protocol,
    /// A bug on one of the sides.
    Internal,
}

impl ErrorKind {
    /// The errno an application sees. The one table of the client.
    pub fn errno(self) -> Errno {
        match self {
            Self::NotFound => Errno::NOENT,
            Self::NotFolder => Errno::NOTDIR,
            Self::NotVolume => Errno::ISDIR,
            Self::Denied => Errno::ACCESS,
            Self::ReadOnly => Errno::ROFS,
            Self::Stale => Errno::STALE,
            Self::Invalid => Errno::INVAL,
            Self::BadHandle => Errno::BADF,
            Self::Exhausted => Errno::NFILE,
            Self::NoSpace => Errno::NOSPC,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::Exists => Errno::EXIST,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::Busy => Errno::BUSY,
            Self::Locked => Errno::AGAIN,
            Self::CrossDevice => Errno::XDEV,
            Self::TooLarge => Errno::FBIG,
            Self::NotPermitted => Errno::PERM,
            Self::Unsupported => Errno::OPNOTSUPP,
            Self::NoExtent => Errno::NXIO,
            Self::NoAttribute => Errno::NODATA,
            Self::Interrupted => Errno::INTR,
            Self::Io
            | Self::Refused
            | Self::Fenced
            | Self::Disconnected
            | Self::TimedOut
            | Self::NotAllowed
            | Self::WrongKey
            | Self::Protocol
            | Self::Internal => Errno::IO,
        }
    }
}

impl From<ErrorCode> for ErrorKind {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::NotFolder => Self::NotFolder,
            ErrorCode::NotVolume => Self::NotVolume,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::ReadOnly => Self::ReadOnly,
            ErrorCode::Stale => Self::Stale,
            ErrorCode::Invalid => Self::Invalid,
            ErrorCode::Exhausted => Self::Exhausted,
            ErrorCode::NoSpace => Self::NoSpace,
            ErrorCode::Io => Self::Io,
            ErrorCode::Unsupported => Self::Unsupported,
            ErrorCode::Internal => Self::Internal,
            ErrorCode::ShuttingDown => Self::Disconnected,
            ErrorCode::NameTooLong => Self::NameTooLong,
            ErrorCode::Exists => Self::Exists,
            ErrorCode::NotEmpty => Self::NotEmpty,
            ErrorCode::Busy => Self::Busy,
            ErrorCode::CrossDevice => Self::CrossDevice,
            ErrorCode::TooLarge => Self::TooLarge,
            ErrorCode::NotPermitted => Self::NotPermitted,
            ErrorCode::Refused => Self::Refused,
            ErrorCode::Fenced => Self::Fenced,
        }
    }
}

/// Kind, context and source. Cheap to clone: one failed fetch may answer many readers.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `context` says what happened to what, for a person.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn errno(&self) -> Errno {
        self.kind.errno()
    }

    /// The same error with what was being done in front.
    #[must_use]
    pub fn within(mut self, doing: impl fmt::Display) -> Self {
        self.context = format!("{doing}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = Self::from_raw_os_error(error.errno().raw_os_error()).kind();
        Self::new(kind, error)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::new(
            ErrorKind::Protocol,
            format!("the server broke the protocol: {error}"),
        )
    }
}
