//! The client's state folder: its key, the servers it trusts, the sockets of its live mounts.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lacuna_transport::quic::identity::{Identity, KeyId};
use thiserror::Error;

use crate::error;

const TRUSTED: &str = "known_servers";
const MOUNTS: &str = "mounts";
const RESCUE: &str = "rescue";
const INSTANCES: &str = "instances";

#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

#[derive(Debug, Error)]
pub enum StateError {
    #[error("no state folder: set --state DIR, LACUNA_STATE or HOME")]
    Nowhere,
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}, line {line}: not 'HOST:PORT sha256:…'; the file was left as it is: mend the line or remove it", path.display())]
    Corrupt { path: PathBuf, line: usize },
    #[error(
        "{server} is not trusted yet: compare the key that `lacunad key` prints on the server, then run `lacuna trust {server} sha256:…` here"
    )]
    Unknown { server: String },
    #[error("{server} is trusted with another key, {old}: add --replace if it was set up anew")]
    Different { server: String, old: KeyId },
    #[error(transparent)]
    Identity(#[from] lacuna_transport::quic::identity::IdentityError),
}

impl From<StateError> for error::Error {
    fn from(error: StateError) -> Self {
        Self::new(error::ErrorKind::Invalid, error.to_string())
    }
}

impl StateDir {
    /// `--state`, else $LACUNA_STATE (clap reads it), else the system's place for root or the user.
    pub fn find(given: Option<PathBuf>) -> Result<Self, StateError> {
        let path = match given {
            Some(path) => std::path::absolute(&path).map_err(|source| StateError::Io {
                action: "use",
                path,
                source,
            })?,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/lacuna"),
            None => {
                let set = |name| {
                    std::env::var_os(name)
                        .map(PathBuf::from)
                        .filter(|path| path.is_absolute())
                };
                let home = || set("HOME").map(|home| home.join(".local/state"));
                set("XDG_STATE_HOME")
                    .or_else(home)
                    .ok_or(StateError::Nowhere)?
                    .join("lacuna")
            }
        };
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This client's key; the first call makes it.
    pub fn identity(&self) -> Result<Identity, StateError> {
        Ok(Identity::load_or_create(&self.path)?)
    }

    /// The key that `server` (`HOST:PORT`) must show.
    pub fn trusted(&self, server: &str) -> Result<KeyId, StateError> {
        let known = self.known_servers()?;
        let found = known.into_iter().find(|(name, _)| name == server);
        found.map(|(_, key)| key).ok_or_else(|| StateError::Unknown {
            server: server.to_owned(),
        })
    }

    /// Pins a server's key. Another pinned key is kept unless `replace`.
    pub fn trust(&self, server: &str, key: KeyId, replace: bool) -> Result<(), StateError> {
        self.create(&self.path)?;
        let _lock = self.lock()?;
        let mut known = self.known_servers()?;
        match known.iter_mut().find(|(name, _)| name == server) {
            Some((_, old)) if *old == key => return Ok(()),
            Some((_, old)) if replace => *old = key,
            Some((_, old)) => {
                return Err(StateError::Different {
                    server: server.to_owned(),
                    old: *old,
                });
            }
            None => known.push((server.to_owned(), key)),
        }
        let path = self.path.join(TRUSTED);
        let mut text = String::from(
            "# Servers this client trusts: HOST:PORT and the key that `lacunad key` prints there.\n",
        );
        for (name, key) in known {
            text.push_str(&format!("{name} {key}\n"));
        }
        let aside = self.path.join(format!("{TRUSTED}.new"));
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(|source| StateError::Io {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    /// Where live mounts have their sockets; made if need be.
    pub fn mounts(&self) -> Result<PathBuf, StateError> {
        let path = self.path.join(MOUNTS);
        self.create(&path)?;
        Ok(path)
    }

    /// Where processes say that they live; made when it is needed.
    pub fn instances(&self) -> PathBuf {
        self.path.join(INSTANCES)
    }

    /// Where what could not be saved is kept; made when it is needed.
    pub fn rescue(&self) -> PathBuf {
        self.path.join(RESCUE)
    }

    fn create(&self, path: &Path) -> Result<(), StateError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| StateError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        })
    }

    fn lock(&self) -> Result<fs::File, StateError> {
        let path = self.path.join("lock");
        let at = |source| StateError::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at)?;
        file.lock().map_err(at)?;
        Ok(file)
    }

    fn known_servers(&self) -> Result<Vec<(String, KeyId)>, StateError> {
        let path = self.path.join(TRUSTED);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(StateError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let text = String::from_utf8_lossy(&text);
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines
            .map(|(index, line)| {
                let mut words = line.split_whitespace();
                match (words.next(), words.next().map(str::parse), words.next()) {
                    (Some(server), Some(Ok(key)), None) => Ok((server.to_owned(), key)),
                    _ => Err(StateError::Corrupt {
                        path: path.clone(),
                        line: index + 1,
                    }),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> KeyId {
        format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    #[test]
    fn a_pin_is_kept_until_replaced_on_purpose() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::find(Some(folder.path().join("s"))).unwrap();
        assert!(matches!(state.trusted("h:1"), Err(StateError::Unknown { .. })));
        state.trust("h:1", key('a'), false).unwrap();
        state.trust("h:2", key('b'), false).unwrap();
        state.trust("h:1", key('a'), false).unwrap();
        assert!(matches!(
            state.trust("h:1", key('c'), false),
            Err(StateError::Different { .. })
        ));
        assert_eq!(state.trusted("h:1").unwrap(), key('a'));
        state.trust("h:1", key('c'), true).unwrap();
        assert_eq!(state.trusted("h:1").unwrap(), key('c'));
        assert_eq!(state.trusted("h:2").unwrap(), key('b'));
    }

    #[test]
    fn a_corrupt_list_is_named_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::find(Some(folder.path().to_owned())).unwrap();
        let path = folder.path().join(TRUSTED);
        fs::write(&path, "# fine\nhost:1 nonsense\n").unwrap();
        for result in [state.trusted("h:1").map(drop), state.trust("h:1", key('a'), true)] {
            let error = result.unwrap_err();
            assert!(matches!(error, StateError::Corrupt { line: 2, .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "# fine\nhost:1 nonsense\n");
    }
}
