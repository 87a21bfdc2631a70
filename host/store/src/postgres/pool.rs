//! A pool of connections: so many at most, the last one used first.
//!
//! Not sqlx's, which pings a connection each time it is given back (a second
//! round trip for every operation), lends one that another task left in the
//! middle of an answer, and takes part in no decision about what is broken.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a connection lives, however busy: what grows in a backend over time
/// is given back, and a server behind a changed address is found.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How long connections may take to say goodbye when the pool closes.
const GOODBYE: Duration = Duration::from_secs(2);

/// What bounds a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// How long an operation waits for one.
    pub(super) wait: Duration,
    /// How long making one may take.
    pub(super) connect: Duration,
    /// How long one that nobody needs is kept.
    pub(super) idle: Duration,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// All are in use: the server may be well.
    Busy,
    /// The server can't be reached, or refused.
    Unreachable(sqlx::Error),
    /// The pool is closed.
    Closed,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    made: Instant,
    since: Instant,
    generation: u64,
    open: Counted,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pool {
    options: PgConnectOptions,
    limits: Limits,
    permits: Arc<Semaphore>,
    /// The longest idle first.
    idle: Mutex<Vec<Idle>>,
    /// Raised when a connection broke: those of before are not trusted.
    generation: AtomicU64,
    open: Arc<AtomicUsize>,
}

/// A connection that is in use. Dropped without being given back, it is closed.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: PgConnection,
    made: Instant,
    generation: u64,
    /// Before the permit: what is closed is not counted any more when another may come.
    open: Counted,
    permit: OwnedSemaphorePermit,
}

/// Counts a connection from before it is made until it is closed, idle or in use.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool that has no connection yet.
    pub(super) fn new(options: PgConnectOptions, limits: Limits) -> Self {
        Self {
            options,
            limits,
            permits: Arc::new(Semaphore::new(limits.connections.max(1))),
            idle: Mutex::new(Vec::new()),
            generation: AtomicU64::new(0),
            open: Arc::default(),
        }
    }

    /// A connection: an idle one, or a new one.
    pub(super) async fn acquire(&self) -> Result<Lease, NoConnection> {
        let permit = match tokio::time::timeout(self.limits.wait, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(NoConnection::Closed),
            Err(_) => return Err(NoConnection::Busy),
        };
        if let Some(Idle { connection, made, generation, open, .. }) = self.take() {
            return Ok(Lease { connection, made, generation, open, permit });
        }
        let (open, generation) = (Counted::new(&self.open), self.generation.load(Ordering::Acquire));
        let connection = connect(&self.options, self.limits.connect).await.map_err(NoConnection::Unreachable)?;
        Ok(Lease { connection, made: Instant::now(), generation, open, permit })
    }

    /// The idle connection that was used last and can be used still.
    fn take(&self) -> Option<Idle> {
        let now = Instant::now();
        let current = self.generation.load(Ordering::Acquire);
        let mut idle = self.lock();
        while let Some(last) = idle.pop() {
            let old = now.duration_since(last.made) > LIFETIME || now.duration_since(last.since) > self.limits.idle;
            if last.generation == current && !old {
                return Some(last);
            }
        }
        None
    }

    /// Gives back a connection that is in order.
    pub(super) fn release(&self, lease: Lease) {
        let Lease { connection, made, generation, open, permit } = lease;
        if self.permits.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.lock();
        idle.push(Idle { connection, made, since: now, generation, open });
        // Those that nobody has needed for long lie at the beginning.
        let stale = idle.iter().take_while(|idle| now.duration_since(idle.since) > self.limits.idle).count();
        let stale: Vec<_> = idle.drain(..stale).collect();
        drop(idle);
        drop(stale);
        // Last: whoever has it next may make another connection.
        drop(permit);
    }

    /// A connection broke: the idle ones, of the same server, are likely broken too.
    pub(super) fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let idle = std::mem::take(&mut *self.lock());
        drop(idle);
    }

    /// Connections that are open now, those idle among them.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Closes what is idle; what is in use is closed when it is given back.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        let goodbyes = idle.into_iter().map(|idle| idle.connection.close());
        // If the server does not answer, it finds out by itself.
        let _ = tokio::time::timeout(GOODBYE, futures::future::join_all(goodbyes)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        // No code panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new connection.
pub(super) async fn connect(options: &PgConnectOptions, within: Duration) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(within, options.connect()).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time"))),
    }
}
