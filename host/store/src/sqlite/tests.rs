//! What only the SQLite store promises: that it keeps, that it opens nothing
//! it should not, and that it survives a full disk and a second process.

#![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]

mod audit;
mod opening;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_core::ports::store::Store;
use tempfile::TempDir;

use super::{SqliteConfig, SqliteStore};

/// A directory with room for one database.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("bulkhead.db")
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig { synchronous: super::Synchronous::Off, ..SqliteConfig::new(self.path()) }
    }

    async fn open(&self) -> Arc<SqliteStore> {
        Arc::new(SqliteStore::open(self.config()).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_promises() {
    let directory = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicU32::new(0);
    crate::contract::run(|| async {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(format!("{number}.db"));
        let config = SqliteConfig { synchronous: super::Synchronous::Off, ..SqliteConfig::new(path) };
        Arc::new(SqliteStore::open(config).await.unwrap()) as Arc<dyn Store>
    })
    .await;
}
