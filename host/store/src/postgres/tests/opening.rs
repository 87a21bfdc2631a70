//! Opening a database: new, ours, somebody else's, or of another time.

use bulkhead_core::ports::store::Store;
use futures::future::join_all;
use sqlx::Connection as _;

use super::server::{PASSWORD, postgres};
use super::{config, database, open};
use crate::contract::older;
use crate::contract::world::{World, end, log, owner, page};
use crate::postgres::open::migrator;
use crate::postgres::pool;
use crate::postgres::{OpenError, PostgresStore, PostgresUrl};

/// Opening fails; the message names the database, says what to do, and no password.
async fn refusal(url: &str) -> OpenError {
    let error = PostgresStore::open(config(url)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&PostgresUrl::parse(url).unwrap().to_string()), "{text}");
    assert!(!text.contains(PASSWORD), "{text}");
    error
}

/// The newest schema that this program knows.
const KNOWN: i64 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_bring_the_schema_up_to_date_at_once() {
    let database = postgres().database(None);
    let url = postgres().socket_url(&database);
    let opened = join_all((0..4).map(|_| tokio::spawn(PostgresStore::open(config(&url))))).await;
    let stores: Vec<_> = opened.into_iter().map(|opened| opened.unwrap().unwrap()).collect();
    let applied = postgres().psql(&database, "SELECT count(*), count(DISTINCT version) FROM bulkhead._sqlx_migrations");
    let known = migrator().iter().count();
    assert_eq!(applied.unwrap(), format!("{known}|{known}"));
    assert_eq!(migrator().iter().map(|migration| migration.version).max(), Some(KNOWN));
    let mut writers: Vec<_> = stores.iter().map(|store| store.token()).collect();
    writers.sort_unstable();
    writers.dedup();
    assert_eq!(writers.len(), 4, "each has a number of its own for its writes");
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again() {
    let url = postgres().socket_url(&database());
    let store = open(&url).await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let (over, running) = (world.running_call(&task), world.running_call(&task));
    world.accept(&over).await;
    world.accept(&running).await;
    store.end_call(end(&over, "done")).await.unwrap().unwrap();
    let calls = store.list_calls(task.id, page(None, 9)).await.unwrap();
    let events = log(&*store, task.id).await;
    Store::close(&*store).await;
    assert!(store.append_events(task.id, vec![]).await.is_err());
    assert!(store.ping().await.is_err());
    assert_eq!(store.stats().connections, 0, "nothing is left open");

    let store = open(&url).await;
    assert_eq!(store.list_calls(task.id, page(None, 9)).await.unwrap(), calls);
    assert_eq!(log(&*store, task.id).await, events);
    assert_eq!(store.open_calls().await.unwrap(), [running]);
    Store::close(&*store).await;
    Store::close(&*store).await;
}

#[tokio::test]
async fn a_schema_of_somebody_else_is_refused_and_not_touched() {
    for theirs in [
        "CREATE SCHEMA bulkhead CREATE TABLE theirs (x int)",
        "CREATE SCHEMA bulkhead CREATE TABLE about (application text) CREATE TABLE _sqlx_migrations (version bigint)",
        "CREATE SCHEMA bulkhead CREATE TABLE about (x int) CREATE TABLE _sqlx_migrations (version bigint)",
    ] {
        let database = postgres().database(None);
        postgres().psql(&database, theirs).unwrap();
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'bulkhead'";
        let before = postgres().psql(&database, tables).unwrap();
        let error = refusal(&postgres().socket_url(&database)).await;
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert_eq!(postgres().psql(&database, tables).unwrap(), before);
    }
    // Theirs beside ours is none of our business.
    let database = postgres().database(None);
    postgres().psql(&database, "CREATE TABLE tasks (x int); CREATE TABLE about (x int)").unwrap();
    let store = open(&postgres().socket_url(&database)).await;
    World::new(store.clone()).ready_task(owner(1)).await;
    assert_eq!(postgres().psql(&database, "SELECT count(*) FROM public.tasks").unwrap(), "0");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let database = database();
    let future = "INSERT INTO bulkhead._sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (9001, 'of the future', true, '\\x00', 0)";
    postgres().psql(&database, future).unwrap();
    let error = refusal(&postgres().socket_url(&database)).await;
    assert!(matches!(error, OpenError::Newer { found: 9001, known: KNOWN, .. }), "{error}");
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let database = database();
    postgres().psql(&database, "UPDATE bulkhead._sqlx_migrations SET checksum = '\\x00' WHERE version = 1").unwrap();
    let error = refusal(&postgres().socket_url(&database)).await;
    assert!(matches!(error, OpenError::Changed { version: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_database_that_can_not_hold_all_texts_is_refused() {
    let database = postgres().database(None);
    let ascii = format!("{database}_ascii");
    let create = format!("CREATE DATABASE {ascii} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    postgres().psql("postgres", &create).unwrap();
    let error = refusal(&postgres().socket_url(&ascii)).await;
    assert!(error.to_string().contains("SQL_ASCII") && error.to_string().contains("UTF8"), "{error}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let database = postgres().database(None);
    let role = format!("role_of_{database}");
    postgres().psql("postgres", &format!("CREATE ROLE {role} LOGIN")).unwrap();
    let url = postgres().socket_url(&database).replace("postgres@", &format!("{role}@"));
    let error = refusal(&url).await;
    assert!(matches!(error, OpenError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("GRANT CREATE"), "{error}");
    // With a schema of its own it needs no right in the database.
    postgres().psql(&database, &format!("CREATE SCHEMA bulkhead AUTHORIZATION {role}")).unwrap();
    let store = open(&url).await;
    World::new(store.clone()).ready_task(owner(1)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&postgres().url(port, "x")).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    // A wrong password, and a database that is not there.
    let url = postgres().url(postgres().port(), "postgres");
    for wrong in
        [url.replace(PASSWORD, "s3cret-of-the-tests-but-wrong"), url.replace("/postgres?", "/no_such_database?")]
    {
        let error = PostgresStore::open(config(&wrong)).await.unwrap_err();
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_server_proves_who_it_is_if_it_must() {
    let database = database();
    let store = open(&postgres().verified_url("localhost", &postgres().authority(), &database)).await;
    World::new(store.clone()).ready_task(owner(1)).await;
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity a USING (pid)
                     WHERE a.datname = current_database() AND a.application_name = 'bulkhead'";
    assert_eq!(postgres().psql(&database, encrypted).unwrap(), "t");

    // Another authority, and a name that is not in its certificate.
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.crt");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, certified.cert.pem()).unwrap();
    for url in [
        postgres().verified_url("localhost", &other, &database),
        postgres().verified_url("127.0.0.1", &postgres().authority(), &database),
    ] {
        let error = refusal(&url).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_look_changes_nothing() {
    let empty = postgres().database(None);
    let found = PostgresStore::look(&config(&postgres().socket_url(&empty))).await.unwrap();
    assert_eq!((found.schema, found.connections), (None, 300));
    let found = PostgresStore::look(&config(&postgres().socket_url(&database()))).await.unwrap();
    assert_eq!(found.schema, Some(KNOWN));
    assert_eq!(postgres().psql(&empty, "SELECT to_regnamespace('bulkhead') IS NULL").unwrap(), "t");
}

#[tokio::test]
async fn a_database_of_any_earlier_version_goes_on_with_all_that_is_in_it() {
    let now = database();
    let store = open(&postgres().socket_url(&now)).await;
    let filled = older::fill(store.clone()).await;
    Store::close(&*store).await;
    for version in 1..KNOWN {
        // What is there now moves aside, and an empty schema of that version takes its place.
        let then = postgres().database(Some(&now));
        let url = postgres().socket_url(&then);
        postgres().psql(&then, "ALTER SCHEMA bulkhead RENAME TO newer; CREATE SCHEMA bulkhead").unwrap();
        let mut old = pool::connect(&config(&url).upgrade(), std::time::Duration::from_secs(30)).await.unwrap();
        migrator().run_direct(Some(version), &mut old, false).await.unwrap();
        old.close().await.unwrap();
        let skipped = older::LEFT_OUT.map(|table| format!("'{table}'")).join(", ");
        let copy = format!(
            "SELECT format('INSERT INTO bulkhead.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM newer.%I', table_name, list, list, table_name)
             FROM (SELECT table_name::text, string_agg(quote_ident(column_name), ', ') AS list
                   FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
                   WHERE table_schema = 'bulkhead' AND table_type = 'BASE TABLE' AND table_name NOT IN ({skipped})
                   GROUP BY table_name) AS tables"
        );
        let copies = postgres().psql(&then, &copy).unwrap().lines().collect::<Vec<_>>().join(";");
        let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'bulkhead'";
        let tables: Vec<_> = postgres().psql(&then, tables).unwrap().lines().map(str::to_owned).collect();
        // Rows refer to one another: they are taken as a whole.
        postgres().psql(&then, &format!("SET session_replication_role = replica; {copies}")).unwrap();
        let store = open(&url).await;
        older::check(store.clone(), &filled, &tables).await;
        Store::close(&*store).await;
    }
}
