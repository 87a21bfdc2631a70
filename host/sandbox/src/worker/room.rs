//! What a call may still add to its workspace, and what it has added.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::wire::Taken;

/// The host is told of each so many bytes, and entries, that a call has added: as much
/// may be added beyond what a user may hold by each of its calls that run then.
const STEP: Taken = Taken { bytes: 256 * 1024, entries: 64 };

/// Of bytes, or of entries.
#[derive(Debug)]
struct Counter {
    left: AtomicU64,
    taken: AtomicU64,
    /// Of which the host knows.
    told: AtomicU64,
}

impl Counter {
    fn new(left: u64) -> Self {
        Self { left: AtomicU64::new(left), taken: AtomicU64::new(0), told: AtomicU64::new(0) }
    }

    fn take(&self, amount: u64) -> bool {
        let taken = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(amount)).is_ok();
        if taken {
            self.taken.fetch_add(amount, Relaxed);
        }
        taken
    }

    fn give(&self, amount: u64) {
        self.left.fetch_add(amount, Relaxed);
        // What was there before the call is none of what it added.
        let less = |taken: u64| Some(taken.saturating_sub(amount));
        let _ = self.taken.fetch_update(Relaxed, Relaxed, less);
    }

    fn is_news(&self, step: u64) -> bool {
        self.taken.load(Relaxed).abs_diff(self.told.load(Relaxed)) >= step
    }

    fn tell(&self) -> u64 {
        let taken = self.taken.load(Relaxed);
        self.told.store(taken, Relaxed);
        taken
    }
}

/// The room of a call.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Counter,
    entries: Counter,
}

impl Room {
    pub(super) fn new((bytes, entries): (u64, u64)) -> Self {
        Self { bytes: Counter::new(bytes), entries: Counter::new(entries) }
    }

    /// Takes bytes, if there are so many.
    pub(super) fn take_bytes(&self, bytes: u64) -> bool {
        self.bytes.take(bytes)
    }

    /// Takes an entry, if there is one.
    pub(super) fn take_entry(&self) -> bool {
        self.entries.take(1)
    }

    /// Gives bytes back.
    pub(super) fn give_bytes(&self, bytes: u64) {
        self.bytes.give(bytes);
    }

    /// Gives an entry back.
    pub(super) fn give_entry(&self) {
        self.entries.give(1);
    }

    /// Nothing is left, but for what is given back from now on.
    pub(super) fn withdraw(&self) {
        self.bytes.left.store(0, Relaxed);
        self.entries.left.store(0, Relaxed);
    }

    /// What was taken, if it is so much more or less than the host knows.
    pub(super) fn news(&self) -> Option<Taken> {
        (self.bytes.is_news(STEP.bytes) || self.entries.is_news(STEP.entries)).then(|| self.taken())
    }

    /// What was taken: the host is told.
    pub(super) fn taken(&self) -> Taken {
        Taken { bytes: self.bytes.tell(), entries: self.entries.tell() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_of_each_step_both_ways() {
        let room = Room::new((1 << 20, 1_000));
        assert!(room.take_bytes(STEP.bytes - 1) && room.news().is_none());
        assert!(room.take_bytes(1));
        assert_eq!(room.news(), Some(Taken { bytes: STEP.bytes, entries: 0 }));
        assert_eq!(room.news(), None);
        (0..STEP.entries).for_each(|_| assert!(room.take_entry()));
        assert_eq!(room.news(), Some(Taken { bytes: STEP.bytes, entries: STEP.entries }));
        // More than it added was there before.
        room.give_bytes(2 * STEP.bytes);
        assert_eq!(room.news(), Some(Taken { bytes: 0, entries: STEP.entries }));
        room.withdraw();
        assert!(!room.take_bytes(1) && !room.take_entry());
        room.give_entry();
        assert!(room.take_entry() && !room.take_entry());
    }
}
