//! What a user whose guests say more than can be stored at once leaves to others: after
//! a full batch of output a pause, some times as long as it took to store it. Others
//! feel the processor, the disk and the store's turn that a flood takes; a guest that
//! waits for its output to be stored takes none of them. Who is alone needs no pauses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::id::UserId;
use crate::shares::{Place, Shares};

/// How long somebody counts as being there after the last sign.
const LATELY: Duration = Duration::from_secs(1);
/// How many times what it took is left to others.
const TIMES_LEFT: u32 = 3;
/// The longest pause: of a store that is slow for another reason.
const MOST: Duration = Duration::from_millis(100);

/// Who was there lately, and whose batch is being stored.
pub(super) struct Pace {
    /// The two users that were there last. That is enough to know of another one.
    lately: Mutex<VecDeque<(UserId, Instant)>>,
    batches: Arc<Shares<UserId>>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { lately: Mutex::default(), batches: Arc::new(Shares::of_each(1)) }
    }

    /// A call of this user starts, says something, or ends.
    pub(super) fn note(&self, user: UserId) {
        let mut lately = self.lately();
        lately.retain(|(other, _)| *other != user);
        lately.push_front((user, Instant::now()));
        lately.truncate(2);
    }

    /// Stores a full batch of this user: where others are, one at a time, and with a
    /// pause after it, so that all of its guests together leave so much. A call that
    /// `ends` waits for neither.
    pub(super) async fn store(&self, user: UserId, ends: &CancellationToken, store: impl Future<Output = ()>) {
        let _turn: Option<Place<UserId>> = match self.has_others(user) {
            true => ends.run_until_cancelled(self.batches.take(user)).await,
            false => None,
        };
        let begun = Instant::now();
        store.await;
        if self.has_others(user) {
            let pause = tokio::time::sleep((begun.elapsed() * TIMES_LEFT).min(MOST));
            let _ = ends.run_until_cancelled(pause).await;
        }
    }

    fn has_others(&self, user: UserId) -> bool {
        self.lately().iter().any(|(other, at)| *other != user && at.elapsed() < LATELY)
    }

    /// No code panics while it holds the lock.
    fn lately(&self) -> MutexGuard<'_, VecDeque<(UserId, Instant)>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const STORING: Duration = Duration::from_millis(10);

    fn user(number: u64) -> UserId {
        UserId::from_parts(number, 0)
    }

    /// From when it has its turn.
    async fn takes(long: Duration) {
        tokio::time::sleep(long).await;
    }

    /// How long a hundred batches of one user take, of ten guests.
    async fn flood(pace: &Arc<Pace>, number: u64) -> Duration {
        let begun = Instant::now();
        let guest = || {
            let pace = pace.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    pace.note(user(number));
                    let ends = CancellationToken::new();
                    pace.store(user(number), &ends, takes(STORING)).await;
                }
            })
        };
        for guest in (0..10).map(|_| guest()).collect::<Vec<_>>() {
            guest.await.expect("it ends");
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn all_guests_of_one_user_leave_most_of_the_time_to_others() {
        let pace = Arc::new(Pace::new());
        assert_eq!(flood(&pace, 1).await, 10 * STORING, "alone");
        let other = tokio::spawn({
            let pace = pace.clone();
            async move {
                loop {
                    pace.note(user(2));
                    tokio::time::sleep(LATELY / 2).await;
                }
            }
        });
        tokio::task::yield_now().await;
        let beside = flood(&pace, 1).await;
        other.abort();
        assert!(beside >= 99 * STORING * (1 + TIMES_LEFT), "{beside:?}");
        tokio::time::sleep(2 * LATELY).await;
        assert_eq!(flood(&pace, 1).await, 10 * STORING, "alone again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_bounded_and_users_do_not_wait_for_each_other() {
        let pace = Arc::new(Pace::new());
        [1, 2].into_iter().for_each(|number| pace.note(user(number)));
        let long = Duration::from_secs(1);
        let (begun, ends) = (Instant::now(), CancellationToken::new());
        let store = |number, long| pace.store(user(number), &ends, takes(long));
        tokio::join!(store(1, long - STORING), store(2, long - STORING));
        assert_eq!(begun.elapsed(), long - STORING + MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_stores_what_it_said_and_waits_for_no_pause() {
        let pace = Pace::new();
        [1, 2].into_iter().for_each(|number| pace.note(user(number)));
        let (begun, ends, stored) = (Instant::now(), CancellationToken::new(), Cell::new(0));
        let store = || async {
            tokio::time::sleep(STORING).await;
            stored.set(stored.get() + 1);
        };
        tokio::join!(pace.store(user(1), &ends, store()), pace.store(user(1), &ends, store()), async {
            tokio::time::sleep(STORING / 2).await;
            ends.cancel();
        });
        assert_eq!((stored.get(), begun.elapsed()), (2, STORING / 2 + STORING));
    }
}
