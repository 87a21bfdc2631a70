//! What only the PostgreSQL store promises, with a server of the tests' own: that
//! several hosts may use one database, and what holds when the network fails.

#![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
#![allow(dead_code, unreachable_pub, reason = "the harness is shared with the tests of whole servers")]

mod audit;
mod hosts;
mod network;
mod opening;
mod readers;
#[path = "../../../../tests/harness/postgres.rs"]
mod server;
mod several;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bulkhead_core::ports::store::Store;
use futures::{FutureExt as _, StreamExt as _};

use self::server::postgres;
use super::{PostgresConfig, PostgresStore, PostgresUrl};
use crate::Synchronous;

/// How a test's database is used: by its socket, with few connections.
fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        synchronous: Synchronous::Off,
        connections: 4,
        // All run at once, on a loaded machine.
        acquire_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        ..PostgresConfig::new(PostgresUrl::parse(url).unwrap())
    }
}

/// A database with our schema: a copy of one that was migrated once.
fn database() -> String {
    static TEMPLATE: OnceLock<String> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let name = postgres().database(None);
        // In a thread of its own: the caller has a runtime already.
        let url = postgres().socket_url(&name);
        let opening = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { PostgresStore::open(config(&url)).await.unwrap().close().await });
        });
        opening.join().unwrap();
        name
    });
    // A copy waits until nobody is connected to what is copied.
    let copied = (0..200).find_map(|_| {
        let copied = std::panic::catch_unwind(|| postgres().database(Some(template)));
        copied.inspect_err(|_| std::thread::sleep(Duration::from_millis(50))).ok()
    });
    copied.expect("a database is made")
}

async fn open(url: &str) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(config(url)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_promises() {
    let one = |(name, test): &'static (&'static str, crate::contract::Test)| async move {
        let database = tokio::task::spawn_blocking(database).await.unwrap();
        let store = open(&postgres().socket_url(&database)).await;
        let kept = AssertUnwindSafe(test(store.clone())).catch_unwind().await.is_ok();
        Store::close(&*store).await;
        (!kept).then_some(*name)
    };
    let tests = crate::contract::ALL.iter().map(|test| tokio::spawn(one(test)));
    let broken: Vec<_> =
        futures::stream::iter(tests).buffer_unordered(4).filter_map(|done| async { done.unwrap() }).collect().await;
    assert!(broken.is_empty(), "promises broken: {broken:#?}");
}
