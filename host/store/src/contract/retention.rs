//! Retention.

use std::sync::Arc;

use bulkhead_core::call::Call;
use bulkhead_core::event::NewEvent;
use bulkhead_core::ports::store::{AcceptCall, Accepted, Appended, IDEMPOTENCY_TTL_MS, Retained, Retention, Store};
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::ToolSet;

use super::world::{World, accept, at, audit, end, event, idempotency, log, owner, page, pinned};

/// Keeps everything there is in a test.
fn keep_all() -> Retention {
    Retention {
        events_before: at(-1_000_000),
        events_bytes_per_task: u64::MAX,
        deleted_before: at(-1_000_000),
        audit_before: at(-1_000_000),
        now: at(0),
    }
}

/// Runs retention until it finds nothing more.
async fn retain(store: &dyn Store, retention: Retention) -> Retained {
    let mut sum = Retained::default();
    loop {
        let part = store.retain(retention).await.unwrap();
        if part == Retained::default() {
            return sum;
        }
        sum.events += part.events;
        sum.idempotency_keys += part.idempotency_keys;
        sum.tasks += part.tasks;
    }
}

fn events(times: impl Iterator<Item = i64>) -> Vec<NewEvent> {
    times.map(|millis| NewEvent { at: at(millis), ..event(1) }).collect()
}

pub(super) async fn old_events_go_and_numbers_stay(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let young = world.ready_task(owner(1)).await;
    let all = events(0..1_700);
    store.append_events(task.id, all.clone()).await.unwrap();
    store.append_events(young.id, events(5_000..5_001)).await.unwrap();
    assert_eq!(retain(&*store, keep_all()).await, Retained::default());

    let retention = Retention { events_before: at(1_200), ..keep_all() };
    assert_eq!(retain(&*store, retention).await, Retained { events: 1_200, ..Retained::default() });
    let page = store.events_after(task.id, 0, 2, u64::MAX).await.unwrap().unwrap();
    assert_eq!((page.first_seq, page.last_seq, page.events[0].seq), (1_201, 1_700, 1_201));
    assert_eq!(log(&*store, task.id).await, all[1_200..]);
    assert_eq!(log(&*store, young.id).await.len(), 1);

    // All of them: the log is empty, and its numbers go on.
    retain(&*store, Retention { events_before: at(4_000), ..keep_all() }).await;
    let stored = store.task(owner(1), task.id).await.unwrap().unwrap();
    assert_eq!((stored.first_seq, stored.last_seq), (1_701, 1_700));
    assert_eq!(log(&*store, task.id).await, []);
    let appended = store.append_events(task.id, vec![event(1)]).await.unwrap();
    assert_eq!(appended, Some(Appended { first: 1_701, last: 1_701 }));
    assert_eq!(log(&*store, task.id).await, [event(1)]);
}

pub(super) async fn long_logs_keep_the_newest(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let all = events(0..1_000);
    let size = all[0].size();
    for part in all.chunks(300) {
        store.append_events(task.id, part.to_vec()).await.unwrap();
    }
    let retention = Retention { events_bytes_per_task: size * 250 + 1, ..keep_all() };
    assert_eq!(retain(&*store, retention).await, Retained { events: 750, ..Retained::default() });
    assert_eq!(log(&*store, task.id).await, all[750..]);
    store.append_events(task.id, events(0..10)).await.unwrap();
    assert_eq!(retain(&*store, retention).await, Retained { events: 10, ..Retained::default() });
}

pub(super) async fn idempotency_keys_expire(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    for number in 0..700 {
        let call = Call { created_at: at(number), ..world.running_call(&task) };
        let idempotency = Some(idempotency(&format!("key {number}"), "body"));
        let accepted = store.accept_call(AcceptCall { idempotency, ..accept(&call) }).await.unwrap();
        assert!(matches!(accepted, Accepted::New(_)));
    }
    let retention = Retention { now: at(649 + IDEMPOTENCY_TTL_MS), ..keep_all() };
    assert_eq!(retain(&*store, retention).await, Retained { idempotency_keys: 650, ..Retained::default() });
    for (key, known) in [("key 649", false), ("key 650", true)] {
        let call = Call { created_at: at(700), ..world.running_call(&task) };
        let idempotency = Some(idempotency(key, "body"));
        let accepted = store.accept_call(AcceptCall { idempotency, ..accept(&call) }).await.unwrap();
        assert_eq!(matches!(accepted, Accepted::Replayed(_)), known, "{key}");
    }
}

pub(super) async fn deleted_tasks_go_with_all_they_had(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let tool = world.ready_tool(bulkhead_core::tool::ToolOwner::Operator, "a", "a").await;
    let (shared, alone) = (ToolSet::new([]), ToolSet::new([pinned(&tool)]));
    let mut tasks = Vec::new();
    for set in [&shared, &alone, &shared] {
        let task = bulkhead_core::task::Task { tool_set: set.digest, ..world.task(owner(1), TaskState::Ready) };
        store.create_task(&task, set, events(0..600), audit()).await.unwrap();
        let arguments = format!("{{\"text\":\"{}\"}}", "x".repeat(5_000)).into();
        let call = Call { arguments, ..world.running_call(&task) };
        world.accept(&call).await;
        store.end_call(end(&call, &"y".repeat(5_000))).await.unwrap().unwrap();
        tasks.push((task, call));
    }
    for ((task, _), millis) in tasks.iter().zip([10, 20, 30]) {
        store.move_task(task.id, TaskState::Deleted, None, at(millis), vec![], None).await.unwrap().unwrap();
    }
    let retention = Retention { deleted_before: at(30), ..keep_all() };
    assert_eq!(retain(&*store, retention).await, Retained { tasks: 2, events: 1_204, ..Retained::default() });
    for (task, call) in &tasks[..2] {
        assert_eq!(store.task(owner(1), task.id).await.unwrap(), None);
        assert_eq!(store.events_after(task.id, 0, 9, 999).await.unwrap(), None);
        assert_eq!(store.call(owner(1), call.id).await.unwrap(), None);
        assert_eq!(store.list_calls(task.id, page(None, 9)).await.unwrap(), []);
    }
    let (task, call) = &tasks[2];
    assert_eq!(log(&*store, task.id).await.len(), 602);
    assert!(store.call(owner(1), call.id).await.unwrap().is_some());
    assert_eq!(store.tool_set(shared.digest).await.unwrap(), Some(shared));
    assert_eq!(store.tool_set(alone.digest).await.unwrap(), None);
}
