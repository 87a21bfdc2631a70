//! The audit log in a file: what was recorded before there were chains, what can't be
//! recorded, and what shows that somebody changed it.

use bulkhead_core::audit::chain::Chain;
use bulkhead_core::audit::verify::{Broken, verify};
use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::key::{ApiKey, KeyRecord};
use bulkhead_core::ports::store::{Retention, Store as _, StoreError};
use bulkhead_core::principal::Scopes;
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::ToolSet;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::Home;
use crate::contract::audit::keep_all;
use crate::contract::world::{World, at, end, owner};
use crate::sqlite::open::{APPLICATION_ID, migrator};
use crate::sqlite::{SqliteConfig, SqliteStore};

async fn sql(store: &SqliteStore, text: String) -> Result<(), StoreError> {
    store.write("test", move |db| db.execute_batch(&text)).await
}

fn record(number: i64) -> NewAudit {
    let task = bulkhead_core::id::TaskId::from_parts(1, 1);
    NewAudit::new(at(number), owner(1), task, None, &AuditBody::CallRevoked { reason: format!("reason {number}") })
}

/// The first thing that is wrong with the first tenant's chain.
async fn broken(store: &SqliteStore) -> Option<Broken> {
    let chain = owner(1).tenant.to_string();
    let state = store.audit_chains().await.unwrap().into_iter().find(|state| state.chain == chain).unwrap();
    verify(&state, &store.chained_audit(&chain, 0, 10_000).await.unwrap(), vec![]).err()
}

