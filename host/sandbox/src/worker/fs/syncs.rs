//! The disk's time between users. A guest that has files written to the disk
//! again and again holds up whoever else waits for that disk: every commit of
//! the server, if its database lies there. None of it is processor time. So the
//! guests of a user have a share of the time for it, beyond a burst that a tool
//! does not see the end of which syncs what it wrote.
//!
//! The generic cell rate algorithm (ITU-T I.371), in which a sync costs the time
//! that it took.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One part in so many of the time is for the syncs of a user.
const PARTS: u32 = 4;

/// What they may take at once, after a rest.
const BURST: Duration = Duration::from_millis(250);

/// What one may cost: whoever wrote much and has it written once need not wait for
/// minutes with the next.
const MOST: Duration = Duration::from_secs(1);

/// What the guests of a worker's users took.
#[derive(Default)]
pub(in crate::worker) struct Syncs {
    /// When what each took is paid for; only of those who owe.
    paid: Mutex<HashMap<u32, Instant>>,
}

/// Those of one user.
#[derive(Clone)]
pub(in crate::worker) struct UserSyncs {
    all: Arc<Syncs>,
    user: u32,
}

impl Syncs {
    pub(in crate::worker) fn of(self: &Arc<Self>, user: u32) -> UserSyncs {
        UserSyncs { all: self.clone(), user }
    }

    fn paid(&self) -> MutexGuard<'_, HashMap<u32, Instant>> {
        self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a user has to wait for the next.
    fn wait(&self, user: u32, now: Instant) -> Duration {
        let owed = self.paid().get(&user).map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        owed.saturating_sub(BURST * PARTS)
    }

    /// Notes that one took so long.
    fn took(&self, user: u32, time: Duration, now: Instant) {
        let mut paid = self.paid();
        let before = paid.remove(&user).unwrap_or(now).max(now);
        // Whoever owes nothing is nobody: there are as many as were at it lately.
        paid.retain(|_, paid| *paid > now);
        paid.insert(user, before + time.min(MOST) * PARTS);
    }
}

impl UserSyncs {
    /// Has a file written to the disk when its turn has come, elsewhere: whoever waits
    /// for the disk in the worker's thread holds up every other guest.
    pub(super) async fn sync(&self, file: Arc<File>, all: bool) -> io::Result<()> {
        loop {
            let wait = self.all.wait(self.user, Instant::now());
            if wait.is_zero() {
                break;
            }
            tokio::time::sleep(wait).await;
        }
        let own = self.clone();
        let synced = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let synced = if all { file.sync_all() } else { file.sync_data() };
            // Here, because a guest may give it up and go on.
            own.all.took(own.user, begun.elapsed(), Instant::now());
            synced
        });
        synced.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a user gets who syncs as often as it may, each time for so long, within ten seconds.
    fn within_ten_seconds(syncs: &Syncs, user: u32, each: Duration) -> Duration {
        let begun = Instant::now();
        let (mut now, mut taken) = (begun, Duration::ZERO);
        while now < begun + Duration::from_secs(10) {
            now += syncs.wait(user, now);
            now += each;
            syncs.took(user, each, now);
            taken += each;
        }
        taken
    }

    #[test]
    fn a_user_who_syncs_for_ever_has_its_share_and_no_more() {
        for each in [1, 20] {
            let taken = within_ten_seconds(&Syncs::default(), 1, Duration::from_millis(each));
            let share = Duration::from_secs(10) / PARTS + BURST;
            assert!(taken > share / 2 && taken <= share + Duration::from_millis(each), "{each} ms each: {taken:?}");
        }
    }

    #[test]
    fn a_few_wait_for_nothing_nor_does_another_user() {
        let (syncs, now) = (Syncs::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(syncs.wait(1, now), Duration::ZERO);
            syncs.took(1, Duration::from_millis(10), now);
        }
        within_ten_seconds(&syncs, 1, Duration::from_millis(10));
        assert_eq!(syncs.wait(2, Instant::now()), Duration::ZERO);
    }

    #[test]
    fn one_that_took_long_is_not_held_against_its_user_for_ever() {
        let (syncs, now) = (Syncs::default(), Instant::now());
        syncs.took(1, Duration::from_secs(60), now);
        assert_eq!(syncs.wait(1, now), MOST * PARTS - BURST * PARTS);
    }

    #[tokio::test]
    async fn whoever_owes_waits_before_the_next() {
        let syncs = Arc::new(Syncs::default());
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let wait = Duration::from_millis(200);
        let begun = Instant::now();
        syncs.took(1, BURST + wait / PARTS, begun);
        syncs.of(1).sync(file.clone(), true).await.expect("a file");
        assert!(begun.elapsed() >= wait);
        // And owes what this one took, however little.
        assert!(syncs.paid()[&1] > begun + BURST * PARTS + wait);
        let closed = Arc::new(File::open("/proc/self/status").expect("a file"));
        assert!(syncs.of(2).sync(closed, false).await.is_err(), "what can't be written is told");
    }

    #[test]
    fn who_has_paid_is_forgotten() {
        let (syncs, now) = (Syncs::default(), Instant::now());
        for user in 0..1_000 {
            syncs.took(user, Duration::from_millis(1), now + Duration::from_millis(5) * user);
        }
        assert_eq!(syncs.paid().len(), 1);
    }
}
