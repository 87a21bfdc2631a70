//! Redis between several hosts: an accelerator, never the truth.
//!
//! What it does the store can do alone, later: it tells other hosts at once of events
//! that were stored, keeps the newest of each log hot for who comes back soon, counts
//! rates of all hosts together, and the streams that a user has open on all of them.
//! While it is slow or gone nothing waits for it: after one command that failed none is
//! sent until it has answered a `PING` again.
//!
//! Keys, all with the prefix of the configuration and a version:
//!
//! ```text
//! <prefix>:1:<tenant>:tail:<task>          stream; entry ids are `<seq>-0`; gone after tail_ttl
//! <prefix>:1:<tenant>:task:<task>          channel; a message is the number of the newest event
//! <prefix>:1:<tenant>:rate:<what>[:<user>] GCRA's theoretical arrival time, in microseconds
//! <prefix>:1:<tenant>:streams:<user>       sorted set: open streams, by when they were last seen
//! ```
//!
//! Two connections carry everything: commands, pipelined, and messages. Each entry of a
//! tail says whose it is, and is believed to be nobody else's: answers that are mixed up
//! must not show one task's events to readers of another.

mod config;
mod connections;
mod health;
mod listen;
mod live;
mod rates;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::live::Heard;
use bulkhead_core::principal::Owner;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{FromRedisValue, RedisError};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{BadRedisUrl, RedisConfig, RedisUrl};
pub use rates::{RedisRates, SharedRate};

use live::Told;

/// What is told and not yet sent; more is not told.
const TO_TELL: usize = 4_096;

/// What is heard and not yet looked at; more is one look at everything.
const TO_HEAR: usize = 4_096;

/// The connection to a Redis server, and what goes on over it.
#[derive(Debug)]
pub struct Redis {
    shared: Arc<Shared>,
    heard: tokio::sync::Mutex<mpsc::Receiver<Heard>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// What the store of the connection counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStats {
    /// Whether it answers.
    pub up: bool,
    /// How often it stopped answering.
    pub lost: u64,
    /// Events that were not told because too many were waiting.
    pub untold: u64,
}

struct Shared {
    config: RedisConfig,
    client: redis::Client,
    /// Replaced if it hangs: the driver makes a new connection only for one that broke.
    manager: Mutex<ConnectionManager>,
    ears: Arc<Ears>,
    untold: AtomicU64,
    tell: mpsc::Sender<Told>,
    /// Streams that are open here.
    open: Mutex<HashMap<Owner, Vec<u64>>>,
    /// Numbers of streams, and which host's they are.
    next: AtomicU64,
    name: String,
}

/// What the connection's own task needs: whether it is there, and what is heard on it.
struct Ears {
    up: AtomicBool,
    lost: AtomicU64,
    hear: mpsc::Sender<Heard>,
    /// What could not be queued is made up for by a look at everything.
    overheard: AtomicBool,
    /// Channels that are wanted, by name.
    wanted: Mutex<HashMap<Arc<str>, (TenantId, TaskId)>>,
    /// What is wanted has changed, or the connection has.
    changed: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Redis {
    /// Begins to use a server, which need not be there yet; `name` is this host's among
    /// the others. To be called in a runtime.
    ///
    /// # Errors
    /// If its address can't be used.
    pub fn new(config: RedisConfig, name: String) -> Result<Arc<Self>, RedisError> {
        let client = redis::Client::open(config.url.info()?)?;
        let (tell, to_tell) = mpsc::channel(TO_TELL);
        let (hear, heard) = mpsc::channel(TO_HEAR);
        let ears = Arc::new(Ears::new(hear));
        let manager = Mutex::new(connect(&client, &config)?);
        let (untold, next, open) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        let shared = Arc::new(Shared { config, client, manager, ears, untold, tell, open, next, name });
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let run = |work: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tracker.spawn(async move { stop.run_until_cancelled(work).await });
        };
        run(Box::pin(health::keep(shared.clone())));
        run(Box::pin(live::tell(shared.clone(), to_tell)));
        run(Box::pin(listen::listen(shared.clone())));
        run(Box::pin(connections::refresh(shared.clone())));
        Ok(Arc::new(Self { shared, heard: heard.into(), tracker, stop }))
    }

    /// How it is.
    pub fn stats(&self) -> RedisStats {
        RedisStats {
            up: self.shared.ears.is_up(),
            lost: self.shared.ears.lost.load(Ordering::Relaxed),
            untold: self.shared.untold.load(Ordering::Relaxed),
        }
    }

    /// Ends what goes on over it.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A connection that is made when it is first needed.
fn connect(client: &redis::Client, config: &RedisConfig) -> Result<ConnectionManager, RedisError> {
    let timeout = Some(config.timeout);
    let manager = ConnectionManagerConfig::new()
        .set_connection_timeout(timeout)
        .set_response_timeout(timeout)
        // Whether it is back is looked at by a task of ours.
        .set_number_of_retries(1);
    ConnectionManager::new_lazy_with_config(client.clone(), manager)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    /// A key or channel of a tenant.
    fn key(&self, tenant: TenantId, rest: &str) -> String {
        format!("{}:1:{tenant}:{rest}", self.config.prefix)
    }

    fn manager(&self) -> ConnectionManager {
        lock(&self.manager).clone()
    }

    /// Gives up the connection that there is, for a new one.
    fn renew(&self) {
        match connect(&self.client, &self.config) {
            Ok(manager) => *lock(&self.manager) = manager,
            Err(error) => tracing::warn!(%error, "no new connection to Redis can be begun"),
        }
    }

    /// Sends something, if the server answers; if it does not, nothing is sent until it does.
    async fn ask<T: FromRedisValue>(
        &self,
        asking: impl AsyncFnOnce(ConnectionManager) -> Result<T, RedisError>,
    ) -> Option<T> {
        if !self.ears.is_up() {
            return None;
        }
        match asking(self.manager()).await {
            Ok(answer) => Some(answer),
            // It answered, though not well: another program's key, a script of another version.
            Err(error) if matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension) => {
                tracing::warn!(%error, "Redis refused");
                None
            }
            Err(error) => {
                if !error.is_io_error() {
                    // It answers something else than was asked: who knows to what.
                    self.renew();
                }
                self.ears.went(&error.to_string());
                None
            }
        }
    }
}

impl Ears {
    fn new(hear: mpsc::Sender<Heard>) -> Self {
        Self {
            up: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            hear,
            overheard: AtomicBool::new(false),
            wanted: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// It does not answer.
    fn went(&self, why: &str) {
        if self.up.swap(false, Ordering::AcqRel) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(why, "Redis does not answer; the store does without it");
            self.changed.notify_one();
        }
    }

    /// It answers again. What was told meanwhile was missed.
    fn came(&self) {
        if !self.up.swap(true, Ordering::AcqRel) {
            tracing::info!("Redis answers");
            self.changed.notify_one();
            self.say(Heard::LookAtAll);
        }
    }

    fn say(&self, heard: Heard) {
        if self.hear.try_send(heard).is_err() {
            self.overheard.store(true, Ordering::Release);
        }
    }

    /// A message.
    fn told(&self, channel: &str, message: &str) {
        let task = lock(&self.wanted).get(channel).copied();
        // What nobody wants any more, or is no number, was meant for somebody else.
        if let (Some((tenant, task)), Ok(last)) = (task, message.parse()) {
            self.say(Heard::Grown(tenant, task, last));
        }
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
