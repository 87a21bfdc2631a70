//! Calls.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState, ListedCall, Step};
use bulkhead_core::json::Json;
use bulkhead_core::outcome::{Content, Ending, Fault, INLINE_RESULT, Outcome, code};
use bulkhead_core::ports::store::{AcceptCall, Accepted, Appended, EndCall, Store, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::ToolSet;
use futures::future::join_all;

use super::world::{World, accept, at, audit, end, ended, event, grants, log, owner, page, succeeded};

pub(super) async fn live_from_queued_to_ended(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    assert_eq!(world.accept(&call).await, Appended { first: 1, last: 1 });
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(call.clone()));

    let started = store.start_call(task.id, call.id, at(5), &grants(), vec![event(2)]).await.unwrap();
    assert_eq!(started, Some(Appended { first: 2, last: 2 }));
    let running = Call { state: CallState::Running { since: at(5) }, attempts: 1, grants: grants(), ..call.clone() };
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(running.clone()));

    assert_eq!(store.end_call(end(&call, "one")).await.unwrap(), Some(Appended { first: 3, last: 3 }));
    let state = CallState::Ended { since: Some(at(5)), at: at(9), outcome: succeeded("one") };
    let over = Call { state, ..running };
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(over.clone()));

    // Over is over.
    assert_eq!(store.end_call(end(&call, "two")).await.unwrap(), None);
    assert_eq!(store.start_call(task.id, call.id, at(6), &grants(), vec![event(2)]).await.unwrap(), None);
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(over));
    assert_eq!(log(&*store, task.id).await, [event(1), event(2), ended(call.id)]);
}

pub(super) async fn accepted_as_running_have_one_attempt(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(call.clone()));
    assert_eq!(store.start_call(task.id, call.id, at(6), &grants(), vec![]).await.unwrap(), None);
    // A queued call may end, too: cancelled before it had a slot.
    let queued = world.call(&task);
    world.accept(&queued).await;
    assert!(store.end_call(end(&queued, "never ran")).await.unwrap().is_some());
    let over = store.call(owner(1), queued.id).await.unwrap().unwrap();
    assert_eq!((over.state.since(), over.attempts), (None, 0));
}

pub(super) async fn wait_again_in_the_attempt_that_is_over_alone(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    let step = |attempt, step, events| store.step_call(task.id, call.id, attempt, step, events);
    assert_eq!(step(2, Step::Requeue, vec![event(2)]).await.unwrap(), None);
    let again = step(1, Step::Requeue, vec![event(2), event(3)]).await.unwrap();
    assert_eq!(again, Some(Appended { first: 2, last: 3 }));
    let queued = Call { state: CallState::Queued, ..call.clone() };
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(queued));
    assert_eq!(store.open_calls().await.unwrap().iter().filter(|open| open.id == call.id).count(), 1);
    assert_eq!(step(1, Step::Requeue, vec![]).await.unwrap(), None, "it waits already");
    store.start_call(task.id, call.id, at(7), &grants(), vec![event(4)]).await.unwrap().unwrap();
    let running = store.call(owner(1), call.id).await.unwrap().unwrap();
    assert_eq!((running.state.since(), running.attempts), (Some(at(7)), 2));
    // One that is late is of the first attempt.
    assert_eq!(step(1, Step::Requeue, vec![event(5)]).await.unwrap(), None);
    assert_eq!(step(1, Step::Pause, vec![event(5)]).await.unwrap(), None);
    step(2, Step::Pause, vec![event(5)]).await.unwrap().unwrap();
    assert_eq!(step(1, Step::Resume, vec![event(6)]).await.unwrap(), None);
    step(2, Step::Requeue, vec![event(6)]).await.unwrap().unwrap();
    assert!(store.end_call(end(&call, "done")).await.unwrap().is_some());
    assert_eq!(step(2, Step::Requeue, vec![]).await.unwrap(), None, "over is over");
    let wanted = [event(1), event(2), event(3), event(4), event(5), event(6), ended(call.id)];
    assert_eq!(log(&*store, task.id).await, wanted);
    // A task that is put away starts nothing more.
    let other = world.ready_task(owner(1)).await;
    let late = world.running_call(&other);
    world.accept(&late).await;
    let elsewhere = store.step_call(task.id, late.id, 1, Step::Requeue, vec![]).await.unwrap();
    assert_eq!(elsewhere, None, "it is of another task");
    store.move_task(other.id, TaskState::Archived, None, at(1), vec![], None).await.unwrap().unwrap();
    assert_eq!(store.step_call(other.id, late.id, 1, Step::Requeue, vec![]).await.unwrap(), None);
}

