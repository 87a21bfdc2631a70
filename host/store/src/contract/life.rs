//! The life of tasks.

use std::sync::Arc;

use bulkhead_core::id::TenantId;
use bulkhead_core::ports::store::{Appended, HeldTask, Retention, Store, Times};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{KeptStep, Lifetimes, Overdue, Task, TaskState};
use bulkhead_core::tool::ToolSet;

use super::world::{World, at, audit, event, log, owner, page};

const HOUR: i64 = 3_600_000;

pub(super) async fn are_counted_for_their_tenant_until_they_are_deleted(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let tenant = owner(1).tenant;
    assert_eq!(store.count_tasks(tenant, 9).await.unwrap(), 0);
    let same = Owner { tenant, ..owner(2) };
    for (owner, state) in [
        (owner(1), TaskState::Ready),
        (same, TaskState::Archived),
        (same, TaskState::Failed),
        (same, TaskState::Deleted),
        (Owner { tenant: TenantId::from_parts(99, 0), ..owner(1) }, TaskState::Ready),
    ] {
        let task = world.task(owner, state);
        store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
    }
    assert_eq!(store.count_tasks(tenant, 9).await.unwrap(), 3);
    assert_eq!(store.count_tasks(tenant, 2).await.unwrap(), 2, "no further than that");
}

pub(super) async fn deleted_ones_are_kept_brought_back_and_purged(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    use TaskState::{Archived, Deleted, Failed, Initializing, Ready};
    let step = async |task: &Task, step, millis| {
        store.step_kept(task.id, step, at(millis), vec![event(1)], Some(audit())).await.unwrap()
    };
    let now = async |task: &Task| store.task(owner(1), task.id).await.unwrap().unwrap();
    for from in [Ready, Archived] {
        let task = world.task(owner(1), from);
        store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
        for not_yet in [KeptStep::Bring, KeptStep::Purge] {
            assert_eq!(step(&task, not_yet, 1).await, None);
        }
        assert_eq!(step(&task, KeptStep::Keep(at(50)), 2).await, Some(Appended { first: 1, last: 1 }));
        let kept = Task { state: Deleted, kept_until: Some(at(50)), updated_at: at(2), last_seq: 1, ..task.clone() };
        assert_eq!(now(&task).await, kept);
        assert_eq!(step(&task, KeptStep::Keep(at(60)), 3).await, None, "once");
        assert_eq!(store.list_tasks(owner(1), None, false, page(None, 9)).await.unwrap(), []);
        assert_eq!(store.list_tasks(owner(1), None, true, page(None, 9)).await.unwrap(), [kept]);
        assert_eq!(store.list_tasks(owner(2), None, true, page(None, 9)).await.unwrap(), []);
        // It goes neither by retention nor by an ordinary move.
        store.retain(everything()).await.unwrap();
        assert_eq!(store.move_task(task.id, Ready, None, at(4), vec![], None).await.unwrap(), None);
        assert!(step(&task, KeptStep::Bring, 5).await.is_some());
        let back = now(&task).await;
        assert_eq!((back.state, back.kept_until), (Archived, None));
        assert!(step(&task, KeptStep::Keep(at(50)), 6).await.is_some());
        assert!(step(&task, KeptStep::Purge, 7).await.is_some());
        let gone = now(&task).await;
        assert_eq!((gone.state, gone.kept_until, gone.updated_at), (Deleted, None, at(7)));
        assert_eq!(step(&task, KeptStep::Bring, 8).await, None);
        assert_eq!(log(&*store, task.id).await.len(), 4);
    }
    for never in [Initializing, Failed, Deleted] {
        let task = world.task(owner(1), never);
        store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
        assert_eq!(step(&task, KeptStep::Keep(at(50)), 1).await, None, "{never}");
    }
}

fn everything() -> Retention {
    let never = at(-365 * 24 * HOUR);
    Retention {
        events_before: never,
        events_bytes_per_task: u64::MAX >> 1,
        deleted_before: at(365 * 24 * HOUR),
        audit_before: never,
        now: at(0),
    }
}

