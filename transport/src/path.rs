//! Names and paths inside an export. A value of these types cannot leave the exported folder.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder};
use thiserror::Error;

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// Why bytes are not a name or path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("a name is empty")]
    Empty,
    #[error("a name is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("a path is longer than {PATH_BYTES_MAX} bytes")]
    PathTooLong,
    #[error("a path has more than {PATH_DEPTH_MAX} names")]
    TooDeep,
    #[error("a name is '.' or '..'")]
    Dots,
    #[error("a name has a '/' or a zero byte")]
    Separator,
}

/// One name: 1 to 255 bytes, no `/`, no zero byte, not `.` or `..`. Not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Box<[u8]>);

impl NodeName {
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        check_name(bytes)?;
        Ok(Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A path relative to the exported folder: names joined with `/`; empty for the folder itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodePath(Box<[u8]>);

impl NodePath {
    /// The exported folder.
    pub fn root() -> Self {
        Self::default()
    }

    /// Exactly the wire form: no leading, trailing or doubled `/`.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::PathTooLong);
        }
        if !bytes.is_empty() {
            let mut depth = 0_usize;
            for name in bytes.split(|byte| *byte == b'/') {
                check_name(name)?;
                depth += 1;
            }
            if depth > PATH_DEPTH_MAX {
                return Err(PathError::TooDeep);
            }
        }
        Ok(Self(bytes.into()))
    }

    /// As a person types it: extra `/` are dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let names: Vec<&[u8]> = bytes
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        Self::new(&names.join(&b'/'))
    }

    /// The path of `name` in this folder.
    pub fn join(&self, name: &NodeName) -> Result<Self, PathError> {
        if self.is_root() {
            return Self::new(&name.0);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(&name.0);
        Self::new(&bytes)
    }

    /// The folder it is in, and its last name; `None` for the exported folder itself.
    pub fn split(&self) -> Option<(Self, NodeName)> {
        if self.is_root() {
            return None;
        }
        let (folder, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&b""[..], &*self.0),
        };
        Some((Self(folder.into()), NodeName(name.into())))
    }

    /// The folder it is in; that of the exported folder is itself.
    pub fn parent(&self) -> Self {
        self.split().map_or_else(Self::root, |(folder, _)| folder)
    }

    /// `other`, taken as relative to this folder.
    pub fn join_path(&self, other: &Self) -> Result<Self, PathError> {
        Self::parse(&[self.as_bytes(), other.as_bytes()].join(&b'/'))
    }

    /// Where this path leads once `from` is named `to`; `None` if it is neither `from` nor below it, or
    /// becomes longer than a path can be.
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        if self == from {
            return Some(to.clone());
        }
        let below = self.0.strip_prefix(&*from.0)?.strip_prefix(b"/")?;
        Self::new(&[to.as_bytes(), below].join(&b'/')).ok()
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_name(bytes: &[u8]) -> Result<(), PathError> {
    match bytes {
        b"" => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        _ if bytes.len() > NAME_BYTES_MAX => Err(PathError::NameTooLong),
        _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(PathError::Separator),
        _ => Ok(()),
    }
}

macro_rules! text_and_wire {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&String::from_utf8_lossy(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", String::from_utf8_lossy(&self.0))
            }
        }

        impl<C> Encode<C> for $type {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $type {
            fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let position = decoder.position();
                Self::new(decoder.bytes()?)
                    .map_err(|error| minicbor::decode::Error::custom(error).at(position))
            }
        }
    };
}

text_and_wire!(NodeName);
text_and_wire!(NodePath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_export() {
        for bad in ["..", "a/../b", ".", "a/.", "/a", "a/", "a//b", "a\0b"] {
            assert!(NodePath::new(bad.as_bytes()).is_err(), "{bad:?} was taken");
        }
        for bad in ["..", "a/../b", "./a"] {
            assert!(NodePath::parse(bad.as_bytes()).is_err(), "{bad:?} was parsed");
        }
    }

    #[test]
    fn a_parent_is_what_is_left_without_the_last_name() {
        let split = |text: &[u8]| {
            let (folder, name) = NodePath::new(text).unwrap().split().unwrap();
            (folder.to_string(), name.to_string())
        };
        assert_eq!(split(b"a/b/c"), ("a/b".into(), "c".into()));
        assert_eq!(split(b"a"), (String::new(), "a".into()));
        assert_eq!(NodePath::root().split(), None);
        assert_eq!(NodePath::root().parent(), NodePath::root());
    }

    #[test]
    fn typed_paths_lose_extra_slashes() {
        assert_eq!(
            NodePath::parse(b"//a///b/").unwrap(),
            NodePath::new(b"a/b").unwrap()
        );
        assert!(NodePath::parse(b"/").unwrap().is_root());
        assert!(NodePath::parse(b"").unwrap().is_root());
    }

    #[test]
    fn lengths_are_bounded_exactly() {
        assert!(NodeName::new(&[b'n'; NAME_BYTES_MAX]).is_ok());
        assert_eq!(
            NodeName::new(&[b'n'; NAME_BYTES_MAX + 1]),
            Err(PathError::NameTooLong)
        );
        let deep = vec!["d"; PATH_DEPTH_MAX].join("/");
        assert!(NodePath::new(deep.as_bytes()).is_ok());
        assert_eq!(
            NodePath::new(format!("{deep}/d").as_bytes()),
            Err(PathError::TooDeep)
        );
        assert_eq!(
            NodePath::new(&[b'n'; PATH_BYTES_MAX + 1]),
            Err(PathError::PathTooLong)
        );
    }

    #[test]
    fn joining_keeps_the_wire_form() {
        let folder = NodePath::root().join(&NodeName::new(b"a").unwrap()).unwrap();
        let volume = folder.join(&NodeName::new(b"b").unwrap()).unwrap();
        assert_eq!(volume.as_bytes(), b"a/b");
        assert_eq!(NodePath::root().join_path(&volume).unwrap(), volume);
        assert_eq!(folder.join_path(&NodePath::root()).unwrap(), folder);
    }
}
