//! An issuer's keys, kept fresh by one task: refreshed by age, once more for a
//! name that is not known, and kept while the issuer is away.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::{Fetcher, Source};
use super::jwks::Keys;

/// The first wait after a failure; each is twice the one before, up to a minute.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Requests that wait for keys at once; more are answered without waiting.
const WAITING: usize = 64;

/// How keys are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Age at which they are fetched again.
    pub(super) refresh: Duration,
    /// Age at which they are believed no longer.
    pub(super) keep: Duration,
    /// Between two fetches that tokens caused.
    pub(super) again: Duration,
    /// How long a request waits for keys.
    pub(super) patience: Duration,
}

struct State {
    keys: Option<(Arc<Keys>, Instant)>,
    /// When the last fetch began; none before the first.
    begun: Option<Instant>,
    running: bool,
}

/// What was fetched, and how often in vain.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pub(super) all: AtomicU64,
    pub(super) failed: AtomicU64,
}

pub(super) struct KeySet {
    issuer: String,
    source: Source,
    times: Times,
    state: Mutex<State>,
    wake: Notify,
    /// Counts the fetches that ended.
    ended: watch::Sender<u64>,
    places: Semaphore,
}

impl KeySet {
    pub(super) fn new(issuer: String, source: Source, times: Times) -> Self {
        // The task begins with a fetch: whoever comes before it waits for that.
        let state = Mutex::new(State { keys: None, begun: None, running: true });
        let (ended, _) = watch::channel(0);
        Self { issuer, source, times, state, wake: Notify::new(), ended, places: Semaphore::new(WAITING) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics with the lock held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys, unless they are too old to be believed.
    pub(super) fn current(&self) -> Option<Arc<Keys>> {
        let state = self.state();
        let (keys, fetched) = state.keys.as_ref()?;
        (fetched.elapsed() < self.times.keep).then(|| Arc::clone(keys))
    }

    /// Waits for a fetch that may bring what is missing, if one is under way or
    /// the last one is long enough ago. However many ask, one fetches, and not
    /// more often than that: whoever makes up names of keys makes no traffic.
    pub(super) async fn again(&self) {
        let Ok(_place) = self.places.try_acquire() else { return };
        let mut ended = self.ended.subscribe();
        {
            let mut state = self.state();
            if !state.running {
                if state.begun.is_some_and(|begun| begun.elapsed() < self.times.again) {
                    return;
                }
                state.running = true;
                self.wake.notify_one();
            }
        }
        // Over or not: what is there then is looked at.
        let _ = tokio::time::timeout(self.times.patience, ended.changed()).await;
    }

    /// Fetches until it is told to stop.
    pub(super) async fn keep_fresh(
        self: Arc<Self>,
        fetcher: Arc<Fetcher>,
        fetches: Arc<Fetches>,
        stop: CancellationToken,
    ) {
        let mut retry = FIRST_RETRY;
        loop {
            let Some(fetched) = stop.run_until_cancelled(self.fetch(&fetcher, &fetches)).await else { return };
            let wait = match fetched {
                true => {
                    retry = FIRST_RETRY;
                    self.times.refresh
                }
                false => {
                    let wait = retry.min(self.times.refresh);
                    retry = (2 * retry).min(LAST_RETRY);
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    async fn fetch(&self, fetcher: &Fetcher, fetches: &Fetches) -> bool {
        {
            let mut state = self.state();
            (state.begun, state.running) = (Some(Instant::now()), true);
        }
        let fetched = fetcher.keys(&self.issuer, &self.source).await;
        fetches.all.fetch_add(1, Relaxed);
        let done = match fetched {
            Ok(keys) => {
                let before = self.state().keys.replace((Arc::new(keys), Instant::now()));
                if before.is_none() {
                    tracing::info!(issuer = self.issuer, "the issuer's keys are here");
                }
                true
            }
            Err(error) => {
                fetches.failed.fetch_add(1, Relaxed);
                tracing::warn!(issuer = self.issuer, error, "the issuer's keys could not be fetched");
                false
            }
        };
        self.state().running = false;
        self.ended.send_modify(|ended| *ended += 1);
        done
    }
}
