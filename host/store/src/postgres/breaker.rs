//! A circuit breaker: after so many failures in a row nothing is asked of the
//! server for a while, so that a server that is down or hangs costs its clients
//! no waiting, and is not met by all of them at once when it comes back. Then one
//! operation is let through to look.
//!
//! Time is passed in; it decides nothing but how long the breaker stays open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What it lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    #[default]
    Closed,
    /// One operation, which looks whether the server is back.
    HalfOpen,
    /// Nothing.
    Open,
}

#[derive(Debug)]
struct Inner {
    state: BreakerState,
    /// Failures since the last success.
    failures: u32,
    /// When it opened, or let the last probe through.
    since: Option<Instant>,
    /// How often it opened.
    opened: u64,
}

/// The breaker of one store.
#[derive(Debug)]
pub(super) struct Breaker {
    most: u32,
    open_for: Duration,
    inner: Mutex<Inner>,
}

/// Leave to ask the server. What became of it must be told; one that is dropped
/// has failed.
#[derive(Debug)]
pub(super) struct Leave {
    breaker: Arc<Breaker>,
    told: bool,
}

impl Breaker {
    /// Opens after `most` failures in a row, for `open_for`.
    pub(super) fn new(most: u32, open_for: Duration) -> Arc<Self> {
        let inner = Inner { state: BreakerState::Closed, failures: 0, since: None, opened: 0 };
        Arc::new(Self { most: most.max(1), open_for, inner: Mutex::new(inner) })
    }

    /// Leave for one try, unless the breaker is open.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Option<Leave> {
        let mut inner = self.lock();
        if inner.state != BreakerState::Closed {
            // Also a probe that never came back lets the next one through, after the same time.
            let wait = inner.since.is_some_and(|since| now.saturating_duration_since(since) < self.open_for);
            if wait {
                return None;
            }
            inner.state = BreakerState::HalfOpen;
            inner.since = Some(now);
        }
        drop(inner);
        Some(Leave { breaker: self.clone(), told: false })
    }

    /// Its state, and how often it has opened.
    pub(super) fn state(&self) -> (BreakerState, u64) {
        let inner = self.lock();
        (inner.state, inner.opened)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leave {
    /// The server answered, whatever it said.
    pub(super) fn answered(mut self) {
        self.told = true;
        let mut inner = self.breaker.lock();
        if inner.state != BreakerState::Closed {
            tracing::info!("the database answers again");
        }
        *inner = Inner { state: BreakerState::Closed, failures: 0, since: None, opened: inner.opened };
    }

    /// Nothing was asked of the server: this says nothing about it.
    pub(super) fn unused(mut self) {
        self.told = true;
        let mut inner = self.breaker.lock();
        if inner.state == BreakerState::HalfOpen {
            inner.state = BreakerState::Open;
            // The next one may look at once.
            inner.since = None;
        }
    }

    /// It could not be reached, or did not answer in time.
    pub(super) fn failed(mut self, now: Instant) {
        self.told = true;
        self.count(now);
    }

    fn count(&self, now: Instant) {
        let mut inner = self.breaker.lock();
        inner.failures = inner.failures.saturating_add(1);
        let opens = match inner.state {
            BreakerState::Closed => inner.failures >= self.breaker.most,
            BreakerState::HalfOpen => true,
            // A straggler of before it opened.
            BreakerState::Open => false,
        };
        if opens {
            if inner.state == BreakerState::Closed {
                inner.opened += 1;
                tracing::error!(
                    failures = inner.failures,
                    "the database does not answer; it is left alone for a while"
                );
            }
            inner.state = BreakerState::Open;
            inner.since = Some(now);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.told {
            self.count(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_so_many_failures_in_a_row_and_closes_by_a_probe() {
        let (breaker, start) = (Breaker::new(3, SECOND), Instant::now());
        for _ in 0..2 {
            breaker.enter(start).unwrap().failed(start);
        }
        // One that works in between: the count starts anew.
        breaker.enter(start).unwrap().answered();
        for _ in 0..3 {
            assert_eq!(breaker.state().0, BreakerState::Closed);
            breaker.enter(start).unwrap().failed(start);
        }
        assert_eq!(breaker.state(), (BreakerState::Open, 1));
        assert!(breaker.enter(start + SECOND / 2).is_none());

        let probe = breaker.enter(start + SECOND).unwrap();
        assert_eq!(breaker.state().0, BreakerState::HalfOpen);
        assert!(breaker.enter(start + SECOND).is_none(), "one probe at a time");
        probe.failed(start + SECOND);
        assert!(breaker.enter(start + SECOND * 3 / 2).is_none());
        breaker.enter(start + SECOND * 2).unwrap().answered();
        assert_eq!(breaker.state(), (BreakerState::Closed, 1));
        assert!(breaker.enter(start + SECOND * 2).is_some());
    }

    #[test]
    fn a_probe_that_is_dropped_or_unused_does_not_keep_it_open_for_ever() {
        let (breaker, start) = (Breaker::new(1, SECOND), Instant::now());
        drop(breaker.enter(start));
        assert_eq!(breaker.state().0, BreakerState::Open);
        let later = Instant::now() + SECOND;
        breaker.enter(later).unwrap().unused();
        breaker.enter(later).unwrap().answered();
        assert_eq!(breaker.state().0, BreakerState::Closed);
    }

    #[test]
    fn stragglers_do_not_hold_it_open() {
        let (breaker, start) = (Breaker::new(1, SECOND), Instant::now());
        let (first, straggler) = (breaker.enter(start).unwrap(), breaker.enter(start).unwrap());
        first.failed(start);
        straggler.failed(start + SECOND / 2);
        assert!(breaker.enter(start + SECOND).is_some());
    }
}
