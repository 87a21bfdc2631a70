//! Signed heads: a line of JSON each, as they are exported and read again.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};

use bulkhead_core::audit::chain::{ChainState, Place};
use bulkhead_core::audit::verify::{SignedPlace, statement};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{HeadKey, PublicKey};

/// Heads of chains at a time, signed. The signature is of
/// [`bulkhead_core::audit::verify::statement`]: time and heads in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// When they were read.
    pub at: Timestamp,
    /// Whose signature it is.
    pub key: PublicKey,
    /// The heads.
    pub heads: Vec<Head>,
    /// The signature, in hexadecimal digits.
    pub signature: String,
}

/// The head of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The chain: a tenant, or `operator`.
    pub chain: String,
    /// Its newest record.
    pub number: u64,
    /// The link of that.
    pub hash: Digest,
}

/// Why a file of signed heads can't be trusted.
#[derive(Debug, Error)]
pub enum BadHeads {
    /// It can't be read.
    #[error("the file of signed heads {} can't be read: {reason}; name one that `audit.export_dir` has, by --head", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A line is none of ours.
    #[error("{}, line {line}: not a statement of signed heads: {reason}; it was changed, or is another file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A line is signed by another key.
    #[error("{}, line {line}: signed by the key {key}, which is not one that is trusted; name it by --key if it is yours", path.display())]
    Stranger {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The key that it names.
        key: PublicKey,
    },
    /// A signature is not of what it stands at.
    #[error("{}, line {line}: the signature is not of these heads; the line was changed", path.display())]
    Forged {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

impl Signed {
    /// Signs where chains end.
    pub fn new(key: &HeadKey, at: Timestamp, chains: &[ChainState]) -> Self {
        let head =
            |state: &ChainState| Head { chain: state.chain.clone(), number: state.head.number, hash: state.head.hash };
        let heads: Vec<Head> = chains.iter().map(head).collect();
        let signature = hex::encode(key.sign(&statement(at.as_millis(), &places(&heads))));
        Self { at, key: key.public(), heads, signature }
    }

    /// Whether the signature is the key's that it names, and of these heads.
    pub fn is_whole(&self) -> bool {
        let Ok(signature) = hex::decode(&self.signature) else { return false };
        self.key.verifies(&statement(self.at.as_millis(), &places(&self.heads)), &signature)
    }
}

fn places(heads: &[Head]) -> Vec<(String, Place)> {
    heads.iter().map(|head| (head.chain.clone(), Place { number: head.number, hash: head.hash })).collect()
}

/// What was signed of each chain.
pub type Trusted = BTreeMap<String, Vec<SignedPlace>>;

/// Adds the heads of a file, each line checked against the keys that are trusted.
///
/// # Errors
/// If anything of it can't be trusted.
pub fn read(path: &Path, keys: &[PublicKey], trusted: &mut Trusted) -> Result<(), BadHeads> {
    let unreadable = |reason| BadHeads::Unreadable { path: path.into(), reason };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    for (line, text) in (1..).zip(io::BufReader::new(file).lines()) {
        let text = text.map_err(unreadable)?;
        let path = path.to_path_buf();
        let signed: Signed = match serde_json::from_str(&text) {
            Ok(signed) => signed,
            Err(error) => return Err(BadHeads::Malformed { path, line, reason: error.to_string() }),
        };
        // What can be written in another way could be changed and mean the same.
        if serde_json::to_string(&signed).ok().as_deref() != Some(&*text) {
            return Err(BadHeads::Malformed { path, line, reason: "it is not as it was written".into() });
        }
        if !keys.contains(&signed.key) {
            return Err(BadHeads::Stranger { path, line, key: signed.key });
        }
        if !signed.is_whole() {
            return Err(BadHeads::Forged { path, line });
        }
        for (chain, place) in places(&signed.heads) {
            trusted.entry(chain).or_default().push(SignedPlace { place, at: signed.at });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::System;

    #[test]
    fn signed_heads_are_read_again_and_no_byte_of_them_may_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = HeadKey::open_or_make(&directory.path().join("key"), &System).expect("a key");
        let head = Place { number: 7, hash: Digest::of(b"x") };
        let state = ChainState { chain: "operator".into(), kept_after: Place::START, head };
        let line = serde_json::to_string(&Signed::new(&key, Timestamp::from_millis(5), &[state])).expect("is JSON");
        let path = directory.path().join("heads.jsonl");
        std::fs::write(&path, format!("{line}\n{line}\n")).expect("is written");
        let mut trusted = Trusted::new();
        read(&path, &[key.public()], &mut trusted).expect("is good");
        let signed = SignedPlace { place: head, at: Timestamp::from_millis(5) };
        assert_eq!(trusted["operator"], [signed, signed]);
        let other = HeadKey::open_or_make(&directory.path().join("other"), &System).expect("a key");
        let stranger = read(&path, &[other.public()], &mut trusted);
        assert!(matches!(stranger, Err(BadHeads::Stranger { line: 1, .. })));
        for at in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[at] ^= 1;
            std::fs::write(&path, changed).expect("is written");
            let error = read(&path, &[key.public()], &mut trusted).expect_err("was changed");
            assert!(error.to_string().contains("heads.jsonl"), "{error}");
        }
    }
}
