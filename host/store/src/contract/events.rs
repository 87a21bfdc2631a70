//! The log of a task.

use std::sync::Arc;

use bulkhead_core::ports::store::{Appended, Store};
use bulkhead_core::task::TaskState;
use futures::future::join_all;

use super::world::{World, at, ended, event, log, owner};

pub(super) async fn are_numbered_without_gaps(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let other = world.ready_task(owner(1)).await;
    let some = store.append_events(task.id, vec![event(1), event(2)]).await.unwrap();
    assert_eq!(some, Some(Appended { first: 1, last: 2 }));
    let none = store.append_events(task.id, vec![]).await.unwrap();
    assert_eq!(none, Some(Appended { first: 3, last: 2 }));
    let more = store.append_events(task.id, vec![event(3)]).await.unwrap();
    assert_eq!(more, Some(Appended { first: 3, last: 3 }));
    let elsewhere = store.append_events(other.id, vec![event(9)]).await.unwrap();
    assert_eq!(elsewhere, Some(Appended { first: 1, last: 1 }));
    assert_eq!(log(&*store, task.id).await, [event(1), event(2), event(3)]);

    let unknown = world.task(owner(1), TaskState::Ready).id;
    assert_eq!(store.append_events(unknown, vec![event(1)]).await.unwrap(), None);
    assert_eq!(store.events_after(unknown, 0, 9, 999).await.unwrap(), None);
}

pub(super) async fn are_numbered_without_gaps_under_concurrency(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let tasks = [world.ready_task(owner(1)).await.id, world.ready_task(owner(2)).await.id];
    let appends = (0..200_u64).map(|number| {
        let store = store.clone();
        let events: Vec<_> = (0..number % 4).map(|part| event(number * 10 + part)).collect();
        tokio::spawn(async move {
            let appended = store.append_events(tasks[number as usize % 2], events.clone()).await.unwrap().unwrap();
            (number as usize % 2, appended, events)
        })
    });
    let results = join_all(appends).await;
    for (index, task) in tasks.into_iter().enumerate() {
        let log = log(&*store, task).await;
        for result in &results {
            let (of, Appended { first, last }, events) = result.as_ref().unwrap();
            if *of == index {
                // What was said of numbers is what is in the log.
                assert_eq!(log[*first as usize - 1..*last as usize], events[..]);
            }
        }
        let all: usize = results.iter().flatten().filter(|(of, ..)| *of == index).map(|(.., e)| e.len()).sum();
        assert_eq!(log.len(), all);
    }
}

pub(super) async fn are_read_in_pages(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let events: Vec<_> = (1..=120).map(event).collect();
    store.append_events(task.id, events.clone()).await.unwrap();
    store.move_task(task.id, TaskState::Archived, None, at(1), vec![], None).await.unwrap().unwrap();

    let page = store.events_after(task.id, 10, 3, u64::MAX).await.unwrap().unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [11, 12, 13]);
    assert_eq!((page.first_seq, page.last_seq, page.state), (1, 120, TaskState::Archived));

    // Bytes: as many as fit, but at least one.
    let size = events[0].size();
    for (bytes, count) in [(0, 1), (size, 1), (size * 2, 2), (size * 2 + 1, 2), (size * 5, 5)] {
        let page = store.events_after(task.id, 0, 100, bytes).await.unwrap().unwrap();
        assert_eq!(page.events.len(), count, "{bytes} bytes");
    }
    for after in [120, 121, u64::MAX] {
        let page = store.events_after(task.id, after, 9, 999).await.unwrap().unwrap();
        assert_eq!((page.events.len(), page.last_seq), (0, 120));
    }
    let all = store.events_after(task.id, 0, 1_000, u64::MAX).await.unwrap().unwrap();
    assert_eq!(all.events.into_iter().map(|event| event.body).collect::<Vec<_>>(), events);
}

pub(super) async fn come_back_as_they_were(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    let mut odd = event(1);
    // Whoever reads must see the same bytes: spaces, order and escapes included.
    odd.data = "{ \"b\" : 1.10, \"a\": \"\\u00e4 \u{1f600} ' \\\"\" , \"big\": 12345678901234567890 }".into();
    odd.at = at(-5);
    let large =
        bulkhead_core::event::NewEvent { data: format!("{{\"text\":\"{}\"}}", "x".repeat(70_000)).into(), ..event(2) };
    let events = vec![odd, large, ended(call.id)];
    store.append_events(task.id, events.clone()).await.unwrap();
    assert_eq!(log(&*store, task.id).await[1..], events[..]);
}
