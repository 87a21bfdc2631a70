//! Whose short calls take much time lately. Each of them may be short, and all of them
//! together are not: so they begin in the background, where they cost others what guests do
//! that take long.
//!
//! A leaky bucket for each user, which the processor time of its calls fills as long as they
//! are short, in either thread: whoever floods goes on in the background until that is over,
//! or until it gets less there than what leaks. A call that takes long does not make the
//! others of its user heavy.
//!
//! To begin in the background costs a hand-over between threads, which is much beside a call
//! that is short. So as long as a user has the worker for itself, only what its calls are too
//! long by counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// With more than this in its bucket a user is heavy: some turns at once are not much.
const BURST: Duration = Duration::from_millis(8);

/// What a bucket holds: who has stopped is light again after an eighth of a second.
const FULL: Duration = Duration::from_millis(16);

/// An eighth of the time that goes by leaks: so much of a processor a user may have for its
/// short calls, and be light.
const PART: u32 = 8;

/// So much of each call counts only where there are others: several times what a hand-over
/// costs.
const SHORT: Duration = Duration::from_micros(250);

/// Others are there for so long after they were last seen.
const RECENT: Duration = Duration::from_secs(1);

/// The users of a worker.
#[derive(Debug, Default)]
pub(super) struct Heavy(Mutex<Users>);

#[derive(Debug, Default)]
struct Users {
    buckets: HashMap<u32, Bucket>,
    /// Who was seen last, and who before of the others.
    last: Option<(u32, Instant)>,
    before: Option<(u32, Instant)>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    level: Duration,
    at: Instant,
}

impl Bucket {
    fn level(&self, now: Instant) -> Duration {
        self.level.saturating_sub(now.saturating_duration_since(self.at) / PART)
    }
}

impl Users {
    fn see(&mut self, user: u32, now: Instant) {
        match &mut self.last {
            Some((last, at)) if *last == user => *at = now,
            last => {
                self.before = last.replace((user, now));
            }
        }
    }

    fn others_than(&self, user: u32, now: Instant) -> bool {
        let mut seen = [self.last, self.before].into_iter().flatten();
        seen.any(|(who, at)| who != user && now.saturating_duration_since(at) < RECENT)
    }

    /// Forgets the empty buckets, now and then.
    fn sweep(&mut self, now: Instant) {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) >= RECENT {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| !bucket.level(now).is_zero());
        }
    }
}

impl Heavy {
    /// A call of a user came.
    pub(super) fn came(&self, user: u32, now: Instant) {
        let mut users = self.users();
        users.see(user, now);
        users.sweep(now);
    }

    /// A short call of a user that had used so much `before` used so much more; whether it is
    /// to go on in the background.
    fn had(&self, user: u32, before: Duration, time: Duration, now: Instant) -> bool {
        let mut users = self.users();
        users.see(user, now);
        let beyond = |used: Duration| used.saturating_sub(SHORT);
        let counts = if users.others_than(user, now) { time } else { beyond(before + time) - beyond(before) };
        let bucket = users.buckets.entry(user).or_insert(Bucket { level: Duration::ZERO, at: now });
        *bucket = Bucket { level: (bucket.level(now) + counts).min(FULL), at: now };
        bucket.level > BURST
    }

    /// Whether calls of a user belong into the background.
    pub(super) fn is(&self, user: u32, now: Instant) -> bool {
        self.users().buckets.get(&user).is_some_and(|bucket| bucket.level(now) > BURST)
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the turns of one call for its user.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    heavy: Arc<Heavy>,
    user: u32,
}

impl Turns {
    pub(super) fn of(heavy: &Arc<Heavy>, user: u32) -> Self {
        Self { heavy: heavy.clone(), user }
    }

    /// Notes what a call used that was short `before`; whether it is to go on in the background.
    pub(super) fn had(&self, before: Duration, time: Duration) -> bool {
        self.heavy.had(self.user, before, time, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Calls one after the other for a while, each of one turn; how many were in the first
    /// thread. One in the background takes `slower` times as long.
    fn flood(heavy: &Heavy, turn: Duration, slower: u32, from: Instant, span: Duration) -> u32 {
        let (mut now, mut first) = (from, 0);
        while now < from + span {
            heavy.came(1, now);
            let behind = heavy.is(1, now);
            now += turn * if behind { slower } else { 1 };
            heavy.had(1, Duration::ZERO, turn, now);
            first += u32::from(!behind);
        }
        first
    }

    #[test]
    fn who_floods_does_so_in_the_background() {
        let (heavy, now) = (Heavy::default(), Instant::now());
        let first = flood(&heavy, MS, 2, now, RECENT);
        assert!((8..=16).contains(&first), "{first} turns");
        assert!(!heavy.is(2, now), "nobody else does");
        assert!(heavy.is(1, now + RECENT) && !heavy.is(1, now + RECENT + FULL * PART), "what it had is forgotten");
    }

    #[test]
    fn who_gets_nothing_there_has_a_part_of_the_first_thread() {
        let (heavy, now) = (Heavy::default(), Instant::now());
        heavy.came(2, now);
        let first = flood(&heavy, MS, 100, now, RECENT);
        assert!((60..=140).contains(&first), "{first} turns");
    }

    #[test]
    fn short_turns_count_where_there_are_others() {
        let (heavy, now, turn) = (Heavy::default(), Instant::now(), MS / 10);
        assert_eq!(flood(&heavy, turn, 2, now, 100 * MS), 1_000, "it is alone");
        let now = now + 100 * MS;
        heavy.came(2, now);
        let first = flood(&heavy, turn, 2, now, 100 * MS);
        assert!((80..=120).contains(&first), "{first} turns");
        let now = now + 100 * MS + RECENT;
        assert_eq!(flood(&heavy, turn, 2, now, 100 * MS), 1_000, "it is alone again");
    }

    #[test]
    fn short_turns_of_a_long_call_count() {
        let (heavy, now) = (Heavy::default(), Instant::now());
        heavy.came(1, now);
        let calls = (0..100).find(|_| (0..8).any(|nth| heavy.had(1, MS / 4 * nth, MS / 4, now)));
        assert_eq!(calls, Some(4), "each of two milliseconds counts but for a quarter of one");
    }

    #[test]
    fn one_that_comes_now_and_then_is_light() {
        let (heavy, begin) = (Heavy::default(), Instant::now());
        for nth in 0..1_000 {
            let now = begin + nth * 20 * MS;
            heavy.came(2, now);
            heavy.came(1, now);
            assert!(!heavy.is(1, now));
            heavy.had(1, Duration::ZERO, 2 * MS, now);
        }
        // What is empty takes no room.
        heavy.came(2, begin + 3_600 * RECENT);
        assert!(heavy.users().buckets.is_empty());
    }
}
