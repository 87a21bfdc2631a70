//! A host's lease: a row of `hosts` that it renews, on a connection of its own so
//! that no busy pool makes it late.
//!
//! Its end is told by the database's clock to others, and by this host's own, which
//! began to count before the renewal was sent, to itself: so it stops first. Only
//! others end it, by a change of its row that lasts; as long as none has, it may be
//! renewed however late, for then nobody has taken anything.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::ports::cluster::Lease;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::hosts::HostConfig;
use super::{PostgresStore, Shared, pool};

/// Renewals in the time of a lease.
const RENEWALS: u32 = 5;

/// Between two tries to renew once one has failed.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Why a host can't join.
#[derive(Debug, Error)]
#[error("the database {database} can't be reached: {reason}")]
pub struct JoinError {
    /// The database, without password.
    database: String,
    /// Why.
    reason: sqlx::Error,
}

/// The task that renews, if the store has joined.
#[derive(Debug, Default)]
pub(super) struct Keeping(Mutex<Option<(CancellationToken, JoinHandle<()>)>>);

impl PostgresStore {
    /// Joins the hosts of this database, until the store is closed. Earlier starts of
    /// the same host have ended then. To be called once.
    ///
    /// # Errors
    /// If the database can't be reached.
    pub async fn join(&self, host: HostConfig) -> Result<(), JoinError> {
        let config = &self.shared.config;
        let failed = |reason| JoinError { database: config.url.to_string(), reason };
        let begun = Instant::now();
        let mut connection = pool::connect(&config.session(), config.connect_timeout).await.map_err(failed)?;
        insert(&mut connection, self.token(), &host).await.map_err(failed)?;
        let until = begun + host.lease;
        // Set before anything is written; a second call would be a mistake of ours.
        let _ = self.shared.host.set(host.clone());
        let stop = CancellationToken::new();
        let (options, within) = (config.session(), config.connect_timeout);
        let mut keeper =
            Keeper { shared: self.shared.clone(), host, options, within, connection: Some(connection), until };
        keeper.lasts(begun);
        let keeping = tokio::spawn(keeper.run(stop.clone()));
        *self.keeping.0.lock().await = Some((stop, keeping));
        Ok(())
    }
}

