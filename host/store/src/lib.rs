//! Stores of Bulkhead: [`SqliteStore`], durable in a file; [`PostgresStore`], durable
//! in a database of its own; and [`MemoryStore`], for tests and one-shot runs. [`Redis`]
//! is no store: it makes several hosts quicker. All stores keep the promises of `bulkhead_core::ports::store`;
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
#[cfg(test)]
#[path = "../../../tests/harness/proxy.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "the harness is shared with the tests of whole servers"
)]
mod proxy;
mod redis;
mod rows;
mod sqlite;

pub use self::redis::{BadRedisUrl, Redis, RedisConfig, RedisRates, RedisStats, RedisUrl, SharedRate};
pub use memory::MemoryStore;
pub use postgres::{
    BadUrl, BreakerState, Found as PostgresFound, HostConfig, JoinError, OpenError as PostgresOpenError,
    PostgresConfig, PostgresStats, PostgresStore, PostgresUrl,
};
pub use sqlite::{OpenError, SqliteConfig, SqliteStore, Synchronous};
