//! Why a side closes a connection: the QUIC application error codes, and what the other side said.

use quinn::VarInt;

/// Application error code of a CONNECTION_CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseCode {
    /// The session is over, nothing is wrong.
    Done = 0,
    /// The client's key is not on the allow list (or no longer).
    NotAllowed = 1,
    /// The peer broke the protocol.
    Protocol = 2,
    /// A bound of the server is reached; try later.
    Busy = 3,
    /// The server ends.
    ShuttingDown = 4,
}

impl CloseCode {
    pub fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Done => 0,
            Self::NotAllowed => 1,
            Self::Protocol => 2,
            Self::Busy => 3,
            Self::ShuttingDown => 4,
        })
    }

    pub fn from_code(code: VarInt) -> Option<Self> {
        match code.into_inner() {
            0 => Some(Self::Done),
            1 => Some(Self::NotAllowed),
            2 => Some(Self::Protocol),
            3 => Some(Self::Busy),
            4 => Some(Self::ShuttingDown),
            _ => None,
        }
    }

    /// The code and text with which the peer closed, if it did.
    pub fn of(error: &quinn::ConnectionError) -> Option<(Self, String)> {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                let text = String::from_utf8_lossy(&close.reason).into_owned();
                Self::from_code(close.error_code).map(|code| (code, text))
            }
            _ => None,
        }
    }
}
