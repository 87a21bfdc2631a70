//! Which store: the one place that knows that there are two.

use std::sync::Arc;

use bulkhead_core::ports::store::Store;
use bulkhead_store::{BreakerState, ClaimError, OpenError, PostgresOpenError, PostgresStore, SqliteStore};
use thiserror::Error;

use crate::config::Config;

/// Why the store can't be used.
#[derive(Debug, Error)]
pub enum StoreOpenError {
    /// The file of SQLite.
    #[error(transparent)]
    Sqlite(#[from] OpenError),
    /// The database of PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PostgresOpenError),
    /// Another server runs on it.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// What the store counts, read when somebody asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreReadings {
    /// Transactions that it has committed.
    pub commits: u64,
    /// Connections to a database elsewhere.
    pub connections: usize,
    /// Whether the circuit breaker lets through less than everything.
    pub breaker_open: bool,
    /// How often it opened.
    pub breaker_opened: u64,
}

/// The store, opened.
#[derive(Clone, Debug)]
pub enum OpenStore {
    /// A SQLite file.
    Sqlite(Arc<SqliteStore>),
    /// A PostgreSQL database.
    Postgres(Arc<PostgresStore>),
}

impl OpenStore {
    /// Opens the one that is configured, and checks it.
    ///
    /// # Errors
    /// If it can't be used.
    pub async fn open(config: &Config) -> Result<Self, StoreOpenError> {
        Ok(match &config.database_url {
            None => Self::Sqlite(Arc::new(SqliteStore::open(config.sqlite()).await?)),
            Some(url) => Self::Postgres(Arc::new(PostgresStore::open(config.postgres(url.clone())).await?)),
        })
    }

    /// Takes it for this server alone. That of a file is held by the lock of its directory.
    ///
    /// # Errors
    /// If another server has it.
    pub async fn claim(&self) -> Result<(), StoreOpenError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(store) => Ok(store.claim().await?),
        }
    }

    /// The port.
    pub fn port(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// What it counts.
    pub fn readings(&self) -> StoreReadings {
        match self {
            Self::Sqlite(store) => StoreReadings { commits: store.commits(), ..StoreReadings::default() },
            Self::Postgres(store) => {
                let stats = store.stats();
                StoreReadings {
                    commits: stats.commits,
                    connections: stats.connections,
                    breaker_open: stats.breaker != BreakerState::Closed,
                    breaker_opened: stats.breaker_opened,
                }
            }
        }
    }
}
