//! Several hosts on one database: each a store of its own.

use std::sync::Arc;

use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::call::CallState;
use bulkhead_core::event::NewEvent;
use bulkhead_core::grants::{Capability, Grant};
use bulkhead_core::id::GrantId;
use bulkhead_core::ports::store::{AcceptCall, Accepted, Retention, Store as _};
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::{ToolOwner, ToolSet, ToolState};
use futures::future::join_all;

use super::server::postgres;
use super::{PostgresStore, database, open};
use crate::contract::world::{
    NOW, World, accept, at, audit, end, ended, event, grants, idempotency, log, owner, pinned,
};

/// Two stores on a new database.
async fn two() -> [Arc<PostgresStore>; 2] {
    let url = postgres().socket_url(&database());
    [open(&url).await, open(&url).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn number_the_events_of_one_task_without_gaps() {
    let stores = two().await;
    let task = World::new(stores[0].clone()).ready_task(owner(1)).await;
    let appends = (0..300_u64).map(|number| {
        let store = stores[number as usize % 2].clone();
        let events: Vec<NewEvent> = (0..number % 3 + 1).map(|_| event(number)).collect();
        tokio::spawn(async move { (events.len() as u64, store.append_events(task.id, events).await.unwrap().unwrap()) })
    });
    let mut ranges: Vec<_> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
    ranges.sort_by_key(|(_, appended)| appended.first);
    let mut next = 1;
    for (count, appended) in ranges {
        assert_eq!((appended.first, appended.last), (next, next + count - 1));
        next += count;
    }
    for store in stores {
        assert_eq!(log(&*store, task.id).await.len() as u64, next - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_calls_of_one_task_side_by_side() {
    let stores = two().await;
    let world = World::new(stores[0].clone());
    let task = world.ready_task(owner(1)).await;
    let clients = (0..8_usize).map(|client| {
        let (store, world, task) = (stores[client % 2].clone(), world.clone(), task.clone());
        tokio::spawn(async move {
            for number in 0..15 {
                let call = world.call(&task);
                let key = (number % 2 == 0).then(|| idempotency(&format!("{client}/{number}"), "body"));
                let accepted = store.accept_call(AcceptCall { idempotency: key, ..accept(&call) }).await.unwrap();
                assert!(matches!(accepted, Accepted::New(_)), "{accepted:?}");
                let started = store.start_call(task.id, call.id, at(1), &grants(), vec![event(2)]).await.unwrap();
                assert!(started.is_some());
                assert!(store.end_call(end(&call, "done")).await.unwrap().is_some());
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let log = log(&*stores[1], task.id).await;
    assert_eq!(log.len(), 8 * 15 * 3);
    let stored = stores[1].task(owner(1), task.id).await.unwrap().unwrap();
    assert_eq!(stored.last_seq, 8 * 15 * 3);
    assert_eq!(stores[1].open_calls().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn end_a_call_once() {
    let stores = two().await;
    let world = World::new(stores[0].clone());
    let task = world.ready_task(owner(1)).await;
    for _ in 0..20 {
        let call = world.running_call(&task);
        world.accept(&call).await;
        let ends = stores.iter().enumerate().map(|(number, store)| {
            let (store, end) = (store.clone(), end(&call, &format!("outcome {number}")));
            tokio::spawn(async move { (end.outcome.clone(), store.end_call(end).await.unwrap()) })
        });
        let ends: Vec<_> = join_all(ends).await.into_iter().map(Result::unwrap).collect();
        let winners: Vec<_> = ends.iter().filter(|(_, appended)| appended.is_some()).collect();
        assert_eq!(winners.len(), 1);
        let stored = stores[1].call(owner(1), call.id).await.unwrap().unwrap();
        let CallState::Ended { outcome, .. } = stored.state else { panic!("it has not ended") };
        assert_eq!(outcome, winners[0].0);
        assert_eq!(log(&*stores[1], task.id).await.last(), Some(&ended(call.id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_one_call_for_an_idempotency_key() {
    let stores = two().await;
    let world = World::new(stores[0].clone());
    // The key is the owner's: in one task as in several.
    let tasks = [world.ready_task(owner(1)).await, world.ready_task(owner(1)).await];
    for round in 0..20 {
        let calls: Vec<_> = (0..8).map(|number| world.running_call(&tasks[number % 2])).collect();
        let accepts = calls.iter().enumerate().map(|(number, call)| {
            let store = stores[number / 2 % 2].clone();
            let key = Some(idempotency(&format!("key {round}"), "body"));
            let accept = AcceptCall { idempotency: key, ..accept(call) };
            tokio::spawn(async move { store.accept_call(accept).await.unwrap() })
        });
        let answers: Vec<_> = join_all(accepts).await.into_iter().map(Result::unwrap).collect();
        let is_new = |answer: &Accepted| matches!(answer, Accepted::New(_));
        let new: Vec<_> = answers.iter().zip(&calls).filter(|(answer, _)| is_new(answer)).collect();
        assert_eq!(new.len(), 1, "{answers:?}");
        let replayed = Accepted::Replayed(new[0].1.id);
        assert_eq!(answers.iter().filter(|answer| **answer == replayed).count(), 7, "{answers:?}");
    }
    let stored = log(&*stores[0], tasks[0].id).await.len() + log(&*stores[0], tasks[1].id).await.len();
    assert_eq!(stored, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn give_no_more_grants_than_allowed() {
    let stores = two().await;
    let task = World::new(stores[0].clone()).ready_task(owner(1)).await;
    let gives = (0..20_u64).map(|number| {
        let (store, task) = (stores[number as usize % 2].clone(), task.clone());
        tokio::spawn(async move {
            let grant = grant(&task, number);
            store.create_grant(&grant, 3, record(&task, number)).await.unwrap()
        })
    });
    let given = join_all(gives).await.into_iter().filter(|given| matches!(given, Ok(true))).count();
    assert_eq!(given, 3);
    assert_eq!(stores[1].list_grants(task.id, 99).await.unwrap().len(), 3);
    // A record for each that was given, and none for the others.
    assert_eq!(stores[1].list_audit(owner(1), &AuditFilter::default(), 0, 99).await.unwrap().len(), 3);
}

fn grant(task: &Task, number: u64) -> Grant {
    Grant {
        id: GrantId::from_parts(NOW as u64 + number, 0),
        task: task.id,
        owner: task.owner,
        capability: Capability::Http("GET https://a/x".into()),
        expires_at: None,
        uses_left: None,
        created_at: at(0),
        revoked_at: None,
    }
}

fn record(task: &Task, number: u64) -> NewAudit {
    NewAudit::new(at(0), task.owner, task.id, None, &AuditBody::CallRevoked { reason: number.to_string() })
}

#[tokio::test(flavor = "multi_thread")]
async fn hide_no_audit_record_from_a_reader() {
    let name = database();
    let store = open(&postgres().socket_url(&name)).await;
    let task = World::new(store.clone()).ready_task(owner(1)).await;
    let record = record(&task, 1);
    // Another host, whose transaction has its number and is slow to commit.
    let (tenant, user) = (task.owner.tenant, task.owner.user);
    let slow = format!(
        "SET search_path = bulkhead; BEGIN;
         SELECT audit_append(1, ARRAY['{tenant}', '{user}', '{}', NULL, '{}', '{}'], sha256('x'));
         SELECT pg_sleep(1); COMMIT",
        task.id, record.kind, record.data
    );
    let other = name.clone();
    let committing = std::thread::spawn(move || postgres().psql(&other, &slow).unwrap());
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while postgres().psql(&name, sleeps).unwrap() != "1" {}
    store.append_audit(vec![record.clone(), record]).await.unwrap();
    // Who reads now and then asks for what is after the last has missed nothing.
    let page = store.list_audit(owner(1), &AuditFilter::default(), 0, 9).await.unwrap();
    assert_eq!(page.iter().map(|record| record.number).collect::<Vec<_>>(), [1, 2, 3]);
    committing.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_old_events_at_once() {
    let stores = two().await;
    let task = World::new(stores[0].clone()).ready_task(owner(1)).await;
    let events = |times: std::ops::Range<i64>| times.map(|millis| NewEvent { at: at(millis), ..event(1) }).collect();
    stores[0].append_events(task.id, events(0..3_000)).await.unwrap();
    let retention = Retention {
        events_before: at(2_500),
        events_bytes_per_task: u64::MAX,
        deleted_before: at(-1),
        audit_before: at(-1),
        now: at(0),
    };
    let runs = stores.iter().cycle().take(4).map(|store| {
        let store = store.clone();
        tokio::spawn(async move { store.retain(retention).await.unwrap().events })
    });
    let appending = stores[1].append_events(task.id, events(3_000..3_010));
    let (runs, appended) = tokio::join!(join_all(runs), appending);
    assert_eq!(appended.unwrap().unwrap().last, 3_010);
    assert_eq!(runs.into_iter().map(Result::unwrap).sum::<u64>(), 2_500, "each event is removed by one of them");
    let left = log(&*stores[0], task.id).await;
    assert_eq!(left.len(), 510);
    let expected: u64 = left.iter().map(NewEvent::size).sum();
    let bytes = stores[0].read(crate::postgres::Statement::new("SELECT log_bytes FROM tasks")).await.unwrap();
    assert_eq!(bytes.get::<i64>("log_bytes").unwrap(), Some(expected as i64));
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_a_tool_set_that_a_new_task_pins() {
    let stores = two().await;
    let world = World::new(stores[0].clone());
    let tool = world.ready_tool(ToolOwner::Operator, "a", "a").await;
    let set = ToolSet::new([pinned(&tool)]);
    let retention = Retention {
        events_before: at(-1),
        events_bytes_per_task: u64::MAX,
        deleted_before: at(1_000),
        audit_before: at(-1),
        now: at(0),
    };
    for _ in 0..30 {
        let make = |state| Task { tool_set: set.digest, ..world.task(owner(1), state) };
        let (old, new) = (make(TaskState::Ready), make(TaskState::Ready));
        stores[0].create_task(&old, &set, vec![event(1)], audit()).await.unwrap();
        stores[0].move_task(old.id, TaskState::Deleted, None, at(1), vec![], None).await.unwrap().unwrap();
        let (removed, made) =
            tokio::join!(stores[0].retain(retention), stores[1].create_task(&new, &set, vec![event(2)], audit()));
        removed.unwrap();
        made.unwrap();
        assert_eq!(stores[0].tool_set(set.digest).await.unwrap().as_ref(), Some(&set));
        assert!(!stores[0].delete_tool(ToolOwner::Operator, tool.id, audit()).await.unwrap(), "a task pins it");
        stores[0].move_task(new.id, TaskState::Deleted, None, at(1), vec![], None).await.unwrap().unwrap();
        stores[0].retain(retention).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_the_same_component_once() {
    let stores = two().await;
    let world = World::new(stores[0].clone());
    for round in 0..20 {
        let content = format!("component {round}");
        let tools: Vec<_> = (0..4).map(|_| world.tool(ToolOwner::Operator, &content, ToolState::Compiling)).collect();
        let creates = tools.iter().enumerate().map(|(number, tool)| {
            let (store, tool) = (stores[number % 2].clone(), tool.clone());
            tokio::spawn(async move { store.create_tool(&tool, audit()).await.unwrap() })
        });
        let answers: Vec<_> = join_all(creates).await.into_iter().map(Result::unwrap).collect();
        let stored: Vec<_> = tools.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).collect();
        assert_eq!(stored.len(), 1);
        assert!(answers.iter().flatten().all(|same| same == stored[0].0));
    }
}
