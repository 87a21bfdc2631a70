//! Stores of Bulkhead: [`SqliteStore`], durable in a file; [`PostgresStore`], durable
//! in a database of its own; and [`MemoryStore`], for tests and one-shot runs. All keep the promises of `bulkhead_core::ports::store`;
//! the suite in `contract` (feature `contract`) checks them against each.
//!
//! Deliberately absent: caching (core does it, where it knows what may be
//! stale) and policy (who may see what is decided before a store is asked; the
//! store only refuses rows of another owner).

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod memory;
mod postgres;
mod rows;
mod sqlite;

pub use memory::MemoryStore;
pub use postgres::{
    BadUrl, BreakerState, Found as PostgresFound, HostConfig, JoinError, OpenError as PostgresOpenError,
    PostgresConfig, PostgresStats, PostgresStore, PostgresUrl,
};
pub use sqlite::{OpenError, SqliteConfig, SqliteStore, Synchronous};
