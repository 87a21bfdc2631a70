//! The audit log's chains from several hosts, through a network that fails, and what was
//! recorded before there were any.

use std::sync::Arc;

use bulkhead_core::audit::verify::verify;
use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::ports::store::{EndCall, Store, StoreError};
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::ToolSet;
use futures::future::join_all;
use sqlx::Connection as _;

use super::server::postgres;
use super::{config, database, open};
use crate::contract::world::{World, at, end, of_task, owner};
use crate::postgres::open::migrator;
use crate::postgres::pool;

fn record(number: i64) -> NewAudit {
    NewAudit::new(at(number), owner(1), None, None, &AuditBody::CallRevoked { reason: number.to_string() })
}

/// Every chain is whole. How many records.
async fn whole(store: &dyn Store) -> u64 {
    let mut records = 0;
    for state in store.audit_chains().await.unwrap() {
        let stored = store.chained_audit(&state.chain, 0, 100_000).await.unwrap();
        records += verify(&state, &stored, vec![]).unwrap().records;
    }
    records
}

/// Ends of calls of many tasks, grants, moves and plain records of one tenant, from two
/// hosts at once: rows are locked in one order, so nothing waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_record_at_once_make_one_chain() {
    let url = postgres().socket_url(&database());
    let stores = [open(&url).await, open(&url).await];
    let world = World::new(stores[0].clone());
    let mut work = Vec::new();
    for number in 0..40_usize {
        let task = world.ready_task(owner(1)).await;
        let call = world.running_call(&task);
        world.accept(&call).await;
        let store = stores[number % 2].clone();
        work.push(tokio::spawn(async move {
            let archive = TaskState::Archived;
            let audit = NewAudit { task: Some(task.id), ..record(number as i64) };
            let (ended, moved, appended) = tokio::join!(
                store.end_call(end(&call, "x")),
                store.move_task(task.id, archive, None, at(1), vec![], Some(audit)),
                store.append_audit(vec![record(1), record(2)]),
            );
            assert!(ended.unwrap().is_some() && moved.unwrap().is_some());
            appended.unwrap();
        }));
    }
    join_all(work).await.into_iter().for_each(|done| done.unwrap());
    let chain = owner(1).tenant.to_string();
    let state = stores[1].audit_chains().await.unwrap().into_iter().find(|state| state.chain == chain).unwrap();
    assert_eq!(state.head.number, 160);
    assert_eq!(whole(&*stores[1]).await, 160 + 40, "and the operator's");
}

/// Two hosts end the same call: one record.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_two_hosts_end_has_one_record() {
    let url = postgres().socket_url(&database());
    let stores = [open(&url).await, open(&url).await];
    let world = World::new(stores[0].clone());
    let task = world.ready_task(owner(1)).await;
    for _ in 0..20 {
        let call = world.running_call(&task);
        world.accept(&call).await;
        let ends = (0..6_usize).map(|number| {
            let store: Arc<dyn Store> = stores[number % 2].clone();
            let end = EndCall { audit: NewAudit { call: Some(call.id), ..record(1) }, ..end(&call, "x") };
            tokio::spawn(async move { store.end_call(end).await.unwrap() })
        });
        let won = join_all(ends).await.into_iter().filter(|ended| matches!(ended, Ok(Some(_)))).count();
        assert_eq!(won, 1);
    }
    assert_eq!(stores[0].list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap().len(), 20);
    whole(&*stores[0]).await;
}

#[tokio::test]
async fn records_of_a_version_without_chains_become_links() {
    let name = postgres().database(None);
    let url = postgres().socket_url(&name);
    postgres().psql(&name, "CREATE SCHEMA bulkhead").unwrap();
    let mut connection = pool::connect(&config(&url).upgrade(), std::time::Duration::from_secs(30)).await.unwrap();
    let before = migrator().iter().map(|migration| migration.version).filter(|version| *version < 4).max();
    migrator().run_direct(before, &mut connection, false).await.unwrap();
    connection.close().await.unwrap();
    let (one, two) = (owner(1), owner(2));
    let insert = format!(
        "INSERT INTO bulkhead.audit (at, tenant_id, user_id, task_id, call_id, kind, data)
         SELECT n, CASE n % 2 WHEN 0 THEN '{}' ELSE '{}' END, CASE n % 2 WHEN 0 THEN '{}' ELSE '{}' END,
                'task_00000000010000000000000001', CASE n WHEN 4 THEN 'call_00000000010000000000000001' END,
                'call.revoked', '{{\"reason\":\"ä ' || n || '\"}}'
         FROM generate_series(0, 100) n",
        one.tenant, two.tenant, one.user, two.user
    );
    postgres().psql(&name, &insert).unwrap();
    let store = open(&url).await;
    assert_eq!(whole(&*store).await, 101);
    let task = "task_00000000010000000000000001".parse().unwrap();
    let of_one = store.list_audit(one, &of_task(task), 0, 999).await.unwrap();
    assert_eq!(
        of_one.iter().map(|audit| audit.record.at.as_millis()).collect::<Vec<_>>(),
        (0..=100).step_by(2).collect::<Vec<_>>()
    );
    store.append_audit(vec![record(1)]).await.unwrap();
    assert_eq!(whole(&*store).await, 102);
}

#[tokio::test]
async fn what_can_not_be_recorded_is_not_done() {
    let name = database();
    let store = open(&postgres().socket_url(&name)).await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    let fails = "CREATE FUNCTION bulkhead.no_room() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$;
                 CREATE TRIGGER no_room BEFORE INSERT ON bulkhead.audit EXECUTE FUNCTION bulkhead.no_room()";
    postgres().psql(&name, fails).unwrap();
    let full = |error: StoreError| assert!(matches!(error, StoreError::DiskFull), "{error:?}");
    full(store.end_call(end(&call, "x")).await.unwrap_err());
    assert_eq!(store.open_calls().await.unwrap().len(), 1, "it has not ended");
    let moved = store.move_task(task.id, TaskState::Archived, None, at(1), vec![], Some(record(1))).await;
    full(moved.unwrap_err());
    assert_eq!(store.task(owner(1), task.id).await.unwrap().unwrap().state, TaskState::Ready);
    let other = world.task(owner(1), TaskState::Ready);
    assert!(store.create_task(&other, &ToolSet::new([]), vec![], record(1)).await.is_err());
    assert_eq!(store.task(owner(1), other.id).await.unwrap(), None);
    assert!(store.keep_policy("a", "one", at(1), record(1)).await.is_err());
    assert_eq!(store.policy("a").await.unwrap(), None);
    assert!(store.append_audit(vec![record(1)]).await.is_err());
    // Once there is room again, all goes on, and no chain has a gap.
    postgres().psql(&name, "DROP TRIGGER no_room ON bulkhead.audit").unwrap();
    assert!(store.end_call(end(&call, "x")).await.unwrap().is_some());
    assert!(whole(&*store).await >= 2);
}

#[tokio::test]
async fn only_the_beginning_of_a_chain_may_go() {
    let name = database();
    let store = open(&postgres().socket_url(&name)).await;
    store.append_audit((1..=3).map(record).collect()).await.unwrap();
    for text in ["DELETE FROM bulkhead.audit WHERE number = 2", "UPDATE bulkhead.audit SET kind = 'x'"] {
        assert!(postgres().psql(&name, text).is_err(), "{text}");
    }
    assert_eq!(whole(&*store).await, 3);
}
