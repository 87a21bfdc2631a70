//! Whether the database's clock went evenly. It decides who is late with a lease: one
//! that jumps ahead makes everybody late at once, hosts that run guests among them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::ports::store::StoreError;

use super::PostgresStore;
use super::statement::Statement;

/// What the clock showed when it was looked at last.
#[derive(Debug, Default)]
pub(super) struct DatabaseClock(Mutex<Option<Looked>>);

#[derive(Clone, Copy, Debug)]
struct Looked {
    /// In microseconds since 1970.
    clock: i64,
    /// Before it was asked for.
    asked: Instant,
    /// Until when nobody is late, after a jump.
    held_until: Option<Instant>,
}

impl DatabaseClock {
    /// The database's time, in microseconds since 1970, if those whose lease was over then
    /// were late by it: not within a lease after it ran ahead of the passing of time by
    /// more than `most`. Who lives has renewed by then.
    ///
    /// # Errors
    /// If it can't be asked.
    pub(super) async fn told(
        &self,
        store: &PostgresStore,
        lease: Duration,
        most: Duration,
    ) -> Result<Option<i64>, StoreError> {
        let asked = Instant::now();
        let select = Statement::new("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now");
        let Some(clock) = store.read(select).await?.get::<i64>("now")? else { return Ok(None) };
        let holds = self.look(clock, asked, Instant::now(), lease, most);
        Ok(holds.then_some(clock))
    }

    /// Whether the clock can be believed that showed `clock` between `asked` and `answered`.
    fn look(&self, clock: i64, asked: Instant, answered: Instant, lease: Duration, most: Duration) -> bool {
        // No code panics while it holds the lock.
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held_until = looked.and_then(|last| last.held_until);
        if let Some(last) = *looked {
            // At most so much has passed between the two moments at which it was read.
            let passed = i64::try_from(answered.duration_since(last.asked).as_micros()).unwrap_or(i64::MAX);
            let ahead = clock.saturating_sub(last.clock).saturating_sub(passed);
            if u128::try_from(ahead).is_ok_and(|ahead| ahead > most.as_micros()) {
                tracing::error!(
                    ahead_ms = ahead / 1_000,
                    lease_ms = lease.as_millis(),
                    "the database's clock jumped ahead: for the time of a lease no host is taken for dead; keep it steady"
                );
                held_until = Some(answered + lease);
            }
        }
        *looked = Some(Looked { clock, asked, held_until });
        held_until.is_none_or(|until| answered >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const MOST: Duration = Duration::from_secs(2);

    #[test]
    fn nobody_is_late_by_a_clock_that_jumped_until_a_lease_has_passed() {
        let clock = DatabaseClock::default();
        let start = Instant::now();
        // Looks every two seconds, each answered after half of one; the clock is `off` seconds.
        let look = |second: u64, off: i64| {
            let asked = start + Duration::from_secs(second);
            let shown = (i64::try_from(second).expect("small") + off) * 1_000_000;
            clock.look(shown, asked, asked + Duration::from_millis(500), LEASE, MOST)
        };
        assert!(look(0, 0) && look(2, 0) && look(4, 1), "a second is not too much");
        assert!(!look(6, 60), "it jumped");
        assert!(!look(8, 60) && !look(20, 60), "for the time of a lease");
        assert!(look(22, 60), "and then it is believed again");
        assert!(look(24, 0) && look(26, 0), "behind, nobody is late who is not");
        assert!(!look(28, 20));
        assert!(!look(40, 60), "again, before the first was over");
        assert!(!look(50, 60) && look(56, 60));
    }

    #[test]
    fn an_answer_that_takes_long_is_no_jump() {
        let clock = DatabaseClock::default();
        let start = Instant::now();
        assert!(clock.look(0, start, start, LEASE, MOST));
        let asked = start + Duration::from_secs(1);
        assert!(clock.look(30_000_000, asked, asked + Duration::from_secs(30), LEASE, MOST));
        // What it took is not counted twice.
        let asked = start + Duration::from_secs(31);
        assert!(clock.look(31_000_000, asked, asked, LEASE, MOST));
    }
}
