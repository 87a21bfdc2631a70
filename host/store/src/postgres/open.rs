//! Opening: whose database that is, and what its schema is, before the first write;
//! then the migrations, by one host at a time.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bulkhead_core::ports::cluster::Lease;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection, query_scalar};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::breaker::Breaker;
use super::clock::DatabaseClock;
use super::config::SCHEMA;
use super::hosts::Held;
use super::lease::Keeping;
use super::pool::{self, Limits, Pool};
use super::turns::Turns;
use super::{PostgresConfig, PostgresStore, Shared};

/// The oldest server that has all that is used here.
const OLDEST: i32 = 140_000;

/// The first number of our advisory locks: "BHS1".
const LOCK_CLASS: i32 = i32::from_be_bytes(*b"BHS1");

/// Held by who brings the schema up to date.
const UPGRADE_LOCK: i32 = 1;

/// What `about.application` says in a schema of ours.
const APPLICATION: &str = "BHS1";

/// Why the database can't be used. Each names it, without the password.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error(
        "the database {database} can't be reached: {reason}; check DATABASE_URL, and that the server runs and lets this role in"
    )]
    Unreachable { database: String, reason: String },
    #[error("the database {database} can't be used: {reason}; {remedy}")]
    Unfit { database: String, reason: String, remedy: &'static str },
    #[error(
        "the database {database}: its schema `bulkhead` is not of Bulkhead; use another database, nothing was touched"
    )]
    Foreign { database: String },
    #[error(
        "the database {database}: the role may not make the schema: {reason}; run as its owner: GRANT CREATE ON DATABASE … TO …, or CREATE SCHEMA bulkhead AUTHORIZATION …"
    )]
    Forbidden { database: String, reason: String },
    #[error(
        "the database {database} has schema version {found}, this program knows {known}: it was used by a newer version; start that one, or restore a backup made before the upgrade"
    )]
    Newer { database: String, found: i64, known: i64 },
    #[error(
        "the database {database}: migration {version} was applied in another form than this program has; start the version that made the schema"
    )]
    Changed { database: String, version: i64 },
    #[error(
        "the database {database}: another host has been bringing its schema up to date for a minute; wait for it, and look there if it does not end"
    )]
    Upgrading { database: String },
    #[error(
        "the database {database}: its schema can't be brought up to date: {reason}; nothing was changed by the step that failed"
    )]
    Migration { database: String, reason: String },
}

/// What a look at the database found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The server's version.
    pub server: String,
    /// The version of our schema in it; none if there is no schema yet.
    pub schema: Option<i64>,
    /// Connections that the server allows, all of its users together.
    pub connections: i64,
}

pub(super) async fn open(config: PostgresConfig) -> Result<PostgresStore, OpenError> {
    let database = config.url.to_string();
    let unreachable = |error: sqlx::Error| unreachable(&database, &error);
    let mut connection = pool::connect(&config.upgrade(), config.connect_timeout).await.map_err(unreachable)?;
    let upgraded = upgrade(&database, &mut connection).await;
    let writer = match upgraded {
        Ok(()) => query_scalar("SELECT nextval('writers')").fetch_one(&mut connection).await.map_err(unreachable),
        Err(error) => Err(error),
    };
    // Its locks go with it.
    let _ = connection.close().await;
    let writer: i64 = writer?;
    let limits = Limits {
        connections: config.connections as usize,
        wait: config.acquire_timeout,
        connect: config.connect_timeout,
        idle: config.idle,
    };
    let shared = Shared {
        pool: Pool::new(config.session(), limits),
        breaker: Breaker::new(config.breaker_failures, config.breaker_open),
        turns: Turns::new(),
        chains: Turns::new(),
        queue: Arc::new(Semaphore::new(config.queue.max(1))),
        tracker: TaskTracker::new(),
        host: OnceLock::new(),
        lease: watch::Sender::new(Lease::Held),
        until: Mutex::new(None),
        guests_until: watch::Sender::new(None),
        held: Held::default(),
        clock: DatabaseClock::default(),
        leaving: AtomicBool::new(false),
        taken: AtomicU64::new(0),
        writer: AtomicU64::new(writer.unsigned_abs()),
        writes: AtomicU64::new(0),
        commits: AtomicU64::new(0),
        config,
    };
    Ok(PostgresStore { shared: Arc::new(shared), keeping: Keeping::default() })
}

