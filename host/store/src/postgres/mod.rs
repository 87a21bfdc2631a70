//! The durable store for several hosts: a PostgreSQL database.
//!
//! An operation is one statement, and so one round trip: a statement is a
//! transaction by itself, and takes what it needs from one row to the next by
//! `WITH`. What the database promises at `READ COMMITTED` is enough for that:
//! an UPDATE waits for whoever has the row and then looks again at what is there
//! now. Where that is not so (a read beside it still sees the old), a unique index
//! decides.
//!
//! Operations run in tasks of the store, so that a client that goes away leaves no
//! connection in the middle of an answer. Writes to one task's log go one after the
//! other, in the order in which they came: they would wait for each other in the
//! server, holding connections.

mod audit;
mod breaker;
mod calls;
mod clock;
mod components;
mod config;
mod events;
mod files;
mod grants;
mod hosts;
mod keys;
mod lease;
mod life;
mod open;
mod pool;
mod port;
mod retention;
mod run;
mod sessions;
mod statement;
mod tasks;
#[cfg(test)]
mod tests;
mod tickets;
mod tools;
mod turns;
mod volumes;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::id::TaskId;
use bulkhead_core::ports::cluster::Lease;
use bulkhead_core::ports::store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio_util::task::TaskTracker;

pub use breaker::BreakerState;
pub use config::{BadUrl, PostgresConfig, PostgresUrl};
pub use hosts::HostConfig;
pub use lease::JoinError;
pub use open::{Found, OpenError};

use breaker::Breaker;
use clock::DatabaseClock;
use hosts::Held;
use lease::Keeping;
use pool::Pool;
use run::Failed;
use statement::{Answer, Statement, Work};
use turns::Turns;

/// How long a write waits for a place among those that wait. Longer would only
/// hide from the client that the store can't keep up.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// How long `close` waits for what is under way.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Durable storage in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    keeping: Keeping,
}

/// What operations under way share.
#[derive(Debug)]
struct Shared {
    config: PostgresConfig,
    pool: Pool,
    breaker: Arc<Breaker>,
    turns: Turns,
    /// Whose turn it is at each chain of the audit log; taken after a task's.
    chains: Turns,
    queue: Arc<Semaphore>,
    tracker: TaskTracker,
    /// The host that has joined; none for who only looks.
    host: OnceLock<HostConfig>,
    lease: watch::Sender<Lease>,
    /// When others may believe that this host is gone; none if it has not joined.
    until: Mutex<Option<Instant>>,
    /// When its guests end if it says nothing more: a little before.
    guests_until: watch::Sender<Option<tokio::time::Instant>>,
    held: Held,
    clock: DatabaseClock,
    /// Whether this host takes nothing any more.
    leaving: AtomicBool,
    /// How often a task was taken because somebody asked for it.
    taken: AtomicU64,
    /// The number of this opened store: the high bits of its writes, the token of its host.
    writer: AtomicU64,
    writes: AtomicU64,
    commits: AtomicU64,
}

/// What the store did and how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PostgresStats {
    /// Writes that were committed.
    pub commits: u64,
    /// Connections that are open now.
    pub connections: usize,
    /// What the circuit breaker lets through.
    pub breaker: BreakerState,
    /// How often it opened.
    pub breaker_opened: u64,
}

impl PostgresStore {
    /// Connects, checks whose database that is, and brings its schema up to date.
    ///
    /// # Errors
    /// If the server can't be reached or used, or the schema is not ours or was made
    /// by a newer version; each error names the database and what to do.
    pub async fn open(config: PostgresConfig) -> Result<Self, OpenError> {
        open::open(config).await
    }

    /// What it did and how it is.
    pub fn stats(&self) -> PostgresStats {
        let (breaker, breaker_opened) = self.shared.breaker.state();
        PostgresStats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            connections: self.shared.pool.open(),
            breaker,
            breaker_opened,
        }
    }

    /// Reads.
    async fn read(&self, statement: Statement) -> Result<Answer, StoreError> {
        let shared = self.shared.clone();
        let work = Work::read(statement);
        Ok(self.spawned(async move { shared.attempt_all(&work).await }).await?)
    }

    /// Writes, with nothing else in order.
    async fn write(&self, work: Work) -> Result<Answer, Failed> {
        let place = self.place().await?;
        let shared = self.shared.clone();
        self.spawned(async move { shared.write(&work, place).await }).await
    }

    /// Writes to the log of a task: after all that came before, and before all that
    /// come later.
    async fn write_in_turn(&self, task: TaskId, work: Work) -> Result<Answer, Failed> {
        let turn = self.shared.turns.take(&task);
        let place = self.place().await?;
        let shared = self.shared.clone();
        let doing = async move {
            let _turn = turn.await;
            shared.write(&work, place).await
        };
        self.spawned(doing).await
    }

    /// Runs in a task of the store, to its end, whatever becomes of who asked.
    async fn spawned(
        &self,
        work: impl Future<Output = Result<Answer, Failed>> + Send + 'static,
    ) -> Result<Answer, Failed> {
        if self.shared.tracker.is_closed() {
            return Err(closed().into());
        }
        match self.shared.tracker.spawn(work).await {
            Ok(done) => done,
            // It panicked, or the runtime ends.
            Err(error) => Err(StoreError::Unsure(Box::new(error)).into()),
        }
    }

    /// A place among the writes that wait.
    async fn place(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        match self.shared.queue.clone().try_acquire_owned() {
            Ok(place) => return Ok(place),
            Err(TryAcquireError::Closed) => return Err(closed()),
            Err(TryAcquireError::NoPermits) => {}
        }
        match tokio::time::timeout(QUEUE_WAIT, self.shared.queue.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(StoreError::Unavailable("its queue of writes is full; retry later".into())),
        }
    }

    /// A number for a write that no other write has.
    fn write_id(&self) -> i64 {
        let number = self.shared.writes.fetch_add(1, Ordering::Relaxed);
        // 23 bits of the store, 40 of its writes: years of them.
        i64::try_from(self.shared.writer.load(Ordering::Acquire) << 40 | (number & ((1 << 40) - 1))).unwrap_or(i64::MAX)
    }

    /// What its host's writes are known by.
    fn token(&self) -> i64 {
        self.shared.token()
    }

    /// The token for what is made now; none if no host has joined.
    fn holder(&self) -> Option<i64> {
        self.shared.host.get().map(|_| self.token())
    }

    async fn close(&self) {
        self.shared.tracker.close();
        if tokio::time::timeout(CLOSE_WAIT, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!("the store did not finish in time; what was acknowledged is safe");
        }
        self.shared.queue.close();
        self.shared.pool.close().await;
        // At last: what was under way wrote under it.
        self.keeping.release().await;
    }
}

impl Shared {
    async fn write(&self, work: &Work, place: OwnedSemaphorePermit) -> Result<Answer, Failed> {
        let _place = place;
        let _turn = match &work.chain {
            Some(chain) => Some(self.chains.take(chain).await),
            None => None,
        };
        let answer = self.attempt_all(work).await?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// Whether this host's lease is not over yet.
    fn is_in_time(&self) -> bool {
        // No code panics while it holds the lock.
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| Instant::now() < until)
    }

    /// What its host's writes are known by.
    fn token(&self) -> i64 {
        i64::try_from(self.writer.load(Ordering::Acquire)).unwrap_or(i64::MAX)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, maybe_second: false }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}
