//! Idempotency keys.

use std::sync::Arc;

use bulkhead_core::call::Call;
use bulkhead_core::id::CallId;
use bulkhead_core::ports::store::{AcceptCall, Accepted, IDEMPOTENCY_TTL_MS, Idempotency, Store};
use bulkhead_core::task::TaskState;
use futures::future::join_all;

use super::world::{World, accept, at, end, event, idempotency, log, owner};

fn with_key(call: &Call, key: Idempotency) -> AcceptCall {
    AcceptCall { idempotency: Some(key), ..accept(call) }
}

async fn stored(store: &dyn Store, call: &Call) -> bool {
    store.call(call.owner, call.id).await.unwrap().is_some()
}

fn is_new(accepted: &Accepted) -> bool {
    matches!(accepted, Accepted::New(_))
}

pub(super) async fn a_key_is_replayed_while_the_call_runs_and_after(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let first = world.running_call(&task);
    assert!(is_new(&store.accept_call(with_key(&first, idempotency("k", "body"))).await.unwrap()));

    let replayed = Accepted::Replayed(first.id);
    let retry = world.running_call(&task);
    assert_eq!(store.accept_call(with_key(&retry, idempotency("k", "body"))).await.unwrap(), replayed);
    store.end_call(end(&first, "done")).await.unwrap().unwrap();
    assert_eq!(store.accept_call(with_key(&retry, idempotency("k", "body"))).await.unwrap(), replayed);
    // Even if the task takes no calls any more: this is not a new one.
    store.move_task(task.id, TaskState::Archived, None, at(1), vec![], None).await.unwrap().unwrap();
    assert_eq!(store.accept_call(with_key(&retry, idempotency("k", "body"))).await.unwrap(), replayed);
    assert!(!stored(&*store, &retry).await);
    assert_eq!(log(&*store, task.id).await.len(), 2);
}

pub(super) async fn a_key_with_another_body_is_refused(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let first = world.running_call(&task);
    assert!(is_new(&store.accept_call(with_key(&first, idempotency("k", "one"))).await.unwrap()));
    let second = world.running_call(&task);
    let answer = store.accept_call(with_key(&second, idempotency("k", "two"))).await.unwrap();
    assert_eq!(answer, Accepted::KeyReused);
    assert!(!stored(&*store, &second).await);
    assert_eq!(log(&*store, task.id).await, [event(1)]);
}

pub(super) async fn a_key_is_of_one_owner_and_operation(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    for number in 1..=2 {
        let task = world.ready_task(owner(number)).await;
        for operation in ["calls.create", "other"] {
            let call = world.running_call(&task);
            let key = Idempotency { operation, ..idempotency("k", "body") };
            assert!(is_new(&store.accept_call(with_key(&call, key)).await.unwrap()));
        }
    }
}

pub(super) async fn a_key_is_forgotten_after_its_time(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let first = Call { created_at: at(0), ..world.running_call(&task) };
    assert!(is_new(&store.accept_call(with_key(&first, idempotency("k", "one"))).await.unwrap()));

    let late = Call { created_at: at(IDEMPOTENCY_TTL_MS - 1), ..world.running_call(&task) };
    let answer = store.accept_call(with_key(&late, idempotency("k", "one"))).await.unwrap();
    assert_eq!(answer, Accepted::Replayed(first.id));

    let later = Call { created_at: at(IDEMPOTENCY_TTL_MS), ..world.running_call(&task) };
    assert!(is_new(&store.accept_call(with_key(&later, idempotency("k", "two"))).await.unwrap()));
    // The key is the later call's now.
    let retry = Call { created_at: at(IDEMPOTENCY_TTL_MS + 1), ..world.running_call(&task) };
    let answer = store.accept_call(with_key(&retry, idempotency("k", "two"))).await.unwrap();
    assert_eq!(answer, Accepted::Replayed(later.id));
}

pub(super) async fn a_refused_call_leaves_its_key_free(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    store.move_task(task.id, TaskState::Archived, None, at(1), vec![], None).await.unwrap().unwrap();
    let call = world.running_call(&task);
    let answer = store.accept_call(with_key(&call, idempotency("k", "body"))).await.unwrap();
    assert_eq!(answer, Accepted::TaskNotReady(Some(TaskState::Archived)));
    store.move_task(task.id, TaskState::Ready, None, at(2), vec![], None).await.unwrap().unwrap();
    assert!(is_new(&store.accept_call(with_key(&call, idempotency("k", "body"))).await.unwrap()));
}

pub(super) async fn one_of_many_with_the_same_key_is_stored(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let calls: Vec<_> = (0..60).map(|_| world.running_call(&task)).collect();
    let accepts = calls.iter().map(|call| {
        let (store, accept) = (store.clone(), with_key(call, idempotency("k", "body")));
        tokio::spawn(async move { store.accept_call(accept).await.unwrap() })
    });
    let answers: Vec<_> = join_all(accepts).await.into_iter().map(Result::unwrap).collect();
    let new: Vec<CallId> =
        answers.iter().zip(&calls).filter(|(answer, _)| is_new(answer)).map(|(_, call)| call.id).collect();
    assert_eq!(new.len(), 1);
    let replays = answers.iter().filter(|answer| **answer == Accepted::Replayed(new[0])).count();
    assert_eq!(replays, calls.len() - 1);
    assert_eq!(log(&*store, task.id).await, [event(1)]);
}