pub(super) async fn have_limits_of_their_own_or_those_of_their_task(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let narrowed = world.call(&task);
    assert_ne!(narrowed.limits, task.limits);
    world.accept(&narrowed).await;
    let plain = Call { limits: task.limits.clone(), ..world.call(&task) };
    store.accept_call(AcceptCall { own_limits: false, ..accept(&plain) }).await.unwrap();
    for call in [narrowed, plain] {
        assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(call));
    }
}

pub(super) async fn belong_to_their_owner(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    let other_user = Owner { tenant: owner(1).tenant, user: owner(2).user };
    let other_tenant = Owner { tenant: owner(2).tenant, user: owner(1).user };
    for stranger in [owner(2), other_user, other_tenant] {
        assert_eq!(store.call(stranger, call.id).await.unwrap(), None);
    }
    let unknown = world.call(&task);
    assert_eq!(store.call(owner(1), unknown.id).await.unwrap(), None);
}

pub(super) async fn need_a_ready_task_of_the_same_owner(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    use TaskState::{Archived, Deleted, Failed, Initializing};
    for state in [Initializing, Archived, Deleted, Failed] {
        let task = world.task(owner(1), state);
        store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
        let call = world.running_call(&task);
        assert_eq!(store.accept_call(accept(&call)).await.unwrap(), Accepted::TaskNotReady(Some(state)));
        assert_eq!(store.call(owner(1), call.id).await.unwrap(), None);
        assert_eq!(log(&*store, task.id).await, []);
    }
    let task = world.ready_task(owner(1)).await;
    for stranger in [owner(2), Owner { tenant: owner(1).tenant, user: owner(2).user }] {
        let call = Call { owner: stranger, ..world.running_call(&task) };
        assert_eq!(store.accept_call(accept(&call)).await.unwrap(), Accepted::TaskNotReady(None));
        assert_eq!(store.call(stranger, call.id).await.unwrap(), None);
    }
    let unknown = world.running_call(&world.task(owner(1), TaskState::Ready));
    assert_eq!(store.accept_call(accept(&unknown)).await.unwrap(), Accepted::TaskNotReady(None));
    assert_eq!(log(&*store, task.id).await, []);

    let call = world.running_call(&task);
    world.accept(&call).await;
    let again = store.accept_call(accept(&call)).await;
    assert!(matches!(again, Err(StoreError::Exists("call"))), "{again:?}");
    assert_eq!(log(&*store, task.id).await, [event(1)]);
}

pub(super) async fn end_once_however_many_try(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    let ends = (0..100).map(|number| {
        let (store, end) = (store.clone(), end(&call, &format!("outcome {number}")));
        tokio::spawn(async move { (end.outcome.clone(), store.end_call(end).await.unwrap()) })
    });
    let ends: Vec<_> = join_all(ends).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = ends.iter().filter(|(_, appended)| appended.is_some()).collect();
    assert_eq!(winners.len(), 1);
    // What the winner was told is what is stored, and there is one event of it.
    let stored = store.call(owner(1), call.id).await.unwrap().unwrap();
    let outcome = winners[0].0.clone();
    assert_eq!(stored.state, CallState::Ended { since: Some(call.created_at), at: at(9), outcome });
    assert_eq!(log(&*store, task.id).await, [event(1), ended(call.id)]);
}

pub(super) async fn start_once_however_many_try(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    let starts = (0..50).map(|number| {
        let (store, task, call) = (store.clone(), task.id, call.id);
        tokio::spawn(async move { store.start_call(task, call, at(number), &grants(), vec![event(2)]).await.unwrap() })
    });
    let won = join_all(starts).await.into_iter().filter(|started| matches!(started, Ok(Some(_)))).count();
    assert_eq!(won, 1);
    assert_eq!(store.call(owner(1), call.id).await.unwrap().unwrap().attempts, 1);
    assert_eq!(log(&*store, task.id).await, [event(1), event(2)]);
}

