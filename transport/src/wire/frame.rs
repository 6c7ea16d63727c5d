//! The header in front of every frame: 16 bytes, little-endian.
//!
//! ```text
//!  0        4      6      8                16
//!  | length | kind | code | request        |  body: `length` bytes
//! ```
//!
//! `length` is checked against the bound of its kind before a byte of the body is read.

use super::WireError;
use super::error_code::{self, ErrorCode};
use crate::id::RequestId;
use crate::limits::{
    LIST_PAGE_BYTES_MAX, MAP_PAGE_BYTES_MAX, MESSAGE_BYTES_MAX, READ_BYTES_MAX, TEXT_BYTES_MAX,
    WRITE_BYTES_MAX,
};
use crate::wire::digest;
use crate::wire::read::{REPLY_HEAD_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::wire::write;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $request_max:expr, $reply_max:expr;)+) => {
        /// What a frame is about. A reply has the kind of its request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)+
        }

        impl Kind {
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

            /// Most bytes of a body sent by the client.
            pub const fn request_bytes_max(self) -> u32 {
                match self {
                    $(Self::$name => $request_max,)+
                }
            }

            /// Most bytes of a body sent by the server, errors apart.
            pub const fn reply_bytes_max(self) -> u32 {
                match self {
                    $(Self::$name => $reply_max,)+
                }
            }
        }

        impl TryFrom<u16> for Kind {
            type Error = WireError;

            fn try_from(number: u16) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)+
                    other => Err(WireError::UnknownKind(other)),
                }
            }
        }
    };
}

kinds! {
    /// First on the control stream, both ways.
    Hello = 1, "hello", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Server to client, on the event stream: a volume changed.
    VolumeChanged = 2, "volume-changed", 0, MESSAGE_BYTES_MAX;
    /// Server to client, on the event stream: somebody else wants to write to a volume.
    LeaseRecalled = 3, "lease-recalled", 0, MESSAGE_BYTES_MAX;
    /// Server to client, on the event stream: locks that this client met were given up.
    LocksFreed = 4, "locks-freed", 0, MESSAGE_BYTES_MAX;
    /// Attributes of a path.
    Stat = 16, "stat", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// The names in a folder with their attributes, in pages.
    List = 17, "list", MESSAGE_BYTES_MAX, LIST_PAGE_BYTES_MAX;
    /// Makes a handle of a path.
    Open = 18, "open", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Forgets a handle.
    Close = 19, "close", MESSAGE_BYTES_MAX, 0;
    /// Bytes of one or more ranges.
    Read = 20, "read", REQUEST_BYTES_MAX, REPLY_HEAD_BYTES_MAX + READ_BYTES_MAX;
    /// The extent map, in pages.
    Map = 21, "map", MESSAGE_BYTES_MAX, MAP_PAGE_BYTES_MAX;
    /// Space of the export.
    Space = 22, "space", 0, MESSAGE_BYTES_MAX;
    /// Attributes of an open volume, whatever became of its name.
    StatOpen = 23, "stat-open", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Hashes of units of a range.
    Digest = 24, "digest", MESSAGE_BYTES_MAX, digest::REPLY_BYTES_MAX;
    /// Bytes into one or more ranges.
    Write = 32, "write", write::REQUEST_HEAD_BYTES_MAX + WRITE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// A hole, zeros or reserved space in a range.
    Reshape = 33, "reshape", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Another size.
    Resize = 34, "resize", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Bytes and holes from one place to another, at the server.
    Copy = 35, "copy", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Makes earlier changes of a volume durable.
    Flush = 36, "flush", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Mode, owner, times.
    SetAttr = 37, "set-attr", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// A new volume, opened.
    Create = 40, "create", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// A new folder.
    MakeFolder = 41, "make-folder", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Takes a name away.
    Remove = 42, "remove", MESSAGE_BYTES_MAX, 0;
    /// Gives a node another name.
    Rename = 43, "rename", MESSAGE_BYTES_MAX, 0;
    /// Makes earlier changes of the names in a folder durable.
    FlushFolder = 44, "flush-folder", MESSAGE_BYTES_MAX, 0;
    /// How far a volume that is a stream is, and its end.
    Finish = 45, "finish", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// Answers a recall: the lease is needed here.
    KeepLease = 46, "keep-lease", MESSAGE_BYTES_MAX, 0;
    /// Takes or gives up a lock on a range of a volume, or on all of it.
    Lock = 47, "lock", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
    /// The lock of somebody else that stands in the way of one.
    TestLock = 48, "test-lock", MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX;
}

