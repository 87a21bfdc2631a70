//! Opening a file, again or for the first time, ours or not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bulkhead_core::ports::store::Store as _;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::Home;
use crate::contract::older;
use crate::contract::world::{World, end, event, log, owner, page};
use crate::sqlite::open::{APPLICATION_ID, migrator};
use crate::sqlite::{OpenError, SqliteConfig, SqliteStore};

/// Changes the file as nobody should.
async fn meddle(path: &Path, sql: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    connection.close().await.unwrap();
}

/// Opening fails; the message names the file.
async fn refusal(home: &Home) -> OpenError {
    let error = SqliteStore::open(home.config()).await.unwrap_err();
    assert!(error.to_string().contains(home.path().to_str().unwrap()), "{error}");
    error
}

/// A database that was used and closed.
async fn used(home: &Home) {
    let store = home.open().await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    store.append_events(task.id, (0..500).map(event).collect()).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again() {
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let (over, running) = (world.running_call(&task), world.running_call(&task));
    world.accept(&over).await;
    world.accept(&running).await;
    store.end_call(end(&over, "done")).await.unwrap().unwrap();
    let calls = store.list_calls(task.id, page(None, 9)).await.unwrap();
    let events = log(&*store, task.id).await;
    store.close().await;
    // The last checkpoint put all into the file itself.
    assert!(!home.path().with_extension("db-wal").exists());
    assert!(store.append_events(task.id, vec![]).await.is_err());
    assert!(store.ping().await.is_err());

    let store = home.open().await;
    assert_eq!(store.list_calls(task.id, page(None, 9)).await.unwrap(), calls);
    assert_eq!(log(&*store, task.id).await, events);
    assert_eq!(store.open_calls().await.unwrap(), [running]);
    store.close().await;
    store.close().await;
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    let home = Home::new();
    let store = home.open().await;
    World::new(store.clone()).ready_task(owner(1)).await;
    for path in [home.path(), home.path().with_extension("db-wal")] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_foreign_database_is_refused_and_not_touched() {
    let home = Home::new();
    meddle(&home.path(), "CREATE TABLE theirs (x)").await;
    let before = std::fs::read(home.path()).unwrap();
    let error = refusal(&home).await;
    assert!(matches!(error, OpenError::Foreign { found: 0, .. }), "{error}");
    meddle(&home.path(), "PRAGMA application_id = 99").await;
    assert!(matches!(refusal(&home).await, OpenError::Foreign { found: 99, .. }));
    meddle(&home.path(), "PRAGMA application_id = 0").await;
    // Only the counters of changes in the header differ, by our own meddling.
    assert_eq!(std::fs::read(home.path()).unwrap()[100..], before[100..]);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_not_touched() {
    let home = Home::new();
    let text = "dear diary, ".repeat(500);
    std::fs::write(home.path(), &text).unwrap();
    assert!(matches!(refusal(&home).await, OpenError::Damaged { .. }));
    assert_eq!(std::fs::read_to_string(home.path()).unwrap(), text);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let home = Home::new();
    used(&home).await;
    meddle(
        &home.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'of the future', 1, x'00', 0)",
    )
    .await;
    let error = refusal(&home).await;
    assert!(matches!(error, OpenError::Newer { found: 9001, .. }), "{error}");
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let home = Home::new();
    used(&home).await;
    meddle(&home.path(), "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").await;
    assert!(matches!(refusal(&home).await, OpenError::Changed { version: 1, .. }));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let home = Home::new();
    used(&home).await;
    let mut bytes = std::fs::read(home.path()).unwrap();
    // Every page but the first: the schema is readable, the tables are not.
    let page = 4096;
    for (index, byte) in bytes.iter_mut().enumerate().skip(page * 8) {
        *byte ^= (index % 251) as u8;
    }
    std::fs::write(home.path(), &bytes).unwrap();
    let error = refusal(&home).await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    for word in ["damaged", "backup", ".recover"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_is_refused() {
    let home = Home::new();
    let config = SqliteConfig::new(home.0.path().join("no/such/directory/x.db"));
    let error = SqliteStore::open(config).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
}

/// Events as they were before their keys were numbers.
const NAMED_EVENTS: &str = "
    (SELECT t.id AS task_id, e.place & 4294967295 AS seq, t.tenant_id, t.user_id, e.at, e.size, e.call_id, e.kind, e.data
     FROM new.events e JOIN new.tasks t ON t.number = e.place >> 32)";

/// Tasks as they were before their logs had rows of their own.
const TASKS_WITH_LOGS: &str = "
    (SELECT t.*, l.last_seq, l.first_seq, l.bytes AS log_bytes, l.open_calls
     FROM new.tasks t JOIN new.logs l ON l.number = t.number)";

#[tokio::test]
async fn a_file_of_any_earlier_version_goes_on_with_all_that_is_in_it() {
    let now = Home::new();
    let store = now.open().await;
    let filled = older::fill(store.clone()).await;
    store.close().await;
    let newest = migrator().iter().map(|migration| migration.version).max().unwrap();
    for version in 1..newest {
        let then = Home::new();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(then.path()).create_if_missing(true);
        let mut old = options.foreign_keys(false).connect().await.unwrap();
        old.execute(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"))).await.unwrap();
        migrator().run_direct(Some(version), &mut old, false).await.unwrap();
        old.execute(AssertSqlSafe(format!("ATTACH '{}' AS new", now.path().display()))).await.unwrap();
        let tables = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut old).await.unwrap();
        for table in tables.iter().filter(|table| !older::LEFT_OUT.contains(&table.as_str())) {
            let columns = "SELECT group_concat(name) FROM pragma_table_info(?, 'main')";
            let columns: String = sqlx::query_scalar(columns).bind(table).fetch_one(&mut old).await.unwrap();
            let from = match table.as_str() {
                "events" if version < 8 => NAMED_EVENTS.to_owned(),
                "tasks" => TASKS_WITH_LOGS.to_owned(),
                _ => format!("new.{table}"),
            };
            let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM {from}");
            old.execute(AssertSqlSafe(copy)).await.unwrap();
        }
        old.close().await.unwrap();
        let store = then.open().await;
        older::check(store.clone(), &filled, &tables).await;
        store.close().await;
    }
}
