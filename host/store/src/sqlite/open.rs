//! Opening: everything that can be wrong with the file is found here, before
//! the first write, and said with the file's name and what to do about it.

use std::fmt::Display;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, query_scalar};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::SqliteStore;
use super::writer::{Options, Writer};

/// Marks a file as ours: "BHS1" in its header (`PRAGMA application_id`).
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"BHS1");

/// SQLite's cache per connection, in KiB: large enough for the hot pages of the
/// writer, small enough that every connection may have one.
const CACHE_KIB: u32 = 8 * 1024;

/// How long a reader waits for a connection.
const READER_WAIT: Duration = Duration::from_secs(5);

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Once it is on the disk: survives loss of power.
    #[default]
    Full,
    /// Once the operating system has it: survives a crash of the process, not of the machine.
    Off,
}

/// Where the database is and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file. Its directory must exist; `-wal` and `-shm` appear beside it.
    pub path: PathBuf,
    /// When a commit counts as done.
    pub synchronous: Synchronous,
    /// Connections for reading; each has a thread.
    pub readers: u32,
    /// How long to wait for another process that writes to the file.
    pub busy_timeout: Duration,
    /// Commands that may wait for the writer; more wait at most a second, then are refused.
    pub queue: usize,
}

impl SqliteConfig {
    /// The defaults: full durability, four readers.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            synchronous: Synchronous::Full,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            queue: 1024,
        }
    }
}

/// Why the database can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("the database {} can't be opened: {reason}; check that its directory exists and that this user may write there", path.display())]
    Unreachable { path: PathBuf, reason: String },
    #[error("the database {} is locked by another process; stop that one first", path.display())]
    Locked { path: PathBuf },
    #[error("{} is not a database of Bulkhead (application id {found:#x}); choose another path, the file was not touched", path.display())]
    Foreign { path: PathBuf, found: i32 },
    #[error("the database {} is damaged: {reason}; stop the server and restore the file from a backup, with its -wal file, or save what is left by `sqlite3 FILE .recover`", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the database {} has schema version {found}, this program knows {known}: it was used by a newer version; start that one, or restore a backup made before the upgrade", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database {}: migration {version} was applied in another form than this program has; start the version that made the file", path.display())]
    Changed { path: PathBuf, version: i64 },
    #[error("the database {}: its schema can't be brought up to date: {reason}; nothing was changed by the step that failed", path.display())]
    Migration { path: PathBuf, reason: String },
}

pub(super) async fn open(config: SqliteConfig) -> Result<SqliteStore, OpenError> {
    create_private(&config.path)?;
    // The first connection sets nothing that is kept in the file: it may be foreign.
    let plain = SqliteConnectOptions::new()
        .filename(&config.path)
        .busy_timeout(config.busy_timeout)
        .disable_statement_logging();
    let failed = |error| failure(&config.path, error);
    let mut connection = plain.connect().await.map_err(failed)?;
    let checked = check(&config.path, &mut connection).await;
    connection.close().await.map_err(failed)?;
    checked?;

    let shared = plain
        .create_if_missing(false)
        .foreign_keys(true)
        .pragma("cache_size", format!("-{CACHE_KIB}"))
        .pragma("temp_store", "memory");
    migrate(config.path.clone(), shared.clone().journal_mode(SqliteJournalMode::Wal)).await?;

    let commits = Arc::new(AtomicU64::new(0));
    let options = Options {
        path: config.path.clone(),
        synchronous: config.synchronous,
        busy_timeout: config.busy_timeout,
        cache_kib: CACHE_KIB,
    };
    let unreachable =
        |reason: &dyn Display| OpenError::Unreachable { path: config.path.clone(), reason: reason.to_string() };
    let connected = Writer::connect(options, commits.clone());
    let writer = connected.and_then(|mut writer| writer.take_over().map(|()| writer)).map_err(|error| {
        let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
        coded(&config.path, code, error.to_string())
    })?;
    let readers = SqlitePoolOptions::new()
        .max_connections(config.readers.max(1))
        .acquire_timeout(READER_WAIT)
        // Many who come at once wait a while; a warning each would fill the log.
        .acquire_slow_threshold(READER_WAIT)
        .test_before_acquire(false)
        .connect_with(shared.pragma("query_only", "1"))
        .await
        .map_err(failed)?;
    let (queue, receiver) = mpsc::channel(config.queue.max(1));
    let (running, ended) = oneshot::channel();
    // It ends when the store says so, or is dropped; `running` then goes with it.
    let work = move || {
        writer.run(receiver);
        drop(running);
    };
    std::thread::Builder::new().name("sqlite-writer".into()).spawn(work).map_err(|error| unreachable(&error))?;
    Ok(SqliteStore { queue, readers, commits, ended: Mutex::new(Some(ended)) })
}

/// Makes the file, if it is not there, for its owner alone: it holds what all
/// tenants did. SQLite gives the files beside it the same permissions.
fn create_private(path: &Path) -> Result<(), OpenError> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| OpenError::Unreachable { path: path.into(), reason: error.to_string() })
}

pub(super) fn migrator() -> Migrator {
    sqlx::migrate!("migrations/sqlite")
}

/// Refuses a file that is foreign, damaged or too new; marks a new one as ours.
async fn check(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let failed = |error| failure(path, error);
    let found: i32 = query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await.map_err(failed)?;
    let tables: i64 =
        query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await.map_err(failed)?;
    if found == 0 && tables == 0 {
        let mark = format!("PRAGMA application_id = {APPLICATION_ID}");
        sqlx::query(sqlx::AssertSqlSafe(mark)).execute(&mut *connection).await.map_err(failed)?;
        return Ok(());
    }
    if found != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.into(), found });
    }
    let verdict: Vec<String> =
        query_scalar("PRAGMA quick_check(3)").fetch_all(&mut *connection).await.map_err(failed)?;
    if verdict != ["ok"] {
        return Err(OpenError::Damaged { path: path.into(), reason: verdict.join("; ") });
    }
    let migrated: bool = query_scalar("SELECT count(*) > 0 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if migrated {
        let found: Option<i64> =
            query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await.map_err(failed)?;
        let known = migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
        if let Some(found) = found.filter(|found| *found > known) {
            return Err(OpenError::Newer { path: path.into(), found, known });
        }
    }
    Ok(())
}

async fn migrate(path: PathBuf, options: SqliteConnectOptions) -> Result<(), OpenError> {
    let path = path.as_path();
    let failed = |error| failure(path, error);
    let mut connection = options.connect().await.map_err(failed)?;
    // Not `run`, which is generic in a way that hides from the compiler that it is `Send`.
    let result = migrator().run_direct(None, &mut connection, false).await;
    connection.close().await.map_err(failed)?;
    result.map_err(|error| match error {
        MigrateError::VersionMismatch(version) => OpenError::Changed { path: path.into(), version },
        MigrateError::Execute(error) => failure(path, error),
        error => OpenError::Migration { path: path.into(), reason: error.to_string() },
    })
}

/// What a failure of SQLite means while opening.
fn failure(path: &Path, error: sqlx::Error) -> OpenError {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    // SQLite's own code, without its extension.
    coded(path, code.map(|code| code & 0xff), error.to_string())
}

fn coded(path: &Path, code: Option<i32>, reason: String) -> OpenError {
    let path = path.to_path_buf();
    match code {
        Some(5 | 6) => OpenError::Locked { path },
        // Corrupt; not a database at all (which is what a damaged header looks like).
        Some(11 | 26) => OpenError::Damaged { path, reason },
        _ => OpenError::Unreachable { path, reason },
    }
}