impl PostgresStore {
    /// Looks at a database and changes nothing.
    ///
    /// # Errors
    /// As `open`.
    pub async fn look(config: &PostgresConfig) -> Result<Found, OpenError> {
        let database = config.url.to_string();
        let connected = pool::connect(&config.upgrade(), config.connect_timeout).await;
        let mut connection = connected.map_err(|error| unreachable(&database, &error))?;
        let looked = tokio::time::timeout(config.timeout, check(&database, &mut connection)).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        looked.unwrap_or_else(|_| Err(OpenError::Unreachable { database, reason: "it does not answer".into() }))
    }
}

fn unreachable(database: &str, error: &sqlx::Error) -> OpenError {
    OpenError::Unreachable { database: database.into(), reason: error.to_string() }
}

pub(super) fn migrator() -> Migrator {
    sqlx::migrate!("migrations/postgres")
}

/// Checks and migrates, while no other host does.
async fn upgrade(database: &str, connection: &mut PgConnection) -> Result<(), OpenError> {
    let locked = sqlx::query("SELECT pg_advisory_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(UPGRADE_LOCK)
        .execute(&mut *connection)
        .await;
    locked.map_err(|error| match code(&error).as_deref() {
        Some("55P03") => OpenError::Upgrading { database: database.into() },
        _ => unreachable(database, &error),
    })?;
    let found = check(database, connection).await?;
    // The right to make one is asked for even if it is there: so it is not tried then.
    let there: bool = query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
        .bind(SCHEMA)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| unreachable(database, &error))?;
    if found.schema.is_none() && !there {
        let made = connection.execute("CREATE SCHEMA bulkhead").await;
        made.map_err(|error| OpenError::Forbidden { database: database.into(), reason: error.to_string() })?;
    }
    // Not `run`, which is generic in a way that hides from the compiler that it is `Send`.
    migrator().run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMismatch(version) | MigrateError::VersionMissing(version) => {
            OpenError::Changed { database: database.into(), version }
        }
        MigrateError::Execute(error) if code(&error).as_deref() == Some("42501") => {
            OpenError::Forbidden { database: database.into(), reason: error.to_string() }
        }
        error => OpenError::Migration { database: database.into(), reason: error.to_string() },
    })
}

/// Refuses a server that lacks something, and a schema that is foreign or too new.
async fn check(database: &str, connection: &mut PgConnection) -> Result<Found, OpenError> {
    let failed = |error: sqlx::Error| unreachable(database, &error);
    let unfit = |reason: String, remedy| Err(OpenError::Unfit { database: database.into(), reason, remedy });
    let (number, server, encoding, standby, connections): (i32, String, String, bool, i64) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                current_setting('server_encoding'), pg_is_in_recovery(), current_setting('max_connections')::bigint",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if number < OLDEST {
        return unfit(format!("it is PostgreSQL {server}"), "use version 14 or a newer one");
    }
    if encoding != "UTF8" {
        return unfit(
            format!("its encoding is {encoding}"),
            "make one by CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        );
    }
    if standby {
        return unfit("it is a standby, which can't be written to".into(), "name the primary");
    }
    let (things, ours): (i64, bool) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)),
                to_regclass($1 || '.about') IS NOT NULL AND to_regclass($1 || '._sqlx_migrations') IS NOT NULL",
    )
    .bind(SCHEMA)
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if things == 0 {
        return Ok(Found { server, schema: None, connections });
    }
    let foreign = || OpenError::Foreign { database: database.into() };
    if !ours {
        return Err(foreign());
    }
    // A table of that name that has other columns is foreign as well.
    let application: Option<String> = query_scalar("SELECT application FROM bulkhead.about")
        .fetch_optional(&mut *connection)
        .await
        .map_err(|_| foreign())?;
    if application.as_deref() != Some(APPLICATION) {
        return Err(foreign());
    }
    let found: Option<i64> = query_scalar("SELECT max(version) FROM bulkhead._sqlx_migrations")
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    match found {
        Some(found) if found > known => Err(OpenError::Newer { database: database.into(), found, known }),
        schema => Ok(Found { server, schema: Some(schema.unwrap_or(0)), connections }),
    }
}

/// What the server calls the error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}