pub(super) async fn what_is_kept_counts_and_pins_its_tools(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (live, kept, gone) =
        (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let extent = Extent { bytes: 7, entries: 1 };
    for task in [&live, &kept, &gone] {
        store.note_extent(task.id, extent).await.unwrap();
    }
    for task in [&kept, &gone] {
        store.step_kept(task.id, KeptStep::Keep(at(9)), at(2), vec![], None).await.unwrap().unwrap();
    }
    store.step_kept(gone.id, KeptStep::Purge, at(3), vec![], None).await.unwrap().unwrap();
    let mut held = store.task_extents(owner(1)).await.unwrap();
    held.sort_by_key(|held| held.kept);
    let of = |task: &Task, kept| HeldTask { task: task.id, extent, kept };
    assert_eq!(held, [of(&live, false), of(&kept, true)]);
    let unknown = world.task(owner(1), TaskState::Ready);
    let found = store.tasks_of(&[live.id, kept.id, unknown.id, gone.id]).await.unwrap();
    assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), [live.id, kept.id, gone.id]);
}

fn times(hours: i64, idle: Option<i64>, archived: Option<i64>, age: Option<i64>) -> Times {
    let millis = |hours: Option<i64>| hours.map(|hours| (hours * HOUR).unsigned_abs());
    let lifetimes =
        Lifetimes { archive_idle_ms: millis(idle), delete_archived_ms: millis(archived), max_age_ms: millis(age) };
    Times { now: at(hours * HOUR), lifetimes }
}

async fn overdue(store: &dyn Store, times: Times) -> Vec<(bulkhead_core::id::TaskId, Overdue)> {
    let found = store.overdue_tasks(times, 99).await.unwrap();
    found.into_iter().map(|(task, why)| (task.id, why)).collect()
}

pub(super) async fn their_time_is_over_when_nobody_uses_them(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    assert_eq!(overdue(&*store, times(1_000, None, None, None)).await, [], "never");
    assert_eq!(overdue(&*store, times(1, Some(2), None, None)).await, []);
    assert_eq!(overdue(&*store, times(3, Some(2), None, None)).await, [(task.id, Overdue::Idle)]);
    // An event is use, and so is what is noted.
    let mut later = event(1);
    later.at = at(2 * HOUR);
    store.append_events(task.id, vec![later]).await.unwrap().unwrap();
    assert_eq!(overdue(&*store, times(3, Some(2), None, None)).await, []);
    store.note_active(&[task.id], times(4, Some(2), None, None)).await.unwrap();
    assert_eq!(overdue(&*store, times(5, Some(2), None, None)).await, []);
    assert_eq!(overdue(&*store, times(7, Some(2), None, None)).await, [(task.id, Overdue::Idle)]);
    assert_eq!(overdue(&*store, times(7, Some(2), None, Some(6))).await, [(task.id, Overdue::Age)]);
    store.move_task(task.id, TaskState::Archived, None, at(7 * HOUR), vec![], None).await.unwrap().unwrap();
    assert_eq!(overdue(&*store, times(8, Some(2), Some(2), None)).await, []);
    assert_eq!(overdue(&*store, times(10, Some(2), Some(2), None)).await, [(task.id, Overdue::ArchivedLong)]);
    let until = KeptStep::Keep(at(12 * HOUR));
    store.step_kept(task.id, until, at(10 * HOUR), vec![], None).await.unwrap().unwrap();
    assert_eq!(overdue(&*store, times(11, Some(2), Some(1), Some(1))).await, []);
    assert_eq!(overdue(&*store, times(12, None, None, None)).await, [(task.id, Overdue::DeletedLong)]);
    // Who is brought back is young again.
    store.step_kept(task.id, KeptStep::Bring, at(13 * HOUR), vec![], None).await.unwrap().unwrap();
    assert_eq!(overdue(&*store, times(14, None, None, Some(2))).await, []);
    assert_eq!(overdue(&*store, times(16, None, None, Some(2))).await, [(task.id, Overdue::Age)]);
    assert_eq!(store.overdue_tasks(times(16, None, None, Some(2)), 0).await.unwrap(), []);
}

pub(super) async fn their_own_times_are_narrower(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let hour = Some(HOUR.unsigned_abs());
    let lifetimes = Lifetimes { archive_idle_ms: hour, delete_archived_ms: None, max_age_ms: hour };
    let task = Task { lifetimes, ..world.task(owner(1), TaskState::Ready) };
    store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
    assert_eq!(store.task(owner(1), task.id).await.unwrap().unwrap().lifetimes, lifetimes);
    world.ready_task(owner(1)).await;
    assert_eq!(overdue(&*store, times(2, None, None, None)).await, [(task.id, Overdue::Age)]);
    assert_eq!(overdue(&*store, times(2, Some(9), Some(9), Some(9))).await, [(task.id, Overdue::Age)]);
    assert_eq!(overdue(&*store, times(2, Some(9), Some(9), Some(9))).await.len(), 1);
}
