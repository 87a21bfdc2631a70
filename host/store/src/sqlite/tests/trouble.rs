//! A full disk, a second process, too much at once, and rows that can't be.

use std::error::Error as _;
use std::time::Duration;

use bulkhead_core::audit::AuditFilter;
use bulkhead_core::ports::store::{Accepted, Store as _, StoreError};
use bulkhead_core::task::TaskState;
use futures::future::join_all;

use super::Home;
use crate::contract::world::{World, accept, at, end, event, log, owner};
use crate::sqlite::{SqliteConfig, SqliteStore};

/// Runs SQL on the writer's connection.
async fn sql(store: &SqliteStore, text: String) {
    store.write("test", move |db| db.execute_batch(&text)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_and_all_goes_on_once_there_is_room() {
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    store.append_events(task.id, vec![event(0)]).await.unwrap().unwrap();
    // As many pages as there are now: a smaller number is taken as that.
    sql(&store, "PRAGMA max_page_count = 1".into()).await;
    let mut refused = 0;
    let mut stored = 1;
    for number in 1..200 {
        match store.append_events(task.id, vec![event(number)]).await {
            Ok(appended) => stored = appended.unwrap().last,
            Err(StoreError::DiskFull) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    // Reading goes on, and what was acknowledged is there.
    assert_eq!(log(&*store, task.id).await.len() as u64, stored);
    // Many at once are refused as well, each for itself.
    let many = join_all((0..50).map(|number| store.append_events(task.id, vec![event(number); 20]))).await;
    assert!(many.iter().all(|refused| matches!(refused, Err(StoreError::DiskFull))));

    sql(&store, format!("PRAGMA max_page_count = {}", 1 << 20)).await;
    let appended = store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap();
    assert_eq!(appended.first, stored + 1);
    assert_eq!(log(&*store, task.id).await.len() as u64, stored + 1);
}

#[tokio::test]
async fn two_processes_at_once_wait_for_each_other() {
    let home = Home::new();
    let (one, two) = (home.open().await, home.open().await);
    let world = World::new(one.clone());
    let task = world.ready_task(owner(1)).await;
    let appends = (0..100).map(|number| {
        let store = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { store.append_events(task.id, vec![event(number)]).await.unwrap().unwrap() })
    });
    let mut numbers: Vec<_> = join_all(appends).await.into_iter().map(|appended| appended.unwrap().first).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert_eq!(log(&*two, task.id).await.len(), 100);
}

#[tokio::test]
async fn a_writer_that_another_process_holds_off_says_so() {
    let home = Home::new();
    let one = home.open().await;
    let task = World::new(one.clone()).ready_task(owner(1)).await;
    let impatient = SqliteConfig { busy_timeout: Duration::from_millis(50), ..home.config() };
    let two = SqliteStore::open(impatient).await.unwrap();
    let ((begun, mut held), (release, hold)) = (tokio::sync::mpsc::channel::<()>(1), std::sync::mpsc::channel::<()>());
    let hold = std::sync::Mutex::new(hold);
    let holding = one.write("test", move |db| {
        db.execute("UPDATE tasks SET label = label", [])?;
        begun.try_send(()).unwrap();
        hold.lock().unwrap().recv().unwrap();
        Ok(())
    });
    let refused = async {
        held.recv().await.unwrap();
        let error = two.append_events(task.id, vec![event(1)]).await.unwrap_err();
        release.send(()).unwrap();
        error
    };
    let (holding, error) = tokio::join!(holding, refused);
    holding.unwrap();
    let StoreError::Unavailable(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(two.append_events(task.id, vec![event(1)]).await.unwrap().is_some());
}

/// A write that stays under way: the one, and what to wait for and to release.
fn held(store: &SqliteStore) -> (impl Future<Output = ()>, Held) {
    let ((begun, started), (release, hold)) = (tokio::sync::mpsc::channel::<()>(1), std::sync::mpsc::channel::<()>());
    let hold = std::sync::Mutex::new(hold);
    let busy = store.write("test", move |_| {
        begun.try_send(()).unwrap();
        hold.lock().unwrap().recv().unwrap();
        Ok(())
    });
    (async { busy.await.unwrap() }, Held { started, release })
}

struct Held {
    started: tokio::sync::mpsc::Receiver<()>,
    release: std::sync::mpsc::Sender<()>,
}

#[tokio::test]
async fn many_clients_share_commits() {
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let calls: Vec<_> = (0..64).map(|_| world.running_call(&task)).collect();
    let before = store.commits();
    let (busy, mut busied) = held(&store);
    let clients = async {
        busied.started.recv().await.unwrap();
        let clients = join_all(calls.iter().map(|call| store.accept_call(accept(call))));
        tokio::pin!(clients);
        // All are queued behind the one that is under way.
        assert!(futures::poll!(&mut clients).is_pending());
        busied.release.send(()).unwrap();
        clients.await
    };
    let ((), accepted) = tokio::join!(busy, clients);
    assert!(accepted.iter().all(|accepted| matches!(accepted, Ok(Accepted::New(_)))));
    // The one, and the others together.
    assert_eq!(store.commits() - before, 2);
    let ended = join_all(calls.iter().map(|call| store.end_call(end(call, "done")))).await;
    assert!(ended.into_iter().all(|ended| ended.unwrap().is_some()));
    assert_eq!(log(&*store, task.id).await.len(), 128);
}

#[tokio::test]
async fn a_queue_that_stays_full_refuses() {
    let home = Home::new();
    let store = SqliteStore::open(SqliteConfig { queue: 1, ..home.config() }).await.unwrap();
    let (busy, mut busied) = held(&store);
    let crowd = async {
        busied.started.recv().await.unwrap();
        let world = World::new(std::sync::Arc::new(crate::MemoryStore::new()));
        let task = world.task(owner(1), TaskState::Ready).id;
        let (one, two) = (store.append_events(task, vec![]), store.append_events(task, vec![]));
        tokio::pin!(one, two);
        // One fits into the queue, the other does not and is refused.
        let first = futures::future::select(&mut one, &mut two).await.factor_first().0;
        busied.release.send(()).unwrap();
        first
    };
    let ((), refused) = tokio::join!(busy, crowd);
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_row_that_can_not_be_is_named() {
    let home = Home::new();
    let store = home.open().await;
    let task = World::new(store.clone()).ready_task(owner(1)).await;
    sql(&store, "UPDATE tasks SET limits = '{\"no_such\": 1}'".into()).await;
    let error = store.task(owner(1), task.id).await.unwrap_err();
    let StoreError::Corrupt { table: "tasks", row, reason } = error else { panic!("{error}") };
    assert_eq!(row, task.id.to_string());
    assert!(reason.contains("limits"), "{reason}");
}

#[tokio::test]
async fn the_audit_log_is_append_only() {
    let home = Home::new();
    let store = home.open().await;
    let task = World::new(store.clone()).ready_task(owner(1)).await;
    let body = bulkhead_core::audit::AuditBody::CallRevoked { reason: "as it was".into() };
    let record = bulkhead_core::audit::NewAudit::new(at(1), owner(1), task.id, None, &body);
    store.append_audit(vec![record.clone()]).await.unwrap();
    let changed = store.write("test", |db| db.execute("UPDATE audit SET data = '{}'", [])).await;
    assert!(changed.unwrap_err().to_string().contains("unavailable"));
    assert_eq!(store.list_audit(owner(1), &AuditFilter::default(), 0, 9).await.unwrap()[0].record, record);
}

/// The lowest 32 bits of an event's place are its number's; what would take more is not stored.
#[tokio::test]
async fn a_log_ends_before_its_numbers_are_anothers() {
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let (task, next) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let last = u64::from(u32::MAX);
    let near = format!(
        "UPDATE logs SET last_seq = {}, first_seq = {} WHERE number = (SELECT number FROM tasks WHERE id = '{}')",
        last - 1,
        last,
        task.id
    );
    sql(&store, near).await;
    let before = log(&*store, next.id).await;
    assert_eq!(store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap().last, last);
    for count in [1, 3] {
        let refused = store.append_events(task.id, vec![event(2); count]).await;
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    }
    assert_eq!(log(&*store, next.id).await, before);
    let page = store.events_after(task.id, last - 1, 9, u64::MAX).await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.events[0].seq, page.last_seq), (1, last, last));
    for after in [last, last + 1, u64::MAX] {
        assert_eq!(store.events_after(task.id, after, 9, u64::MAX).await.unwrap().unwrap().events, []);
    }
}

#[tokio::test]
async fn a_task_stays_as_long_as_its_events() {
    let home = Home::new();
    let store = home.open().await;
    let task = World::new(store.clone()).ready_task(owner(1)).await;
    store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap();
    for text in ["DELETE FROM tasks", "PRAGMA foreign_keys = OFF; DELETE FROM tasks"] {
        let gone = store.write("test", move |db| db.execute_batch(text)).await;
        assert!(gone.unwrap_err().source().unwrap().to_string().contains("the task has events"));
    }
    assert_eq!(log(&*store, task.id).await.len(), 1);
    // The row of its log goes with it, so that the task that gets its number begins anew.
    for text in ["DELETE FROM events", "DELETE FROM tasks"] {
        sql(&store, text.into()).await;
    }
    let next = World::new(store.clone()).ready_task(owner(2)).await;
    assert_eq!(store.append_events(next.id, vec![event(1)]).await.unwrap().unwrap().last, next.last_seq + 1);
    assert_eq!(log(&*store, next.id).await.len() as u64, next.last_seq + 1);
}

#[tokio::test]
async fn a_flood_of_events_delays_nobodys_few() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    const FLOODS: usize = 40;
    let home = Home::new();
    let store = home.open().await;
    let world = World::new(store.clone());
    let (theirs, own) = (world.ready_task(owner(1)).await, world.ready_task(owner(2)).await);
    let (commits, done) = (store.commits(), AtomicUsize::new(0));
    let append = |task, count| {
        let (store, done) = (&store, &done);
        async move {
            store.append_events(task, vec![event(1); count]).await.unwrap().unwrap();
            done.fetch_add(1, SeqCst)
        }
    };
    // They are queued in this order: one that floods many times, and then another's few.
    let floods = join_all((0..FLOODS).map(|_| append(theirs.id, 1_000)));
    let (floods, few) = tokio::join!(floods, append(own.id, 2));
    assert!(few < FLOODS / 2, "{few} of {FLOODS} floods were stored before");
    // One by one, since each has more than a commit takes of many, and in their order.
    assert!(store.commits() - commits >= FLOODS as u64);
    assert_eq!(floods.iter().filter(|done| **done < few).count(), few);
    assert!(floods.is_sorted());
    assert_eq!(log(&*store, theirs.id).await.len(), FLOODS * 1_000);
    // What still waits when the store is closed is stored.
    let last = join_all((0..4).map(|_| append(own.id, 1_000)));
    let (_, ()) = tokio::join!(last, store.close());
    assert_eq!(log(&*home.open().await, own.id).await.len(), 4_002);
}
