//! The audit log: a chain for each tenant, in the transaction of what it records.

use std::sync::Arc;

use bulkhead_core::audit::chain::{Chain, Place};
use bulkhead_core::audit::verify::verify;
use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::call::Call;
use bulkhead_core::ports::store::{EndCall, Retention, Store};
use bulkhead_core::task::Task;
use futures::future::join_all;

use super::world::{World, at, audit, end, of_task, owner};

fn record(task: &Task, number: i64) -> NewAudit {
    let body = AuditBody::CallRevoked { reason: format!("{number} § \"quoted\"\n") };
    NewAudit::new(at(number), task.owner, task.id, None, &body)
}

/// Every chain, checked against core's own hashing of what is stored. How many records.
async fn whole(store: &dyn Store) -> u64 {
    let mut records = 0;
    for state in store.audit_chains().await.unwrap() {
        let stored = store.chained_audit(&state.chain, 0, 100_000).await.unwrap();
        records += verify(&state, &stored, vec![]).unwrap().records;
    }
    records
}

pub(crate) fn keep_all() -> Retention {
    Retention {
        events_before: at(-9),
        events_bytes_per_task: u64::MAX,
        deleted_before: at(-9),
        audit_before: at(-9),
        now: at(0),
    }
}

pub(super) async fn records_are_kept_in_order_by_owner(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (one, two) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let other = world.ready_task(owner(2)).await;
    store.append_audit(vec![record(&one, 1), record(&two, 2), record(&other, 3)]).await.unwrap();
    store.append_audit(vec![record(&one, 4)]).await.unwrap();
    let all = store.list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap();
    let records: Vec<_> = all.iter().map(|audit| audit.record.clone()).collect();
    assert_eq!(records, [record(&one, 1), record(&two, 2), record(&one, 4)]);
    assert_eq!(all.iter().map(|audit| audit.number).collect::<Vec<_>>(), [1, 2, 3]);
    let rest = store.list_audit(owner(1), &of_task(one.id), 1, 99).await.unwrap();
    assert_eq!(rest, all[2..]);
    assert_eq!(store.list_audit(owner(1), &AuditFilter::default(), 0, 1).await.unwrap(), all[..1]);
    assert_eq!(store.list_audit(owner(2), &of_task(one.id), 0, 99).await.unwrap(), []);
    let filtered = async |filter| store.list_audit(owner(1), &filter, 0, 99).await.unwrap();
    let between = AuditFilter { since: Some(at(2)), until: Some(at(4)), ..AuditFilter::default() };
    assert_eq!(filtered(between).await, all[1..2]);
    let kind = |kind: &str| AuditFilter { kind: Some(kind.into()), ..AuditFilter::default() };
    assert_eq!(filtered(kind("call.revoked")).await, all);
    assert_eq!(filtered(kind("call.ended")).await, []);
    for task in [None, Some(one.id)] {
        let up_to = AuditFilter { task, up_to: Some(2), ..kind("call.revoked") };
        assert_eq!(filtered(up_to).await, all[..2 - usize::from(task.is_some())]);
    }
    let ahead = async |after, records| store.audit_ahead(owner(1), after, records).await.unwrap();
    assert_eq!([ahead(0, 1).await, ahead(0, 3).await, ahead(1, 2).await], [Some(1), Some(3), Some(3)]);
    assert_eq!([ahead(0, 4).await, ahead(3, 1).await], [None, None]);
    let call = world.running_call(&one);
    world.accept(&call).await;
    store.end_call(end(&call, "x")).await.unwrap().unwrap();
    let but_ends = |task| AuditFilter { task, but_ends: true, ..AuditFilter::default() };
    assert_eq!(filtered(kind("call.ended")).await.len(), 1);
    assert_eq!(filtered(of_task(one.id)).await.len(), 3);
    assert_eq!(filtered(but_ends(Some(one.id))).await.len(), 2);
    assert_eq!(filtered(but_ends(None)).await, all);
}

pub(super) async fn each_tenant_has_a_chain_without_gaps(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let tasks = [world.ready_task(owner(1)).await, world.ready_task(owner(2)).await];
    let appends = (0..60_i64).map(|number| {
        let (store, task) = (store.clone(), tasks[number as usize % 2].clone());
        tokio::spawn(async move { store.append_audit(vec![record(&task, number), record(&task, number)]).await })
    });
    assert!(join_all(appends).await.into_iter().all(|done| matches!(done, Ok(Ok(())))));
    let chains = store.audit_chains().await.unwrap();
    let names = [Chain::Operator, Chain::Tenant(owner(1).tenant), Chain::Tenant(owner(2).tenant)];
    assert_eq!(chains.iter().map(|state| state.chain.clone()).collect::<Vec<_>>(), names.map(|name| name.to_string()));
    assert_eq!(chains.iter().map(|state| state.head.number).collect::<Vec<_>>(), [2, 60, 60]);
    assert_eq!(whole(&*store).await, 122);
    // In pages, as who checks it reads it.
    let stored = store.chained_audit(&chains[1].chain, 0, 100).await.unwrap();
    let mut paged = store.chained_audit(&chains[1].chain, 0, 7).await.unwrap();
    paged.extend(store.chained_audit(&chains[1].chain, 7, 100).await.unwrap());
    assert_eq!(paged, stored);
}

