//! API keys: `bh_<id>_<secret><checksum>`. An identifiable prefix for secret
//! scanners, a public id for the look-up, 192 random bits, and a CRC-32 so
//! that a typing error is told apart without asking the store. At rest only
//! SHA-256 of the secret: it has full entropy, so a slow hash would only give
//! an attacker a way to burn our processor.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::clock::{Entropy, Timestamp};
use crate::digest::Digest;
use crate::principal::{Owner, Scopes};

const PREFIX: &str = "bh_";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of the public id: 60 bits.
const ID_CHARS: usize = 12;
/// Characters of the secret: 192 bits need 38.4.
const SECRET_CHARS: usize = 39;
/// Characters of the checksum: 32 bits need 6.4.
const CHECK_CHARS: usize = 7;

/// The public id of a key: names it in lists and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From text.
    ///
    /// # Errors
    /// If it does not have the form of an id.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() == ID_CHARS && text.bytes().all(|byte| ALPHABET.contains(&byte)) {
            Ok(Self(text.into()))
        } else {
            Err(KeyError::Malformed)
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that can't be one of our keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not of the form at all.
    #[error("not an API key: expected `bh_<id>_<secret>`")]
    Malformed,
    /// Of the form, but the checksum is off: mistyped or cut.
    #[error("the API key is mistyped or cut off: its checksum does not match")]
    Checksum,
}

/// A key as its holder has it. Printed once, never stored, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: String,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

impl ApiKey {
    /// Makes a key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self { id: KeyId(random_text(entropy, ID_CHARS).into()), secret: random_text(entropy, SECRET_CHARS) }
    }

    /// From the text that its holder sent.
    ///
    /// # Errors
    /// If it can't be one of our keys.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(PREFIX).ok_or(KeyError::Malformed)?;
        let (id, rest) = rest.split_once('_').ok_or(KeyError::Malformed)?;
        let known = rest.bytes().all(|byte| ALPHABET.contains(&byte));
        if rest.len() != SECRET_CHARS + CHECK_CHARS || !known {
            return Err(KeyError::Malformed);
        }
        let (secret, check) = rest.split_at(SECRET_CHARS);
        let key = Self { id: KeyId::parse(id)?, secret: secret.to_owned() };
        if key.checksum() == check { Ok(key) } else { Err(KeyError::Checksum) }
    }

    /// The public id.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The whole key, to be shown once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}{}", self.id, self.secret, self.checksum())
    }

    /// What is stored of the secret.
    pub fn hash(&self) -> Digest {
        Digest::of(self.secret.as_bytes())
    }

    /// Whether `hash` is this key's, in constant time.
    pub fn matches(&self, hash: &Digest) -> bool {
        self.hash().as_bytes().ct_eq(hash.as_bytes()).into()
    }

    fn checksum(&self) -> String {
        let mut crc = crc32fast::Hasher::new();
        [self.id.as_str(), "_", &self.secret].iter().for_each(|part| crc.update(part.as_bytes()));
        base32(u64::from(crc.finalize()), CHECK_CHARS)
    }
}

/// Whether `text` is made of our alphabet.
pub(crate) fn is_text(text: &str) -> bool {
    text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// So many random characters of our alphabet, 5 bits each.
pub(crate) fn random_text(entropy: &dyn Entropy, chars: usize) -> String {
    let mut bytes = vec![0; chars];
    entropy.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

fn base32(value: u64, chars: usize) -> String {
    (0..chars).rev().map(|i| char::from(ALPHABET[(value >> (5 * i)) as usize & 31])).collect()
}

/// A key as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public id.
    pub id: KeyId,
    /// Hash of the secret.
    pub hash: Digest,
    /// Whose it is.
    pub owner: Owner,
    /// What it may do.
    pub scopes: Scopes,
    /// A name for people.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter;
    impl Entropy for Counter {
        fn fill(&self, bytes: &mut [u8]) {
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = (index * 7) as u8;
            }
        }
    }

    #[test]
    fn keys_round_trip_and_typos_are_found() {
        let key = ApiKey::generate(&Counter);
        let text = key.reveal();
        assert_eq!(ApiKey::parse(&text), Ok(key.clone()));
        assert!(key.matches(&key.hash()));
        assert!(!key.matches(&Digest::of(b"other")));
        let mut typo = text.clone().into_bytes();
        let last = typo.len() - 20;
        typo[last] = if typo[last] == b'a' { b'b' } else { b'a' };
        let typo = String::from_utf8(typo).expect("ASCII");
        assert_eq!(ApiKey::parse(&typo), Err(KeyError::Checksum));
        for text in ["", "bh_", "bh_a_b", "sk-123", &text[..text.len() - 1]] {
            assert_eq!(ApiKey::parse(text), Err(KeyError::Malformed), "{text}");
        }
        assert!(!format!("{key:?}").contains(&text[16..30]));
    }
}
