//! The key that signs heads: Ed25519, in a file for its owner alone.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bulkhead_core::clock::Entropy;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a seed, and of a public key.
const BYTES: usize = 32;

/// Why the key can't be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file can't be read or made.
    #[error("the key of the audit log's heads {} can't be {what}: {reason}; see `audit.key_file`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        reason: io::Error,
    },
    /// It is no key.
    #[error("{} is no key of the audit log's heads: expected 64 hexadecimal digits; restore it from a backup, or move it away to have another made", .0.display())]
    Malformed(PathBuf),
}

/// Signs heads.
pub struct HeadKey(Ed25519KeyPair);

impl fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeadKey({})", self.public())
    }
}

impl HeadKey {
    /// Reads the key, and makes it if it is not there.
    ///
    /// # Errors
    /// If it can be neither, or the file holds something else.
    pub fn open_or_make(path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyFileError> {
        match Self::open(path)? {
            Some(key) => Ok(key),
            None => Self::make(path, entropy),
        }
    }

    /// Reads the key, if it is there.
    ///
    /// # Errors
    /// If it can't be read, or the file holds something else.
    pub fn open(path: &Path) -> Result<Option<Self>, KeyFileError> {
        let failed = |reason| KeyFileError::File { path: path.into(), what: "read", reason };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        // Longer than any key: what is not one is not read to its end.
        file.take(1_024).read_to_string(&mut text).map_err(failed)?;
        let mut seed = [0; BYTES];
        let key = hex::decode_to_slice(text.trim_end(), &mut seed).ok().and_then(|()| Self::of(&seed));
        key.map(Some).ok_or_else(|| KeyFileError::Malformed(path.into()))
    }

    fn make(path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyFileError> {
        let failed = |reason| KeyFileError::File { path: path.into(), what: "made", reason };
        let mut seed = [0; BYTES];
        entropy.fill(&mut seed);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(format!("{}\n", hex::encode(seed)).as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Self::of(&seed).ok_or_else(|| KeyFileError::Malformed(path.into()))
    }

    fn of(seed: &[u8; BYTES]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// The half that may be known.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; BYTES];
        // Both have 32 bytes.
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs.
    pub fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.0.sign(statement).as_ref().to_vec()
    }
}

/// Checks signatures. As text: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; BYTES]);

/// A text that is no public key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a public key: expected 64 hexadecimal digits, as `bulkhead audit export` prints them")]
pub struct BadPublicKey;

impl PublicKey {
    /// Whether the signature is this key's.
    pub fn verifies(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(statement, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadPublicKey)?;
        Ok(Self(bytes))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::system::System;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.key");
        let key = HeadKey::open_or_make(&path, &System).expect("is made");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = HeadKey::open_or_make(&path, &System).expect("is read");
        assert_eq!(again.public(), key.public());
        let signature = key.sign(b"heads");
        assert!(again.public().verifies(b"heads", &signature));
        assert!(!again.public().verifies(b"headz", &signature));
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        assert!(!format!("{key:?}").contains(std::fs::read_to_string(&path).expect("a text").trim_end()));
        std::fs::write(&path, "something else").expect("is written");
        assert!(matches!(HeadKey::open_or_make(&path, &System), Err(KeyFileError::Malformed(_))));
    }
}