/// The same records give the same links in every store: those that core makes.
pub(super) async fn links_are_those_of_core(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    let records = vec![
        record(&task, 1),
        NewAudit { task: None, user: None, ..record(&task, -5) },
        NewAudit { call: Some(call.id), data: "{\"text\":\"\u{1f980} ä\"}".into(), ..record(&task, 3) },
        NewAudit { kind: "long".into(), data: format!("\"{}\"", "x".repeat(100_000)).into(), ..record(&task, 4) },
    ];
    store.append_audit(records.clone()).await.unwrap();
    let mut place = Place::START;
    let expected: Vec<_> = records
        .iter()
        .map(|record| {
            place = place.next(&bulkhead_core::audit::chain::Columns::from(record).leaf());
            place.hash.as_bytes().to_vec()
        })
        .collect();
    let chain = owner(1).tenant.to_string();
    let stored = store.chained_audit(&chain, 0, 9).await.unwrap();
    assert_eq!(stored.iter().map(|record| record.hash.clone()).collect::<Vec<_>>(), expected);
    let chains = store.audit_chains().await.unwrap();
    assert_eq!(chains.iter().find(|state| state.chain == chain).unwrap().head, place);
}

/// Who comes second does nothing and records nothing.
pub(super) async fn what_is_not_done_is_not_recorded(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call: Call = world.running_call(&task);
    world.accept(&call).await;
    let ends = (0..9).map(|number| {
        let (store, call) = (store.clone(), call.clone());
        let end = EndCall { audit: record(&task, number), ..end(&call, "x") };
        tokio::spawn(async move { store.end_call(end).await.unwrap() })
    });
    let won = join_all(ends).await.into_iter().filter(|ended| matches!(ended, Ok(Some(_)))).count();
    assert_eq!(won, 1);
    let list = async || store.list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap().len();
    assert_eq!(list().await, 1);
    use bulkhead_core::task::TaskState::{Archived, Initializing};
    let archived = store.move_task(task.id, Archived, None, at(1), vec![], Some(record(&task, 1))).await.unwrap();
    assert!(archived.is_some());
    let refused = store.move_task(task.id, Initializing, None, at(1), vec![], Some(record(&task, 2))).await.unwrap();
    assert!(refused.is_none());
    assert_eq!(list().await, 2);
    let again = store.create_task(&task, &bulkhead_core::tool::ToolSet::new([]), vec![], record(&task, 3)).await;
    assert!(again.is_err());
    assert_eq!(list().await, 2);
    whole(&*store).await;
}

pub(super) async fn retention_takes_the_beginning_and_leaves_its_link(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    // The third is as old as the first, but what comes before it must stay: so does it.
    let times = [1, 5, 1, 9];
    store.append_audit(times.map(|time| record(&task, time)).to_vec()).await.unwrap();
    let retention = Retention { audit_before: at(3), ..keep_all() };
    assert_eq!(store.retain(retention).await.unwrap().audit, 2, "one of it, and one of the operator's");
    let chain = owner(1).tenant.to_string();
    let state = async || store.audit_chains().await.unwrap().into_iter().find(|state| state.chain == chain).unwrap();
    let kept = store.list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap();
    assert_eq!(kept.iter().map(|audit| audit.number).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(state().await.kept_after.number, 1);
    assert_eq!(whole(&*store).await, 3);
    assert_eq!(store.retain(retention).await.unwrap().audit, 0);
    // All of it may go, and the chain goes on where it was.
    let all = Retention { audit_before: at(99), ..keep_all() };
    assert_eq!(store.retain(all).await.unwrap().audit, 3);
    assert_eq!(whole(&*store).await, 0);
    store.append_audit(vec![record(&task, 100), audit()]).await.unwrap();
    assert_eq!((state().await.kept_after.number, state().await.head.number), (4, 5));
    assert_eq!(whole(&*store).await, 2);
}

/// More than one transaction removes.
pub(super) async fn retention_of_a_long_chain_goes_on(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    store.append_audit((0..1_203).map(|number| record(&task, number)).collect()).await.unwrap();
    let retention = Retention { audit_before: at(1_200), ..keep_all() };
    assert_eq!(store.retain(retention).await.unwrap().audit, 1_201);
    assert_eq!(whole(&*store).await, 3);
}
