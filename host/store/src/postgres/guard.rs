//! One server on one database, for now.
//!
//! A server takes over at its start all calls that are open, so a second one would
//! interrupt the calls of the first. Until each host has leases of its own for what
//! it runs, a server therefore takes a lock of its session in the database, which
//! ends with its connection, and refuses to start if another has it. Whoever brings
//! the leases removes this module and its two uses: `PostgresStore::claim` in
//! `host/src/app`, and `Shared::refuses`.
//!
//! A connection may break while the server lives. Then it is made anew, and the lock
//! taken again; what is left of the old connection in the server, which may hold the
//! lock for minutes, is ended. If another server has got it meanwhile, nothing is
//! written or read any more: that one has taken over what was open. What this one
//! had under way when that happened meets the compare-and-set of each row.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PostgresStore, pool};

/// The first number of our advisory locks: "BHS1".
pub(super) const LOCK_CLASS: i32 = i32::from_be_bytes(*b"BHS1");

/// Held by who brings the schema up to date.
pub(super) const UPGRADE_LOCK: i32 = 1;

/// Held by the server that runs.
const SERVER_LOCK: i32 = 2;

/// How long a start waits for a server that is about to end.
const CLAIM_WAIT: Duration = Duration::from_secs(5);

/// Between two looks whether a held lock is free.
const CLAIM_EVERY: Duration = Duration::from_millis(100);

/// Between two looks whether the connection lives.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why this server may not use the database.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Another one uses it.
    #[error(
        "the database {database} is in use by another server ({by}); stop that one: several on one database are not supported yet"
    )]
    InUse {
        /// The database, without password.
        database: String,
        /// What the database knows of that server.
        by: String,
    },
    /// It could not be asked.
    #[error("the database {database} can't be reached: {reason}")]
    Unreachable {
        /// The database, without password.
        database: String,
        /// Why.
        reason: sqlx::Error,
    },
}

/// Whether the database is this server's still.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicBool);

impl Claim {
    /// Another server has taken it.
    pub(super) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Holds the lock, if the store has claimed the database.
#[derive(Debug)]
pub(super) struct Guard {
    claim: Arc<Claim>,
    keeper: Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

/// A session with the lock, and who it is in the server.
struct Held {
    connection: PgConnection,
    session: Session,
}

/// A session as the server names it: a number alone may be given again.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
struct Session {
    pid: i32,
    started: String,
    address: String,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, started, address } = self;
        write!(f, "from {address}, since {started}, process {pid} of the database")
    }
}

enum Tried {
    Held(Held),
    /// Another session has it, which is gone perhaps before it could be looked at.
    By(Option<Session>),
}

impl PostgresStore {
    /// Claims the database for this server, until the store is closed.
    ///
    /// # Errors
    /// If another server has it, or the database can't be reached.
    pub async fn claim(&self) -> Result<(), ClaimError> {
        let config = &self.shared.config;
        let database = config.url.to_string();
        let options = config.session();
        let until = Instant::now() + CLAIM_WAIT;
        let held = loop {
            match take(&options, config.connect_timeout).await {
                Ok(Tried::Held(held)) => break held,
                Ok(Tried::By(_)) if Instant::now() < until => tokio::time::sleep(CLAIM_EVERY).await,
                Ok(Tried::By(by)) => {
                    let by = by.map_or_else(|| "which comes and goes".into(), |by| by.to_string());
                    return Err(ClaimError::InUse { database, by });
                }
                Err(reason) => return Err(ClaimError::Unreachable { database, reason }),
            }
        };
        let (stop, claim) = (CancellationToken::new(), self.guard.claim.clone());
        let keeper = Keeper { options, within: config.connect_timeout, claim };
        let keeping = tokio::spawn(keeper.run(held, stop.clone()));
        *self.guard.keeper.lock().await = Some((stop, keeping));
        Ok(())
    }
}

impl Guard {
    pub(super) fn new(claim: Arc<Claim>) -> Self {
        Self { claim, keeper: Mutex::new(None) }
    }

    /// Gives the lock back.
    pub(super) async fn release(&self) {
        if let Some((stop, keeping)) = self.keeper.lock().await.take() {
            stop.cancel();
            // A panic in it was logged.
            let _ = keeping.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.keeper.get_mut() {
            stop.cancel();
        }
    }
}

/// Watches the session that has the lock.
struct Keeper {
    options: PgConnectOptions,
    within: Duration,
    claim: Arc<Claim>,
}

impl Keeper {
    async fn run(self, held: Held, stop: CancellationToken) {
        let mut held = held;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if matches!(tokio::time::timeout(self.within, held.connection.ping()).await, Ok(Ok(()))) {
                continue;
            }
            tracing::warn!("the connection that holds the database for this server broke; it is made anew");
            let Some(again) = stop.run_until_cancelled(self.retake(&held.session)).await else { return };
            match again {
                Ok(again) => held = again,
                Err(by) => {
                    self.claim.0.store(true, Ordering::Release);
                    tracing::error!(%by, "another server has taken the database over; stop this one");
                    return;
                }
            }
        }
        // What is left of it ends with the connection in any case.
        let _ = tokio::time::timeout(LOOK_EVERY, held.connection.close()).await;
    }

    /// Takes the lock again, from the rest of `old` if need be; or says who has it.
    async fn retake(&self, old: &Session) -> Result<Held, Session> {
        loop {
            match take(&self.options, self.within).await {
                Ok(Tried::Held(held)) => {
                    tracing::info!("the database is held for this server again");
                    return Ok(held);
                }
                Ok(Tried::By(Some(by))) if by != *old => return Err(by),
                Ok(Tried::By(None)) => {}
                Ok(Tried::By(Some(by))) => {
                    let ended = end(&self.options, self.within, by.pid).await;
                    tracing::info!(pid = by.pid, ok = ended.is_ok(), "ended what was left of the old connection");
                }
                Err(error) => tracing::debug!(%error, "the database can't be reached"),
            }
            tokio::time::sleep(CLAIM_EVERY).await;
        }
    }
}

/// A new session that tries to take the lock.
async fn take(options: &PgConnectOptions, within: Duration) -> sqlx::Result<Tried> {
    let mut connection = pool::connect(options, within).await?;
    let asked = tokio::time::timeout(within, try_lock(&mut connection)).await;
    let (got, session) = asked.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
    match session {
        Some(session) if got => Ok(Tried::Held(Held { connection, session })),
        // Its own session is there as long as it is.
        None if got => Err(sqlx::Error::RowNotFound),
        session => Ok(Tried::By(session)),
    }
}

/// Whether it got the lock, and who has it now.
async fn try_lock(connection: &mut PgConnection) -> sqlx::Result<(bool, Option<Session>)> {
    let got: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(SERVER_LOCK)
        .fetch_one(&mut *connection)
        .await?;
    let session = sqlx::query_as(
        "SELECT a.pid, coalesce(a.backend_start::text, 'a time not told') AS started,
                coalesce(host(a.client_addr), 'this machine') AS address
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
             AND l.classid = $1::bigint::oid AND l.objid = $2::bigint::oid
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .bind(i64::from(LOCK_CLASS))
    .bind(i64::from(SERVER_LOCK))
    .fetch_optional(connection)
    .await?;
    Ok((got, session))
}

/// Ends a session of this role.
async fn end(options: &PgConnectOptions, within: Duration, pid: i32) -> sqlx::Result<()> {
    let mut connection = pool::connect(options, within).await?;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut connection).await?;
    connection.close().await
}
