//! Tasks.

use std::sync::Arc;

use bulkhead_core::ports::store::{Appended, EndCall, HeldTask, Store, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::ToolSet;
use futures::future::join_all;

use super::world::{World, at, audit, end, event, log, owner, page};

pub(super) async fn belong_to_their_owner(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.task(owner(1), TaskState::Initializing);
    let appended = store.create_task(&task, &ToolSet::new([]), vec![event(1), event(2)], audit()).await.unwrap();
    assert_eq!(appended, Appended { first: 1, last: 2 });
    let stored = Task { last_seq: 2, ..task.clone() };
    assert_eq!(store.task(owner(1), task.id).await.unwrap(), Some(stored));
    assert_eq!(store.tool_set(task.tool_set).await.unwrap(), Some(ToolSet::new([])));

    let other_user = Owner { tenant: owner(1).tenant, user: owner(2).user };
    let other_tenant = Owner { tenant: owner(2).tenant, user: owner(1).user };
    for stranger in [owner(2), other_user, other_tenant] {
        assert_eq!(store.task(stranger, task.id).await.unwrap(), None);
        assert_eq!(store.list_tasks(stranger, None, false, page(None, 9)).await.unwrap(), []);
    }
}

pub(super) async fn are_paged_newest_first(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(world.ready_task(owner(1)).await.id);
        world.ready_task(owner(2)).await;
    }
    store.move_task(ids[3], TaskState::Deleted, None, at(1), vec![], None).await.unwrap().unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let tasks = store.list_tasks(owner(1), None, false, page(before, 2)).await.unwrap();
        let Some(last) = tasks.last() else { break };
        before = Some(last.id);
        assert!(tasks.len() <= 2);
        seen.extend(tasks.into_iter().map(|task| task.id));
    }
    ids.remove(3);
    ids.reverse();
    assert_eq!(seen, ids);
}

pub(super) async fn move_along_the_table_only(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    use TaskState::{Archived, Deleted, Failed, Initializing, Ready};
    for from in [Initializing, Ready, Archived, Deleted, Failed] {
        for to in [Initializing, Ready, Archived, Deleted, Failed] {
            let task = world.task(owner(1), from);
            store.create_task(&task, &ToolSet::new([]), vec![event(1)], audit()).await.unwrap();
            let moved = store.move_task(task.id, to, Some("why"), at(5), vec![event(2)], None).await.unwrap();
            let now = store.task(owner(1), task.id).await.unwrap().unwrap();
            if to.reached_from().contains(&from) {
                assert_eq!(moved, Some(Appended { first: 2, last: 2 }), "{from} to {to}");
                let failure = Some("why".to_owned());
                assert_eq!(now, Task { state: to, updated_at: at(5), failure, last_seq: 2, ..task });
            } else {
                assert_eq!(moved, None, "{from} to {to}");
                assert_eq!(now, Task { last_seq: 1, ..task });
            }
        }
    }
    let unknown = world.task(owner(1), Ready);
    assert_eq!(store.move_task(unknown.id, Deleted, None, at(5), vec![], None).await.unwrap(), None);
}

pub(super) async fn moves_race_and_one_wins(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let moves = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(
            async move { store.move_task(task.id, TaskState::Archived, None, at(1), vec![event(1)], None).await },
        )
    });
    let won = join_all(moves).await.into_iter().filter(|moved| matches!(moved, Ok(Ok(Some(_))))).count();
    assert_eq!(won, 1);
    assert_eq!(log(&*store, task.id).await.len(), 1);
}

pub(super) async fn are_found_by_state_for_recovery(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let task = world.task(owner(number), TaskState::Initializing);
        store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
        waiting.push(task);
        world.ready_task(owner(number)).await;
    }
    assert_eq!(store.tasks_in_state(TaskState::Initializing, 9).await.unwrap(), waiting);
    assert_eq!(store.tasks_in_state(TaskState::Initializing, 2).await.unwrap(), waiting[..2]);
    assert_eq!(store.tasks_in_state(TaskState::Archived, 9).await.unwrap(), []);
}

pub(super) async fn of_one_id_are_stored_once(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let again = Task { owner: owner(2), ..task.clone() };
    let error = store.create_task(&again, &ToolSet::new([]), vec![event(1)], audit()).await;
    assert!(matches!(error, Err(StoreError::Exists("task"))), "{error:?}");
    assert_eq!(store.task(owner(1), task.id).await.unwrap(), Some(task));
}

pub(super) async fn know_what_their_workspaces_take(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (one, two) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    world.ready_task(owner(2)).await;
    let extent = |bytes| Extent { bytes, entries: 2 };
    store.note_extent(one.id, extent(7)).await.unwrap();
    let call = world.running_call(&two);
    world.accept(&call).await;
    let ended = EndCall { extent: Some(extent(9)), ..end(&call, "x") };
    store.end_call(ended.clone()).await.unwrap().unwrap();
    // Who comes too late changes nothing.
    assert_eq!(store.end_call(EndCall { extent: Some(extent(1)), ..ended }).await.unwrap(), None);
    let held = |task: &Task, bytes| HeldTask { task: task.id, extent: extent(bytes), kept: false };
    let mut extents = store.task_extents(owner(1)).await.unwrap();
    extents.sort_by_key(|held| held.extent.bytes);
    assert_eq!(extents, [held(&one, 7), held(&two, 9)]);
    store.move_task(one.id, TaskState::Deleted, None, at(2), vec![], None).await.unwrap().unwrap();
    assert_eq!(store.task_extents(owner(1)).await.unwrap(), [held(&two, 9)]);
}
