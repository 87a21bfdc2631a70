//! The real clock and the real randomness: the only adapter of both.

use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_core::clock::{Clock, Entropy, Timestamp};

/// The machine's clock and the kernel's randomness.
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
        // Going on with predictable keys would be worse than to stop.
        getrandom::fill(bytes).expect("the kernel gives randomness");
    }
}
