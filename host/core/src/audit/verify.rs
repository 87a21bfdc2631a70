//! Whether a chain is whole: every kept record from the first on, against its
//! links, the head that the store says, and the heads that were signed.
//!
//! A chain alone shows what was changed by who can't compute hashes. Who can
//! write to the database can make a chain anew from any record on, or cut its
//! end off; only a head that was signed by a key elsewhere shows that. Of what
//! retention removed nothing can be said but the link that it left, and whether it
//! was old enough: what came after a head is younger than its signature.

use thiserror::Error;

use super::chain::{ChainState, Place, Stored};
use crate::clock::Timestamp;
use crate::digest::Digest;

/// What is wrong with a chain. The first is the only one told: after it nothing
/// more can be known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// A record is not where it must be.
    #[error("record {expected} is missing: after {} comes {found}", .expected - 1)]
    Gap {
        /// The number that must come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A record does not hash to its link.
    #[error("record {number} was changed, or one before it was: its hash does not follow from it")]
    Changed {
        /// Its number.
        number: u64,
    },
    /// The last record is not the one that the store says.
    #[error("the chain ends at record {found}, its head is record {head}")]
    Ends {
        /// The last record.
        found: u64,
        /// What the head says.
        head: u64,
    },
    /// The head is another link than the last record's.
    #[error("the head at record {number} is not the hash of that record")]
    Head {
        /// Its number.
        number: u64,
    },
    /// There are records after the last.
    #[error("the head is at record {head}, but there is a record {found}: the head was set back")]
    Beyond {
        /// What the head says.
        head: u64,
        /// The next record that is there.
        found: u64,
    },
    /// A trusted head lies beyond the end.
    #[error("the chain was cut off: it ends at record {last}, record {signed} was signed")]
    Truncated {
        /// The last record.
        last: u64,
        /// The newest that was signed.
        signed: u64,
    },
    /// Records were removed that retention would have kept.
    #[error(
        "the chain was cut off at its beginning: records up to {removed} are gone, though those after {signed} were \
         made after {at}, when that was signed, and are kept for longer; if `keep.audit_hours` was less when they \
         were removed, name that by --kept-hours"
    )]
    RemovedEarly {
        /// The last record that is gone.
        removed: u64,
        /// The newest that was signed before it.
        signed: u64,
        /// When.
        at: Timestamp,
    },
    /// A trusted head is another link than that record's.
    #[error("record {number} is not the one that was signed: the chain was made anew at or before it")]
    Forged {
        /// Its number.
        number: u64,
    },
}

/// What was found of a chain that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Records that were checked.
    pub records: u64,
    /// Trusted heads that it was compared with.
    pub heads: u64,
    /// The newest of them.
    pub trusted: Option<u64>,
    /// Trusted heads of records that retention has removed.
    pub too_old: u64,
}

/// A head that was signed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedPlace {
    /// The head.
    pub place: Place,
    /// When it was signed.
    pub at: Timestamp,
}

/// Whether nothing was removed from the beginning of a chain that is younger than
/// `oldest`, which retention would have kept.
///
/// # Errors
/// If something was, as far as signed heads tell.
pub fn removed_in_time(state: &ChainState, signed: &[SignedPlace], oldest: Timestamp) -> Result<(), Broken> {
    let removed = state.kept_after.number;
    let before = signed.iter().filter(|signed| signed.place.number < removed);
    match before.max_by_key(|signed| signed.at) {
        Some(SignedPlace { place, at }) if *at > oldest => {
            Err(Broken::RemovedEarly { removed, signed: place.number, at: *at })
        }
        _ => Ok(()),
    }
}

/// Walks a chain.
#[derive(Clone, Debug)]
pub struct Verifier {
    last: Place,
    head: Place,
    /// By number, the smallest last.
    trusted: Vec<Place>,
    whole: Whole,
}

impl Verifier {
    /// Begins before the oldest kept record.
    ///
    /// # Errors
    /// If that is not what was signed.
    pub fn new(state: &ChainState, mut trusted: Vec<Place>) -> Result<Self, Broken> {
        trusted.sort_by_key(|place| std::cmp::Reverse(place.number));
        let whole = Whole { records: 0, heads: 0, trusted: None, too_old: 0 };
        let mut verifier = Self { last: state.kept_after, head: state.head, trusted, whole };
        while verifier.trusted.pop_if(|place| place.number < state.kept_after.number).is_some() {
            verifier.whole.too_old += 1;
        }
        verifier.compare()?;
        Ok(verifier)
    }

    /// The number of the last record that was seen.
    pub fn last(&self) -> u64 {
        self.last.number
    }

    /// The next record.
    ///
    /// # Errors
    /// If it is not the one that must come.
    pub fn take(&mut self, record: &Stored) -> Result<(), Broken> {
        let next = self.last.next(&record.columns.leaf());
        if record.number != next.number {
            return Err(Broken::Gap { expected: next.number, found: record.number });
        }
        if record.hash != next.hash.as_bytes() {
            return Err(Broken::Changed { number: record.number });
        }
        self.last = next;
        self.whole.records += 1;
        self.compare()
    }

    /// No further record comes.
    ///
    /// # Errors
    /// If more must come.
    pub fn end(self) -> Result<Whole, Broken> {
        if self.last.number != self.head.number {
            return Err(Broken::Ends { found: self.last.number, head: self.head.number });
        }
        if self.last.hash != self.head.hash {
            return Err(Broken::Head { number: self.head.number });
        }
        match self.trusted.first() {
            Some(newest) => Err(Broken::Truncated { last: self.last.number, signed: newest.number }),
            None => Ok(self.whole),
        }
    }

    /// Compares with the heads that were signed of this number.
    fn compare(&mut self) -> Result<(), Broken> {
        while let Some(signed) = self.trusted.pop_if(|place| place.number == self.last.number) {
            if signed.hash != self.last.hash {
                return Err(Broken::Forged { number: signed.number });
            }
            self.whole.heads += 1;
            self.whole.trusted = Some(signed.number);
        }
        Ok(())
    }
}

/// What is signed of all heads: the time, then each chain behind the length of its
/// name, its number and its link.
pub fn statement(at_ms: i64, heads: &[(String, Place)]) -> Vec<u8> {
    let mut bytes = b"bulkhead/audit/heads/1\n".to_vec();
    bytes.extend(at_ms.to_be_bytes());
    bytes.extend((heads.len() as u64).to_be_bytes());
    for (chain, Place { number, hash }) in heads {
        bytes.extend(u32::try_from(chain.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(chain.as_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend(hash.as_bytes());
    }
    bytes
}

/// Walks records that are all there, for tests and small chains.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(state: &ChainState, records: &[Stored], trusted: Vec<Place>) -> Result<Whole, Broken> {
    let mut verifier = Verifier::new(state, trusted)?;
    records.iter().try_for_each(|record| verifier.take(record))?;
    verifier.end()
}

/// A link as the store has it.
///
/// # Errors
/// If it has not 32 bytes.
pub fn link(bytes: &[u8]) -> Result<Digest, std::array::TryFromSliceError> {
    Ok(Digest::from_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests;