pub(super) async fn a_step_names_the_right_task(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let other = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    assert_eq!(store.start_call(other.id, call.id, at(1), &grants(), vec![event(2)]).await.unwrap(), None);
    let mut wrong = end(&call, "wrong");
    wrong.task = other.id;
    assert_eq!(store.end_call(wrong).await.unwrap(), None);
    assert_eq!(store.call(owner(1), call.id).await.unwrap(), Some(call));
    assert_eq!(log(&*store, other.id).await, []);
}

pub(super) async fn large_texts_come_back(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let mut calls = Vec::new();
    for bytes in [0, 4_000, 4_096, 5_000, 300_000] {
        let text = "ä".repeat(bytes / 2);
        let call = Call { arguments: format!("{{\"text\":\"{text}\"}}").into(), ..world.running_call(&task) };
        world.accept(&call).await;
        assert!(store.end_call(end(&call, &text)).await.unwrap().is_some());
        let state = CallState::Ended { since: call.state.since(), at: at(9), outcome: succeeded(&text) };
        calls.push(Call { state, ..call });
    }
    for call in &calls {
        assert_eq!(store.call(owner(1), call.id).await.unwrap().as_ref(), Some(call));
    }
    calls.reverse();
    assert_eq!(store.list_calls(task.id, page(None, 9)).await.unwrap(), listed(&calls));
}

fn listed(calls: &[Call]) -> Vec<ListedCall> {
    calls.iter().map(ListedCall::from).collect()
}

pub(super) async fn lists_leave_out_what_is_long(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let text = |bytes| Content::Text { text: "x".repeat(bytes) };
    // It looks like the end of an outcome, which is read by itself.
    let forged = Json::parse(r#"{"a":"ä\u0000","usage":{"wall_us":1}}"#.into()).unwrap();
    let fault = |bytes| {
        let mut fault = Fault::new(code::TRAP, "\u{1}".repeat(bytes));
        fault.details = Some(forged.clone());
        fault
    };
    let shown = INLINE_RESULT - 1_000;
    let endings = [
        Ending::Succeeded { content: Some(vec![text(shown)]) },
        Ending::Succeeded { content: Some(vec![text(3 * INLINE_RESULT), Content::Json { json: forged.clone() }]) },
        Ending::Failed { fault: fault(1_000) },
        Ending::Failed { fault: fault(INLINE_RESULT) },
        Ending::Cancelled { fault: fault(INLINE_RESULT) },
    ];
    let mut calls = Vec::new();
    for ending in endings {
        let call = world.running_call(&task);
        world.accept(&call).await;
        let outcome = Outcome { ending, ..(*succeeded("")).clone() };
        let ended = EndCall { outcome: Arc::new(outcome), ..end(&call, "") };
        let state = CallState::Ended { since: call.state.since(), at: ended.at, outcome: ended.outcome.clone() };
        assert!(store.end_call(ended).await.unwrap().is_some());
        calls.push(Call { state, ..call });
    }
    for call in &calls {
        assert_eq!(store.call(owner(1), call.id).await.unwrap().as_ref(), Some(call));
    }
    calls.reverse();
    let got = store.list_calls(task.id, page(None, 9)).await.unwrap();
    assert_eq!(got, listed(&calls));
    let whole: Vec<_> = got.iter().zip(&calls).map(|(listed, call)| listed.state == call.state).collect();
    assert_eq!(whole, [false, false, true, false, true]);
}

pub(super) async fn are_paged_newest_first(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let other = world.ready_task(owner(1)).await;
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(world.call(&task));
        world.accept(&calls[calls.len() - 1]).await;
        world.accept(&world.call(&other)).await;
    }
    calls.reverse();
    assert_eq!(store.list_calls(task.id, page(None, 2)).await.unwrap(), listed(&calls[..2]));
    assert_eq!(store.list_calls(task.id, page(Some(calls[1].id), 9)).await.unwrap(), listed(&calls[2..]));
    assert_eq!(store.list_calls(task.id, page(Some(calls[4].id), 9)).await.unwrap(), []);
}

pub(super) async fn open_ones_are_found_for_recovery(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let mut open = Vec::new();
    for number in 1..=3 {
        let task = world.ready_task(owner(number)).await;
        let over = world.running_call(&task);
        world.accept(&over).await;
        store.end_call(end(&over, "over")).await.unwrap().unwrap();
        for call in [world.call(&task), world.running_call(&task)] {
            world.accept(&call).await;
            open.push(call);
        }
    }
    assert_eq!(store.open_calls().await.unwrap(), open);
}
