//! Which store: the one place that knows that there are two.

use std::sync::Arc;

use bulkhead_core::ports::cluster::{Alone, Cluster};
use bulkhead_core::ports::components::Components;
use bulkhead_core::ports::store::Store;
use bulkhead_store::{BreakerState, HostConfig, JoinError, OpenError, PostgresOpenError, PostgresStore, SqliteStore};
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
    /// The other hosts can't be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
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

    /// Joins the other hosts on it, if there may be some: who holds what. A file is
    /// held by the lock of its directory.
    ///
    /// # Errors
    /// If the database can't be reached.
    pub async fn join(&self, host: HostConfig) -> Result<Arc<dyn Cluster>, StoreOpenError> {
        match self {
            Self::Sqlite(store) => Ok(Arc::new(Alone::new(store.clone()))),
            Self::Postgres(store) => {
                store.join(host).await?;
                Ok(store.clone())
            }
        }
    }

    /// Where components lie that every host may have to compile; none if there is one host.
    pub fn components(&self) -> Option<Arc<dyn Components>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(store.clone()),
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