impl Keeping {
    /// Ends the lease: others may take over at once.
    pub(super) async fn release(&self) {
        if let Some((stop, keeping)) = self.0.lock().await.take() {
            stop.cancel();
            // A panic in it was logged.
            let _ = keeping.await;
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.0.get_mut() {
            stop.cancel();
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    host: HostConfig,
    options: PgConnectOptions,
    within: Duration,
    connection: Option<PgConnection>,
    /// When the others may believe that this host is gone.
    until: Instant,
}

/// What came of a renewal.
enum Renewed {
    Yes,
    /// Others have ended it.
    Ended,
    /// Another server runs with the same data directory, or a copy of it.
    Twin,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = self.host.lease / RENEWALS;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = match self.round().await {
                Some(true) => self.host.lease / RENEWALS,
                Some(false) => return,
                None => TRY_EVERY,
            };
        }
        self.leave().await;
    }

    /// One renewal; nothing if it failed, false if there is none any more.
    async fn round(&mut self) -> Option<bool> {
        let begun = Instant::now();
        // Not longer than it is of use.
        let left = (self.until - self.host.margin).saturating_duration_since(begun);
        let within = if left.is_zero() { self.within } else { left.min(self.within) };
        let renewed = tokio::time::timeout(within, self.renew()).await;
        match renewed {
            Ok(Ok(Renewed::Yes)) => {
                self.lasts(begun);
                if self.shared.lease.send_replace(Lease::Held) == Lease::Lost {
                    tracing::info!("the lease of this host is renewed; it goes on");
                }
                Some(true)
            }
            Ok(Ok(Renewed::Ended)) => {
                self.lose("others have ended it");
                // As a new start, whose token the others have not seen end.
                match self.rejoin().await {
                    Ok(()) => {
                        self.lasts(begun);
                        self.shared.lease.send_replace(Lease::Held);
                        tracing::info!(token = self.token(), "this host has joined again");
                        Some(true)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "this host can't join again yet");
                        self.connection = None;
                        None
                    }
                }
            }
            Ok(Ok(Renewed::Twin)) => {
                self.lose("another server runs with this data directory or a copy of it; stop one of them");
                Some(false)
            }
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%error, "the lease could not be renewed");
                }
                self.connection = None;
                if Instant::now() + self.host.margin >= self.until {
                    self.lose("the database can't be reached");
                }
                None
            }
        }
    }

    /// Counts from before the renewal was sent.
    fn lasts(&mut self, begun: Instant) {
        self.until = begun + self.host.lease;
        // No code panics while it holds the lock.
        *self.shared.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.until);
        // Later than this host stops them by itself, and before anybody takes anything.
        self.shared.guests_until.send_replace(Some((self.until - self.host.margin / 2).into()));
    }

    fn lose(&self, why: &str) {
        if self.shared.lease.send_replace(Lease::Lost) == Lease::Held {
            tracing::error!(why, "the lease of this host is lost; what runs here is stopped");
        }
    }

    fn token(&self) -> i64 {
        self.shared.token()
    }

    async fn connection(&mut self) -> sqlx::Result<&mut PgConnection> {
        if self.connection.is_none() {
            self.connection = Some(pool::connect(&self.options, self.within).await?);
        }
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    async fn renew(&mut self) -> sqlx::Result<Renewed> {
        let (token, host, lease) = (self.token(), self.host.host.clone(), self.host.lease.as_secs_f64());
        let connection = self.connection().await?;
        let done = sqlx::query(
            "UPDATE hosts SET expires_at = clock_timestamp() + make_interval(secs => $2)
             WHERE token = $1 AND ended_at IS NULL",
        )
        .bind(token)
        .bind(lease)
        .execute(&mut *connection)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(Renewed::Yes);
        }
        let twin: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM hosts WHERE host = $1 AND token <> $2 AND ended_at IS NULL)",
        )
        .bind(host)
        .bind(token)
        .fetch_one(connection)
        .await?;
        Ok(if twin { Renewed::Twin } else { Renewed::Ended })
    }

    async fn rejoin(&mut self) -> sqlx::Result<()> {
        let host = self.host.clone();
        let connection = self.connection().await?;
        let token: i64 = sqlx::query_scalar("SELECT nextval('writers')").fetch_one(&mut *connection).await?;
        insert(connection, token, &host).await?;
        // What is under way has the old number, and is refused where that counts.
        self.shared.writer.store(token.unsigned_abs(), Ordering::Release);
        self.shared.held.clear();
        Ok(())
    }

    async fn leave(mut self) {
        let within = self.within;
        let token = self.token();
        let leaving = async {
            let connection = self.connection().await?;
            sqlx::query("UPDATE hosts SET ended_at = clock_timestamp() WHERE token = $1 AND ended_at IS NULL")
                .bind(token)
                .execute(connection)
                .await
        };
        // If it can't be told, the others find out.
        let _ = tokio::time::timeout(within, leaving).await;
        if let Some(connection) = self.connection {
            let _ = tokio::time::timeout(within, connection.close()).await;
        }
    }
}

/// Earlier starts of the host have ended: its directory's lock says so. What was made
/// before there were hosts is the first one's.
async fn insert(connection: &mut PgConnection, token: i64, host: &HostConfig) -> sqlx::Result<()> {
    sqlx::query(
        "WITH earlier AS (
             UPDATE hosts SET ended_at = clock_timestamp() WHERE host = $2 AND ended_at IS NULL
         ), forgotten AS (
             DELETE FROM hosts WHERE ended_at < clock_timestamp() - interval '1 day'
         ), adopted AS (
             UPDATE tasks SET home = $3 WHERE home = '' AND NOT EXISTS (SELECT 1 FROM hosts)
         )
         INSERT INTO hosts (token, host, volume, address, expires_at)
         VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))",
    )
    .bind(token)
    .bind(&host.host)
    .bind(&host.volume)
    .bind(&host.address)
    .bind(host.lease.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}
