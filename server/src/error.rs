//! The one error of this crate: what went wrong (kind), with what (context), and why (source).
//!
//! The wire code is chosen here and nowhere else, in one match without `_`.

use std::error::Error as StdError;
use std::fmt;

use lacuna_transport::limits::TEXT_BYTES_MAX;
use lacuna_transport::wire::error_code::ErrorCode;
use rustix::io::Errno;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What whoever asked can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing of that name, or something that is never shown (a link, a socket, a device).
    NotFound,
    /// A folder was needed.
    NotFolder,
    /// A volume was needed.
    NotVolume,
    /// The user this server runs as may not.
    Denied,
    /// The export is read-only, or the client is.
    ReadOnly,
    /// The handle is unknown to this session, or its volume is gone.
    Stale,
    /// The request makes no sense.
    Invalid,
    /// A bound is reached: handles, descriptors, names in a folder, memory.
    Exhausted,
    NoSpace,
    /// The storage failed.
    Io,
    Unsupported,
    /// A bug of ours.
    Internal,
    ShuttingDown,
    NameTooLong,
    /// Somebody else has it: a port, a state folder.
    InUse,
    /// A file of ours has a content that we refuse to touch.
    Corrupt,
    /// The name is taken.
    Exists,
    /// The folder still holds something, shown or not.
    NotEmpty,
    /// In use by the host: a mount point, a running program, a swap file.
    Busy,
    /// The two names are on different file systems.
    CrossDevice,
    /// Larger than the storage can hold in one volume.
    TooLarge,
    /// Refused to anyone: an immutable file, an owner that only root can give.
    NotPermitted,
    /// Too late, and never taken: what a stream has sent out already.
    Refused,
    /// The write lease that a change relies on is not the caller's any more.
    Fenced,
}

/// An error with its context. `Display` is one line that says what happened, to what, and why.
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// `context` says what was tried, `source` why it failed.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// A failed system call; the kind follows from the errno.
    pub fn os(context: impl Into<String>, errno: Errno) -> Self {
        Self::with_source(ErrorKind::of(errno), context, std::io::Error::from(errno))
    }

    /// A failed call of `std`; the kind follows from the errno where there is one.
    pub fn io(context: impl Into<String>, error: std::io::Error) -> Self {
        let kind = Errno::from_io_error(&error).map_or(ErrorKind::Io, ErrorKind::of);
        Self::with_source(kind, context, error)
    }

    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text of an error reply: bounded, and cut between characters.
    pub fn wire_text(&self) -> String {
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text
    }
}

impl ErrorKind {
    /// What a failed system call on a node of an export means to a client.
    ///
    /// A rename across file systems is EXDEV too: whoever renames says so itself.
    fn of(errno: Errno) -> Self {
        match errno {
            // ELOOP and EXDEV: a link on the way, or a way out of the export. Neither is ever shown.
            Errno::NOENT | Errno::LOOP | Errno::XDEV => Self::NotFound,
            Errno::NOTDIR => Self::NotFolder,
            Errno::ISDIR => Self::NotVolume,
            Errno::ACCESS => Self::Denied,
            Errno::PERM => Self::NotPermitted,
            Errno::EXIST => Self::Exists,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::BUSY | Errno::TXTBSY => Self::Busy,
            Errno::FBIG | Errno::OVERFLOW => Self::TooLarge,
            Errno::ROFS => Self::ReadOnly,
            Errno::STALE => Self::Stale,
            Errno::INVAL => Self::Invalid,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::MLINK => Self::Exhausted,
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::Unsupported,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::ADDRINUSE => Self::InUse,
            _ => Self::Io,
        }
    }

    /// The number a client is told.
    pub const fn wire_code(self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NotFound,
            Self::NotFolder => ErrorCode::NotFolder,
            Self::NotVolume => ErrorCode::NotVolume,
            Self::Denied => ErrorCode::Denied,
            Self::ReadOnly => ErrorCode::ReadOnly,
            Self::Stale => ErrorCode::Stale,
            Self::Invalid => ErrorCode::Invalid,
            Self::Exhausted => ErrorCode::Exhausted,
            Self::NoSpace => ErrorCode::NoSpace,
            Self::Io => ErrorCode::Io,
            Self::Unsupported => ErrorCode::Unsupported,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::NameTooLong => ErrorCode::NameTooLong,
            Self::Exists => ErrorCode::Exists,
            Self::NotEmpty => ErrorCode::NotEmpty,
            Self::Busy => ErrorCode::Busy,
            Self::CrossDevice => ErrorCode::CrossDevice,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::NotPermitted => ErrorCode::NotPermitted,
            Self::Refused => ErrorCode::Refused,
            Self::Fenced => ErrorCode::Fenced,
            // These concern whoever runs the daemon; that one reaches a client is our bug.
            Self::Internal | Self::InUse | Self::Corrupt => ErrorCode::Internal,
        }
    }

    /// The kind that a client was told of with `code`.
    pub const fn of_wire(code: ErrorCode) -> Self {
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
            ErrorCode::ShuttingDown => Self::ShuttingDown,
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| {
            let source: &(dyn StdError + 'static) = source;
            source
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_context_and_reason() {
        let error = Error::os("cannot open volume 'a'", Errno::ACCESS);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(
            error.to_string(),
            "cannot open volume 'a': Permission denied (os error 13)"
        );
    }

    #[test]
    fn the_text_on_the_wire_is_bounded_between_characters() {
        let error = Error::new(ErrorKind::Invalid, "é".repeat(TEXT_BYTES_MAX));
        let text = error.wire_text();
        assert!(text.len() <= TEXT_BYTES_MAX && text.len() > TEXT_BYTES_MAX - 2);
    }

    #[test]
    fn every_code_has_a_kind_that_says_it() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorKind::of_wire(*code).wire_code(), *code);
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        for (errno, kind) in [
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::NotPermitted),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::FBIG, ErrorKind::TooLarge),
            (Errno::TXTBSY, ErrorKind::Busy),
        ] {
            assert_eq!(Error::os("x", errno).kind(), kind);
        }
    }

    #[test]
    fn links_and_ways_out_do_not_exist() {
        for errno in [Errno::LOOP, Errno::XDEV, Errno::NOENT] {
            assert_eq!(Error::os("x", errno).kind().wire_code(), ErrorCode::NotFound);
        }
    }
}