/// A file of the version before, with records.
async fn unchained(home: &Home, records: i64) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.path()).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    connection.execute(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"))).await.unwrap();
    migrator().run_direct(Some(4), &mut connection, false).await.unwrap();
    for number in 0..records {
        let owner = owner(1 + (number % 2).unsigned_abs() as u128);
        let insert = format!(
            "INSERT INTO audit (at, tenant_id, user_id, task_id, call_id, kind, data)
             VALUES ({number}, '{}', '{}', 'task_00000000010000000000000001', NULL, 'call.revoked', '{{\"reason\":\"ä\"}}')",
            owner.tenant, owner.user
        );
        connection.execute(AssertSqlSafe(insert)).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn records_of_a_version_without_chains_become_links() {
    let home = Home::new();
    unchained(&home, 1_203).await;
    let store = home.open().await;
    let heads: Vec<_> = store.audit_chains().await.unwrap().iter().map(|state| state.head.number).collect();
    assert_eq!(heads, [602, 601]);
    assert_eq!(broken(&store).await, None);
    store.append_audit(vec![record(1)]).await.unwrap();
    assert_eq!(broken(&store).await, None);
    let all = store.list_audit(owner(1), &AuditFilter::default(), 0, 9_999).await.unwrap();
    assert_eq!(all.len(), 603);
    assert!(all.is_sorted_by_key(|audit| audit.number), "in the order that they had");
    assert_eq!(all[1].record.at.as_millis(), 2);
    store.close().await;
    // It is done once.
    let store = home.open().await;
    assert_eq!(store.audit_chains().await.unwrap()[0].head.number, 603);
}

/// The file of a version whose audit log had the names of chains for keys.
async fn named(now: &Home, then: &Home) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(then.path()).create_if_missing(true);
    let mut old = options.connect().await.unwrap();
    migrator().run_direct(Some(7), &mut old, false).await.unwrap();
    let copy = format!(
        "PRAGMA application_id = {APPLICATION_ID};
         ATTACH '{}' AS new;
         INSERT INTO main.audit_heads (tenant_id, number, hash, kept_after, kept_hash)
             SELECT tenant_id, number, hash, kept_after, kept_hash FROM new.audit_heads;
         INSERT INTO main.audit (tenant_id, number, at, user_id, task_id, call_id, kind, data, hash)
             SELECT h.tenant_id, a.place & 1099511627775, a.at, a.user_id, a.task_id, a.call_id, a.kind, a.data, a.hash
             FROM new.audit a JOIN new.audit_heads h ON h.chain = a.place >> 40",
        now.path().display()
    );
    old.execute(AssertSqlSafe(copy)).await.unwrap();
    old.close().await.unwrap();
}

#[tokio::test]
async fn chains_with_names_for_keys_stay_whole() {
    let (now, then) = (Home::new(), Home::new());
    let store = now.open().await;
    let of = |user: u128, number: i64| NewAudit { user: Some(owner(user).user), ..record(number) };
    let other = |number: i64| NewAudit { chain: Chain::Tenant(owner(2).tenant), ..of(2, number) };
    // The tenant that comes later in the alphabet began first.
    store.append_audit((1..=5).map(other).collect()).await.unwrap();
    store.append_audit((1..=9).map(record).collect()).await.unwrap();
    let keep = Retention { audit_before: at(4), ..keep_all() };
    assert_eq!(store.retain(keep).await.unwrap().audit, 6);
    let chains = store.audit_chains().await.unwrap();
    let mine = store.list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap();
    store.close().await;
    named(&now, &then).await;
    let store = then.open().await;
    assert_eq!(store.audit_chains().await.unwrap(), chains);
    assert_eq!(store.list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap(), mine);
    assert_eq!(broken(&store).await, None);
    store.append_audit(vec![record(10), other(6)]).await.unwrap();
    assert_eq!(store.retain(keep).await.unwrap().audit, 0);
    assert_eq!(broken(&store).await, None);
    let heads: Vec<_> = store.audit_chains().await.unwrap().iter().map(|state| state.head.number).collect();
    assert_eq!(heads, [10, 6]);
}

#[tokio::test]
async fn only_the_beginning_of_a_chain_may_go() {
    let home = Home::new();
    let store = home.open().await;
    store.append_audit((1..=3).map(record).collect()).await.unwrap();
    for text in ["DELETE FROM audit WHERE place & 7 = 2", "DELETE FROM audit", "UPDATE audit SET kind = 'x'"] {
        assert!(sql(&store, text.into()).await.is_err(), "{text}");
    }
    assert_eq!(store.chained_audit(&owner(1).tenant.to_string(), 0, 9).await.unwrap().len(), 3);
}

/// With the triggers gone, which the file's owner may do.
#[tokio::test]
async fn a_changed_byte_of_any_column_is_found() {
    let changes = [
        "UPDATE audit SET at = at + 1 WHERE place & 7 = 2",
        "UPDATE audit SET user_id = replace(user_id, '1', '2') WHERE place & 7 = 2",
        "UPDATE audit SET task_id = NULL WHERE place & 7 = 2",
        "UPDATE audit SET call_id = '' WHERE place & 7 = 2",
        "UPDATE audit SET kind = 'call.revokee' WHERE place & 7 = 2",
        "UPDATE audit SET data = replace(data, 'reason 2', 'reason 3') WHERE place & 7 = 2",
        "UPDATE audit SET hash = zeroblob(32) WHERE place & 7 = 2",
        "UPDATE audit SET place = place + 7 WHERE place & 7 = 2",
        "UPDATE audit SET place = place + (1 << 40) WHERE place & 7 = 2",
        "DELETE FROM audit WHERE place & 7 = 2",
        "DELETE FROM audit WHERE place & 7 = 4",
        "UPDATE audit_heads SET chain = chain + 9 WHERE tenant_id <> 'operator'",
        "UPDATE audit_heads SET number = 3 WHERE tenant_id <> 'operator'",
        "UPDATE audit_heads SET hash = zeroblob(32) WHERE tenant_id <> 'operator'",
        "UPDATE audit_heads SET kept_hash = randomblob(32) WHERE tenant_id <> 'operator'",
        "UPDATE audit_heads SET kept_after = 1 WHERE tenant_id <> 'operator'",
    ];
    for change in changes {
        let home = Home::new();
        let store = home.open().await;
        store.append_audit((1..=4).map(record).collect()).await.unwrap();
        assert_eq!(broken(&store).await, None);
        let meddle = format!("DROP TRIGGER audit_is_append_only; DROP TRIGGER audit_goes_from_its_beginning; {change}");
        sql(&store, meddle).await.unwrap();
        assert!(broken(&store).await.is_some(), "{change}");
    }
}

/// A key that could be stored, if only its record could.
fn key() -> KeyRecord {
    struct Fixed;
    impl bulkhead_core::clock::Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }
    let key = ApiKey::generate(&Fixed);
    KeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        owner: owner(1),
        scopes: Scopes::all(),
        label: String::new(),
        created_at: at(1),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

#[tokio::test]
async fn what_can_not_be_recorded_is_not_done() {
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    let fails = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END";
    sql(&store, fails.into()).await.unwrap();
    let key = key();
    assert!(store.create_key(&key, record(1)).await.is_err());
    assert_eq!(store.key(&key.id).await.unwrap(), None);
    assert!(store.end_call(end(&call, "x")).await.is_err());
    assert_eq!(store.open_calls().await.unwrap().len(), 1, "it has not ended");
    let moved = store.move_task(task.id, TaskState::Archived, None, at(1), vec![], Some(record(1))).await;
    assert!(moved.is_err());
    assert_eq!(store.task(owner(1), task.id).await.unwrap().unwrap().state, TaskState::Ready);
    let other = world.task(owner(1), TaskState::Ready);
    assert!(store.create_task(&other, &ToolSet::new([]), vec![], record(1)).await.is_err());
    assert_eq!(store.task(owner(1), other.id).await.unwrap(), None);
    assert!(store.keep_policy("a", "one", at(1), record(1)).await.is_err());
    assert_eq!(store.policy("a").await.unwrap(), None);
    assert!(store.append_audit(vec![record(1)]).await.is_err());
    // Once there is room again, all goes on, and the chain has no gap.
    sql(&store, "DROP TRIGGER full".into()).await.unwrap();
    store.create_key(&key, record(1)).await.unwrap();
    assert!(store.end_call(end(&call, "x")).await.unwrap().is_some());
    assert_eq!(broken(&store).await, None);
}

/// One that fails is undone with its record, and those of its batch are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_leaves_no_gap_for_those_beside_it() {
    let home = Home::new();
    let config = SqliteConfig { queue: 256, ..home.config() };
    let store = std::sync::Arc::new(SqliteStore::open(config).await.unwrap());
    let key = key();
    let writes = (0..100_i64).map(|number| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            match number % 3 {
                0 => store.create_key(&key, record(number)).await.is_ok(),
                _ => store.append_audit(vec![record(number)]).await.is_ok(),
            }
        })
    });
    let done = futures::future::join_all(writes).await.into_iter().filter(|done| *done.as_ref().unwrap()).count();
    assert_eq!(done, 67, "one key of 34, and 66 records");
    assert_eq!(broken(&store).await, None);
    assert_eq!(store.audit_chains().await.unwrap()[0].head.number, 67);
}
