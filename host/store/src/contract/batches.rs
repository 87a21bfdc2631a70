//! Commands that are committed together succeed and fail alone.

use std::sync::Arc;

use bulkhead_core::ports::store::{Accepted, Store, StoreError};
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::ToolSet;
use futures::future::join_all;

use super::world::{World, accept, at, audit, end, event, grants, log, owner};

pub(super) async fn one_that_fails_does_not_take_the_others_with_it(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let taken = world.running_call(&task);
    world.accept(&taken).await;
    // Every tenth call has an id that is taken: its statement fails.
    let calls: Vec<_> =
        (0..100).map(|number| if number % 10 == 0 { taken.clone() } else { world.running_call(&task) }).collect();
    let answers = join_all(calls.iter().map(|call| store.accept_call(accept(call)))).await;
    for (number, answer) in answers.into_iter().enumerate() {
        if number % 10 == 0 {
            assert!(matches!(answer, Err(StoreError::Exists("call"))), "{number}: {answer:?}");
        } else {
            assert!(matches!(answer, Ok(Accepted::New(_))), "{number}: {answer:?}");
        }
    }
    for call in &calls {
        assert_eq!(store.call(owner(1), call.id).await.unwrap().as_ref(), Some(call));
    }
    assert_eq!(log(&*store, task.id).await, vec![event(1); 91]);
}

pub(super) async fn all_kinds_at_once(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let clients = (0..40_u128).map(|number| {
        let (store, world) = (store.clone(), world.clone());
        tokio::spawn(async move {
            let owner = owner(number % 3 + 1);
            let task = world.task(owner, TaskState::Initializing);
            store.create_task(&task, &ToolSet::new([]), vec![event(1)], audit()).await.unwrap();
            store.move_task(task.id, TaskState::Ready, None, at(1), vec![event(2)], None).await.unwrap().unwrap();
            let (queued, running) = (world.call(&task), world.running_call(&task));
            store.accept_call(accept(&queued)).await.unwrap();
            store.start_call(task.id, queued.id, at(2), &grants(), vec![event(3)]).await.unwrap().unwrap();
            store.accept_call(accept(&running)).await.unwrap();
            let session = world.session(owner);
            let both = tokio::join!(
                store.append_events(task.id, vec![event(4), event(5)]),
                store.end_call(end(&queued, "a")),
                store.end_call(end(&running, "b")),
                store.create_session(&session),
            );
            assert!(matches!(both, (Ok(Some(_)), Ok(Some(_)), Ok(Some(_)), Ok(()))), "{both:?}");
            assert_eq!(log(&*store, task.id).await.len(), 9);
            assert_eq!(store.task(owner, task.id).await.unwrap().unwrap().last_seq, 9);
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    assert_eq!(store.open_calls().await.unwrap(), []);
}

pub(super) async fn a_dropped_wait_does_not_undo(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    for number in 0..20 {
        let mut wait = Box::pin(store.append_events(task.id, vec![event(number)]));
        // Polled once: the command is in the queue. Then its client goes away.
        let _ = futures::poll!(&mut wait);
    }
    // A later command is committed no earlier than those.
    store.append_events(task.id, vec![event(99)]).await.unwrap().unwrap();
    assert_eq!(log(&*store, task.id).await.len(), 21);
}
