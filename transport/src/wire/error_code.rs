//! What a server can say instead of a result. The numbers are the wire; docs/PROTOCOL.md has the table.

use super::WireError;

/// Lowest code that is an error; below are [`super::frame::Code`]'s other values.
pub const FIRST: u16 = 16;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)+) => {
        /// A numbered error of a reply.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)+
        }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)+
                }
            }

            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }

        impl TryFrom<u16> for ErrorCode {
            type Error = WireError;

            fn try_from(number: u16) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)+
                    other => Err(WireError::UnknownCode(other)),
                }
            }
        }
    };
}

error_codes! {
    /// No such volume or folder.
    NotFound = 16, "not found";
    /// A folder was needed.
    NotFolder = 17, "not a folder";
    /// A volume was needed.
    NotVolume = 18, "not a volume";
    /// The server's own user may not.
    Denied = 19, "permission denied";
    /// The export or this client is read-only.
    ReadOnly = 20, "read-only";
    /// The handle is not of this session, or its volume is gone.
    Stale = 21, "stale handle";
    /// The request is understood and makes no sense.
    Invalid = 22, "invalid request";
    /// A bound of the server is reached (handles, names in a folder).
    Exhausted = 23, "limit reached";
    /// No space left on the server.
    NoSpace = 24, "no space left";
    /// The server's storage failed.
    Io = 25, "storage error";
    /// The server does not offer this.
    Unsupported = 26, "not supported";
    /// A bug of the server.
    Internal = 27, "internal error";
    /// The server is closing.
    ShuttingDown = 28, "shutting down";
    /// A name or path is too long for the storage.
    NameTooLong = 29, "name too long";
    /// The name is taken.
    Exists = 30, "exists";
    /// The folder still holds something.
    NotEmpty = 31, "folder not empty";
    /// In use by someone else, or by the server's host.
    Busy = 32, "busy";
    /// The two names are on different file systems of the server.
    CrossDevice = 33, "different file systems";
    /// Larger than the storage can hold in one volume.
    TooLarge = 34, "too large";
    /// The storage refuses it to anyone (an immutable file).
    NotPermitted = 35, "not permitted";
    /// Bytes that will never be taken, however often they are sent. Of a range that is refused, each part that
    /// ends where it ends may still be taken: what is too late is its front.
    Refused = 36, "refused for good";
    /// The write lease that this change or open relies on is not this client's any more.
    Fenced = 37, "fenced";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
