//! What a user whose guests say more than can be stored at once leaves to others: for
//! each full batch of output they are silent for some times as long as it took to store
//! it. Others feel the processor, the disk and the store's turn that a flood takes; a
//! guest that waits for credit takes none of them. Who is alone is never silent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::UserId;

/// How long somebody counts as being there after the last sign.
const LATELY: Duration = Duration::from_secs(1);
/// How many times what it took is left to others.
const TIMES_LEFT: u32 = 3;
/// The most that is left for one batch: of a store that is slow for another reason.
const MOST: Duration = Duration::from_millis(100);
/// The longest silence, however many batches it is for.
const LONGEST: Duration = Duration::from_secs(10);

/// Who was there lately, and who is to be silent.
#[derive(Default)]
pub(super) struct Pace(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The two users that were there last. That is enough to know of another one.
    lately: VecDeque<(UserId, Instant)>,
    /// Until when a user's guests are silent, if that is to come.
    silent: HashMap<UserId, Instant>,
}

impl Pace {
    /// A call of this user starts, says something, or ends.
    pub(super) fn note(&self, user: UserId) {
        let mut kept = self.kept();
        kept.lately.retain(|(other, _)| *other != user);
        kept.lately.push_front((user, Instant::now()));
        kept.lately.truncate(2);
    }

    /// A full batch of this user was stored, which took so long. Until when the guest
    /// that said it is to be silent: batches of all of the user's guests add up.
    pub(super) fn stored(&self, user: UserId, took: Duration) -> Option<Instant> {
        let (now, mut kept) = (Instant::now(), self.kept());
        if !kept.lately.iter().any(|(other, at)| *other != user && now - *at < LATELY) {
            return None;
        }
        kept.silent.retain(|_, until| *until > now);
        let until = kept.silent.entry(user).or_insert(now);
        *until = (*until + (took * TIMES_LEFT).min(MOST)).min(now + LONGEST);
        Some(*until)
    }

    /// No code panics while it holds the lock.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const STORING: Duration = Duration::from_millis(10);

    fn user(number: u64) -> UserId {
        UserId::from_parts(number, 0)
    }

    /// How long a hundred batches of one user take, of ten guests.
    async fn flood(pace: &Arc<Pace>, number: u64) -> Duration {
        let begun = Instant::now();
        let guest = || {
            let pace = pace.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    pace.note(user(number));
                    tokio::time::sleep(STORING).await;
                    if let Some(until) = pace.stored(user(number), STORING) {
                        tokio::time::sleep_until(until).await;
                    }
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
        let pace = Arc::new(Pace::default());
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
        assert!(beside >= 100 * STORING * TIMES_LEFT, "{beside:?}");
        tokio::time::sleep(2 * LATELY).await;
        assert_eq!(flood(&pace, 1).await, 10 * STORING, "alone again");
        assert!(pace.kept().silent.len() <= 1, "nothing is kept of who is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_bounded_and_of_one_user() {
        let pace = Pace::default();
        [1, 2].into_iter().for_each(|number| pace.note(user(number)));
        let (now, long) = (Instant::now(), Duration::from_secs(60));
        assert_eq!(pace.stored(user(1), long), Some(now + MOST));
        assert_eq!(pace.stored(user(1), STORING), Some(now + MOST + STORING * TIMES_LEFT));
        assert_eq!(pace.stored(user(2), STORING), Some(now + STORING * TIMES_LEFT), "another");
        let last = (0..200).map(|_| pace.stored(user(1), long)).last();
        assert_eq!(last, Some(Some(now + LONGEST)));
    }
}
