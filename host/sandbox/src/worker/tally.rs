//! Counts what a guest has of one kind at once. What is counted holds its
//! place and gives it back when it is dropped, so that no way to close a thing
//! can be forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// So many there may be, and so many there are.
pub(super) struct Tally {
    most: u64,
    now: Arc<AtomicU64>,
}

/// The place of one thing.
pub(super) struct Held(Arc<AtomicU64>);

impl Tally {
    /// Places for `most`.
    pub(super) fn new(most: u64) -> Self {
        Self { most, now: Arc::default() }
    }

    /// A place, if there is one left.
    pub(super) fn take(&self) -> Option<Held> {
        let fits = |now: u64| (now < self.most).then(|| now + 1);
        self.now.fetch_update(Relaxed, Relaxed, fits).ok().map(|_| Held(self.now.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let tally = Tally::new(2);
        let (one, two) = (tally.take(), tally.take());
        assert!(one.is_some() && two.is_some() && tally.take().is_none());
        drop(one);
        let again = tally.take();
        assert!(again.is_some() && tally.take().is_none());
        drop((two, again));
        assert_eq!(tally.now.load(Relaxed), 0);
    }
}
