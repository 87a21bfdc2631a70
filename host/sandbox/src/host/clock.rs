//! A call's wall time: when it is over, by whom that is known, and how much of
//! what has passed was the call's own.

use std::time::{Duration, Instant};

use bulkhead_core::pause::Pauses;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// How long a worker may not know that the end was moved.
const UNAWARE: Duration = Duration::from_secs(1);

/// Farther than any end is put off.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The wall time of a call.
pub(super) struct Clock {
    since: Instant,
    wall: Duration,
    put_off: Duration,
    moves: watch::Receiver<Duration>,
    /// The call's own time when the end was last moved.
    own: Duration,
    /// The shortest delay that the worker may still go by, and until when.
    unaware: Option<(Duration, Instant)>,
}

impl Clock {
    pub(super) fn new(since: Instant, wall: Duration, pauses: &Pauses) -> Self {
        let mut moves = pauses.watch();
        if !moves.borrow().is_zero() {
            // A pause that began before the call did.
            moves.mark_changed();
        }
        Self { since, wall, put_off: Duration::ZERO, moves, own: Duration::ZERO, unaware: None }
    }

    /// Waits until the end is moved; gives the new one.
    pub(super) async fn moved(&mut self) -> Instant {
        if self.moves.changed().await.is_err() {
            // Nobody is left who could move it.
            std::future::pending().await
        }
        let put_off = (*self.moves.borrow_and_update()).min(FAR);
        let now = Instant::now();
        self.own = self.own();
        let known = self.worker_knows(now);
        self.unaware = Some((known.min(self.put_off), now + UNAWARE));
        self.put_off = put_off;
        self.since + self.wall + put_off
    }

    /// What has passed since the call began.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// What of it counts: what was waited for a person does not.
    pub(super) fn own(&self) -> Duration {
        self.own.max(self.elapsed().saturating_sub(self.put_off))
    }

    fn worker_knows(&self, now: Instant) -> Duration {
        match self.unaware {
            Some((put_off, until)) if now < until => put_off.min(self.put_off),
            _ => self.put_off,
        }
    }

    /// After how long a worker may say that time is over. One that has not
    /// heard yet that the end was put off is right by what it knows.
    pub(super) fn over_after(&self) -> Duration {
        self.wall + self.worker_knows(Instant::now())
    }
}

/// A moment on the monotonic clock, which workers read too.
pub(super) fn monotonic_ns(at: Instant) -> u64 {
    let clock = clock_gettime(ClockId::Monotonic);
    let clock = Duration::new(clock.tv_sec.unsigned_abs(), u32::try_from(clock.tv_nsec).unwrap_or(0));
    let now = Instant::now();
    let at = (clock + at.saturating_duration_since(now)).saturating_sub(now.saturating_duration_since(at));
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_moves_the_end_and_is_not_the_calls_own_time() {
        let pauses = Pauses::default();
        let since = Instant::now().checked_sub(Duration::from_secs(10)).expect("the machine is up");
        let mut clock = Clock::new(since, Duration::from_secs(20), &pauses);
        let pause = pauses.begin(Duration::from_secs(60));
        assert_eq!(clock.moved().await, since + Duration::from_secs(80));
        // Its worker may have stopped it before it heard.
        assert_eq!(clock.over_after(), Duration::from_secs(20));
        assert!((10..11).contains(&clock.own().as_secs()));
        clock.unaware = None;
        assert_eq!(clock.over_after(), Duration::from_secs(80));
        drop(pause);
        assert!(clock.moved().await < since + Duration::from_secs(21));
        assert!((10..11).contains(&clock.own().as_secs()));
        assert!(Clock::new(since, Duration::ZERO, &Pauses::default()).own().as_secs() >= 10);
    }
}