/// How a frame ends the exchange it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A request, or the last frame of a good reply.
    Done,
    /// A good reply, more frames of it follow.
    More,
    /// The request failed; the body is a text for people.
    Failed(ErrorCode),
}

impl Code {
    const fn number(self) -> u16 {
        match self {
            Self::Done => 0,
            Self::More => 1,
            Self::Failed(code) => code.number(),
        }
    }
}

/// Who sent a frame: the bound of its body depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// A decoded header. Its length is within the bound of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body that follows.
    pub body_bytes: u32,
    pub kind: Kind,
    pub code: Code,
    pub request: RequestId,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[6..8].copy_from_slice(&self.code.number().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.request.0.to_le_bytes());
        bytes
    }

    /// Decodes and checks the length against the bound of what `sender` may send.
    pub fn decode(bytes: &[u8; HEADER_BYTES], sender: Sender) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, k0, k1, c0, c1, request @ ..] = *bytes;
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = Kind::try_from(u16::from_le_bytes([k0, k1]))?;
        let code = match (u16::from_le_bytes([c0, c1]), sender) {
            (0, _) => Code::Done,
            (1, Sender::Server) => Code::More,
            (number @ error_code::FIRST.., Sender::Server) => Code::Failed(ErrorCode::try_from(number)?),
            (other, _) => return Err(WireError::UnknownCode(other)),
        };
        let bytes_max = match (sender, code) {
            (Sender::Client, _) => kind.request_bytes_max(),
            (Sender::Server, Code::Failed(_)) => TEXT_BYTES_MAX_U32,
            (Sender::Server, Code::Done | Code::More) => kind.reply_bytes_max(),
        };
        if body_bytes > bytes_max {
            return Err(WireError::TooLong {
                kind: kind.word(),
                bytes: body_bytes,
                bytes_max,
            });
        }
        Ok(Self {
            body_bytes,
            kind,
            code,
            request: RequestId(u64::from_le_bytes(request)),
        })
    }
}

#[expect(
    clippy::as_conversions,
    reason = "a constant that fits, checked when compiled"
)]
const TEXT_BYTES_MAX_U32: u32 = {
    assert!(TEXT_BYTES_MAX < 1 << 16);
    TEXT_BYTES_MAX as u32
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bound_is_exact() {
        for kind in Kind::ALL.iter().copied() {
            for (sender, code, bytes_max) in [
                (Sender::Client, Code::Done, kind.request_bytes_max()),
                (Sender::Server, Code::Done, kind.reply_bytes_max()),
                (Sender::Server, Code::Failed(ErrorCode::Io), 512),
            ] {
                let mut header = Header {
                    body_bytes: bytes_max,
                    kind,
                    code,
                    request: RequestId(9),
                };
                assert_eq!(Header::decode(&header.encode(), sender).unwrap(), header);
                header.body_bytes += 1;
                assert!(matches!(
                    Header::decode(&header.encode(), sender),
                    Err(WireError::TooLong { bytes_max: bound, .. }) if bound == bytes_max
                ));
            }
        }
    }

    #[test]
    fn clients_cannot_send_error_codes() {
        let header = Header {
            body_bytes: 0,
            kind: Kind::Stat,
            code: Code::Failed(ErrorCode::NotFound),
            request: RequestId(1),
        };
        assert!(Header::decode(&header.encode(), Sender::Server).is_ok());
        assert!(matches!(
            Header::decode(&header.encode(), Sender::Client),
            Err(WireError::UnknownCode(16))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(bytes: [u8; HEADER_BYTES]) {
            for sender in [Sender::Client, Sender::Server] {
                if let Ok(header) = Header::decode(&bytes, sender) {
                    prop_assert_eq!(header.encode(), bytes);
                }
            }
        }
    }
}
