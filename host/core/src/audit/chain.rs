//! The chain that the records of a tenant are links of.
//!
//! A record has a digest of all that is stored of it (its *leaf*), and a *link*
//! hashes the link before, the record's number in the chain and the leaf. So a
//! byte that changes, a record that goes or changes places, breaks each link after
//! it. What is hashed is written out below to the byte, with test vectors: whoever
//! has the rows can compute it without this program.
//!
//! The leaf is made before a store takes the number, so that what is done while
//! the chain's head is held (three dozen bytes more than a digest) is the same for
//! every record and every engine.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::NewAudit;
use crate::digest::Digest;
use crate::id::{IdError, TenantId};

/// What the hashed bytes begin with, so that no digest of one kind is one of another.
const RECORD: &[u8] = b"bulkhead/audit/record/1\n";
const LINK: &[u8] = b"bulkhead/audit/link/1\n";

/// Whose chain: a tenant's, or that of what concerns no tenant alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// The host's own: policies, the operator's tools, strangers.
    Operator,
    /// A tenant's.
    Tenant(TenantId),
}

/// The name of the operator's chain.
const OPERATOR: &str = "operator";

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str(OPERATOR),
            Self::Tenant(tenant) => tenant.fmt(f),
        }
    }
}

impl FromStr for Chain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == OPERATOR { Ok(Self::Operator) } else { Ok(Self::Tenant(text.parse()?)) }
    }
}

/// A place in a chain: a number, and the link that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number; the first record's is 1.
    pub number: u64,
    /// The link.
    pub hash: Digest,
}

impl Place {
    /// Before the first record.
    pub const START: Self = Self { number: 0, hash: Digest::from_bytes([0; 32]) };

    /// The place of the next record.
    #[must_use]
    pub fn next(&self, leaf: &Digest) -> Self {
        let number = self.number + 1;
        let mut hasher = Sha256::new();
        hasher.update(LINK);
        hasher.update(self.hash.as_bytes());
        hasher.update(number.to_be_bytes());
        hasher.update(leaf.as_bytes());
        Self { number, hash: Digest::from_bytes(hasher.finalize().into()) }
    }
}

/// A record's columns, but for its place, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Milliseconds since 1970.
    pub at: i64,
    /// The chain.
    pub chain: String,
    /// The tenant's user, if there is one.
    pub user: Option<String>,
    /// The task, if it is about one.
    pub task: Option<String>,
    /// The call, if it is about one.
    pub call: Option<String>,
    /// Its kind.
    pub kind: String,
    /// Its data: JSON.
    pub data: Arc<str>,
}

impl From<&NewAudit> for Columns {
    fn from(record: &NewAudit) -> Self {
        Self {
            at: record.at.as_millis(),
            chain: record.chain.to_string(),
            user: record.user.map(|user| user.to_string()),
            task: record.task.map(|task| task.to_string()),
            call: record.call.map(|call| call.to_string()),
            kind: record.kind.clone(),
            data: record.data.clone(),
        }
    }
}

impl Columns {
    /// The digest of all of them: the time, then each text behind its length.
    pub fn leaf(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(RECORD);
        hasher.update(self.at.to_be_bytes());
        let texts = [Some(&*self.chain), self.user.as_deref(), self.task.as_deref(), self.call.as_deref()];
        for text in texts.into_iter().chain([Some(&*self.kind), Some(&*self.data)]) {
            match text {
                Some(text) => {
                    // No text of ours comes near the end of this number; that one says there is none.
                    hasher.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                    hasher.update(text.as_bytes());
                }
                None => hasher.update(u32::MAX.to_be_bytes()),
            }
        }
        Digest::from_bytes(hasher.finalize().into())
    }
}

/// A record as a store has it, nothing of it believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the chain.
    pub number: u64,
    /// Its columns.
    pub columns: Columns,
    /// The link.
    pub hash: Vec<u8>,
}

/// What a store says of a chain: where its kept records begin and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// The chain.
    pub chain: String,
    /// The place before the oldest record that is kept.
    pub kept_after: Place,
    /// The place of the newest.
    pub head: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns {
            at: 1_800_000_000_000,
            chain: "ten_01jd8n2m4v0000000000000000".into(),
            user: Some("usr_01jd8n2m4v0000000000000000".into()),
            task: None,
            call: None,
            kind: "key.revoked".into(),
            data: r#"{"key":"0123456789ab"}"#.into(),
        }
    }

    /// The bytes, put together by hand.
    #[test]
    fn a_leaf_is_the_digest_of_these_bytes() {
        let mut bytes = b"bulkhead/audit/record/1\n".to_vec();
        bytes.extend(hex::decode("000001a3185c5000").expect("hexadecimal"));
        bytes.extend([0, 0, 0, 30]);
        bytes.extend(b"ten_01jd8n2m4v0000000000000000");
        bytes.extend([0, 0, 0, 30]);
        bytes.extend(b"usr_01jd8n2m4v0000000000000000");
        bytes.extend([0xff; 8]);
        bytes.extend([0, 0, 0, 11]);
        bytes.extend(b"key.revoked");
        bytes.extend([0, 0, 0, 22]);
        bytes.extend(br#"{"key":"0123456789ab"}"#);
        assert_eq!(columns().leaf(), Digest::of(&bytes));
    }

    #[test]
    fn a_link_is_the_digest_of_these_bytes() {
        let leaf = Digest::of(b"leaf");
        let first = Place::START.next(&leaf);
        let mut bytes = b"bulkhead/audit/link/1\n".to_vec();
        bytes.extend([0; 32]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend(leaf.as_bytes());
        assert_eq!(first, Place { number: 1, hash: Digest::of(&bytes) });
        let second = first.next(&leaf);
        let mut bytes = b"bulkhead/audit/link/1\n".to_vec();
        bytes.extend(first.hash.as_bytes());
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend(leaf.as_bytes());
        assert_eq!(second, Place { number: 2, hash: Digest::of(&bytes) });
    }

    #[test]
    fn names_of_chains_round_trip() {
        for chain in [Chain::Operator, Chain::Tenant(TenantId::from_parts(7, 8))] {
            assert_eq!(chain.to_string().parse(), Ok(chain));
        }
        assert!("somebody".parse::<Chain>().is_err());
    }
}
