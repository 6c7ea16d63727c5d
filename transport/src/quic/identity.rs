//! Who a machine is: an Ed25519 key on disk, known to others by the SHA-256 of its public half.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use pem_rfc7468::LineEnding;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use crate::hex;

const FILE_NAME: &str = "identity.key";
const PEM_LABEL: &str = "PRIVATE KEY";
/// A PEM Ed25519 key is about 200 bytes; more is not one.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// SHA-256 of a public key (its DER SubjectPublicKeyInfo), shown as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The identity behind a DER SubjectPublicKeyInfo.
    pub fn of_public_key(spki: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, spki);
        Self(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        hex::write(f, &self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not a key identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key is written sha256: and 64 hex digits")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digits = text.strip_prefix("sha256:").ok_or(KeyIdError)?;
        hex::parse(digits).map(Self).ok_or(KeyIdError)
    }
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} is not a private key lacuna can use ({why}); it was left as it is: restore it from a backup, or move it away to start with a new identity",
        path.display()
    )]
    Corrupt { path: PathBuf, why: String },
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// A key pair and its identity.
pub struct Identity {
    key: PrivatePkcs8KeyDer<'static>,
    public: SubjectPublicKeyInfoDer<'static>,
    id: KeyId,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// A new identity that is nowhere on disk.
    pub fn generate() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system has randomness");
        Self::from_pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec())).expect("a fresh key is sound")
    }

    /// The identity of a state folder; the first call makes folder and key (0700, 0600).
    /// A file that is there and is not a key is an error, and is never overwritten.
    pub fn load_or_create(state: &Path) -> Result<Self, IdentityError> {
        let path = state.join(FILE_NAME);
        match Self::load(&path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let at = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { action, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(at("create", state))?;
        let identity = Self::generate();
        let pem = pem_rfc7468::encode_string(PEM_LABEL, LineEnding::LF, identity.key.secret_pkcs8_der())
            .expect("a key of 80 bytes encodes");
        // Written aside and linked into place: two first calls at once agree on one key.
        let aside = state.join(format!("{FILE_NAME}.{}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()?;
            match fs::hard_link(&aside, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            }
        };
        let written = write();
        // Best effort: a left-over file is harmless, and the outcome that counts is `written`.
        let _ = fs::remove_file(&aside);
        written.map_err(at("write", &path))?;
        Self::load(&path)
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let at = |source| IdentityError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let corrupt = |why: String| IdentityError::Corrupt {
            path: path.to_owned(),
            why,
        };
        let meta = fs::metadata(path).map_err(at)?;
        let mode = std::os::unix::fs::MetadataExt::mode(&meta) & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        if meta.len() > FILE_BYTES_MAX {
            return Err(corrupt(format!("it has {} bytes", meta.len())));
        }
        let text = fs::read(path).map_err(at)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        Self::from_pkcs8(key).map_err(corrupt)
    }

    fn from_pkcs8(key: PrivatePkcs8KeyDer<'static>) -> Result<Self, String> {
        let signer = signer(&key).map_err(|error| error.to_string())?;
        let public = signer.public_key().ok_or("it has no public half")?.into_owned();
        let id = KeyId::of_public_key(&public);
        Ok(Self { key, public, id })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key as rustls wants it: the "certificate" is the bare public key.
    pub(super) fn certified(&self) -> rustls::sign::CertifiedKey {
        let signer = signer(&self.key).expect("checked when the identity was made");
        rustls::sign::CertifiedKey::new(vec![self.public.as_ref().to_vec().into()], signer)
    }

    /// Bytes that only this identity can derive: for keys that must survive a restart.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.key.secret_pkcs8_der());
        let tag = aws_lc_rs::hmac::sign(&key, purpose.as_bytes());
        tag.as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
    }
}

fn signer(key: &PrivatePkcs8KeyDer<'static>) -> Result<std::sync::Arc<dyn SigningKey>, rustls::Error> {
    rustls::crypto::aws_lc_rs::sign::any_eddsa_type(key).or_else(|_| {
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.clone_key()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_made_once_and_read_back() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("a/b");
        let first = Identity::load_or_create(&folder).unwrap();
        let again = Identity::load_or_create(&folder).unwrap();
        assert_eq!(first.id(), again.id());
        assert_eq!(first.id().to_string().parse::<KeyId>().unwrap(), first.id());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_ne!(Identity::generate().id(), first.id());
    }

    #[test]
    fn a_corrupt_key_is_an_error_and_stays() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE_NAME);
        for bad in [
            "",
            "garbage",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .unwrap()
                .write_all(bad.as_bytes())
                .unwrap();
            let error = Identity::load_or_create(state.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Corrupt { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let state = tempfile::tempdir().unwrap();
        Identity::load_or_create(state.path()).unwrap();
        let path = state.path().join(FILE_NAME);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(
            Identity::load_or_create(state.path()),
            Err(IdentityError::Exposed { mode: 0o644, .. })
        ));
    }

    #[test]
    fn only_whole_identities_parse() {
        for bad in [
            "",
            "sha256:",
            "sha256:00",
            &format!("sha256:{}", "g".repeat(64)),
            &"0".repeat(64),
        ] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?} was taken");
        }
    }
}
