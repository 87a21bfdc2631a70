//! The real clock and the real randomness: the only adapter of both.

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_core::clock::{Clock, Entropy, Timestamp};
use rand::RngCore as _;

/// The random part of an id has at most so many bytes; what is to be secret has more.
const OF_AN_ID: usize = 10;

/// The machine's clock and the kernel's randomness; for ids that of a generator that the
/// kernel seeds, again and again (`rand::rngs::ThreadRng`): a system call for each of the
/// two ids of a call would be a hundredth of its cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 is broken; 1970 makes that plain in every row.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Entropy for System {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() <= OF_AN_ID {
            return rand::rng().fill_bytes(bytes);
        }
        // Going on with predictable keys would be worse than to stop.
        getrandom::fill(bytes).expect("the kernel gives randomness");
    }
}
