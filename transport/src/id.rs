//! Small identifiers, each its own type.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use minicbor::{Decode, Encode};

/// A volume or folder of one server: stable while the file exists, across opens, renames, sessions
/// and restarts. It becomes the inode number of the mount. Never 0 or [`NodeId::ROOT`] but for the
/// exported folder itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct NodeId(#[n(0)] pub u64);

impl NodeId {
    /// The exported folder (FUSE_ROOT_ID).
    pub const ROOT: Self = Self(1);
}

/// The version of a volume's content. Two equal generations of one node mean equal bytes and an
/// equal map; a change makes it larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Generation(#[n(0)] pub u64);

/// An open volume, valid within one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Handle(#[n(0)] pub u64);

/// A request; a client never uses a number twice within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A mount, for as long as its process lives: names its changes across sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct InstanceId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl InstanceId {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstanceId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// One holding of a volume's write lease: a later holder has a larger number, across restarts of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct LeaseId(#[n(0)] pub u64);

/// Who holds a lock, as the kernel of a client names it; its own for each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct LockOwner(#[n(0)] pub u64);

/// A change of names of one instance, for instance the creation of a volume. A client never uses a number
/// twice; the same number again is the same change, sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct OperationId(#[n(0)] pub u64);

/// One run of a server process. A new one means: what was not flushed may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct BootId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl BootId {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
