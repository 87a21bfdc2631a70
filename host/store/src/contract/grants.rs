//! Grants and policies.

use std::sync::Arc;

use bulkhead_core::audit::{AuditBody, NewAudit};
use bulkhead_core::call::{CallState, Step};
use bulkhead_core::grants::{Capability, Grant};
use bulkhead_core::id::GrantId;
use bulkhead_core::ports::store::{Appended, Store};
use bulkhead_core::task::Task;
use futures::future::join_all;

use super::world::{World, at, audit, event, grants, of_task, owner};

pub(crate) fn grant(task: &Task, number: u64) -> Grant {
    Grant {
        id: GrantId::from_parts(number, 1),
        task: task.id,
        owner: task.owner,
        capability: Capability::Http("GET https://a/x".into()),
        expires_at: None,
        uses_left: None,
        created_at: at(1),
        revoked_at: None,
    }
}

fn record(task: &Task, number: i64) -> NewAudit {
    let body = AuditBody::CallRevoked { reason: number.to_string() };
    NewAudit::new(at(number), task.owner, task.id, None, &body)
}

pub(super) async fn are_live_until_used_up_expired_or_revoked(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let uses = Grant { uses_left: Some(2), ..grant(&task, 1) };
    let expires = Grant { expires_at: Some(at(10)), ..grant(&task, 2) };
    for made in [&uses, &expires] {
        assert!(store.create_grant(made, 9, record(&task, 1)).await.unwrap());
    }
    assert_eq!(store.list_grants(task.id, 9).await.unwrap(), [expires.clone(), uses.clone()]);
    assert_eq!(store.list_grants(task.id, 1).await.unwrap(), std::slice::from_ref(&expires));

    let tries = join_all((0..5).map(|_| store.use_grant(uses.id, at(5)))).await;
    assert_eq!(tries.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 2);
    assert!(store.use_grant(expires.id, at(9)).await.unwrap());
    assert!(!store.use_grant(expires.id, at(10)).await.unwrap());

    let other = world.ready_task(owner(2)).await;
    assert!(!store.revoke_grant(other.id, expires.id, at(6), audit()).await.unwrap());
    assert!(store.revoke_grant(task.id, expires.id, at(6), audit()).await.unwrap());
    assert!(!store.revoke_grant(task.id, expires.id, at(7), audit()).await.unwrap());
    assert!(!store.use_grant(expires.id, at(7)).await.unwrap());
    assert_eq!(store.list_grants(task.id, 1).await.unwrap()[0].revoked_at, Some(at(6)));
}

pub(super) async fn are_at_most_so_many_in_a_task(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let made = join_all((0..6).map(|number| {
        let (store, task) = (store.clone(), task.clone());
        async move { store.create_grant(&grant(&task, number), 3, record(&task, 1)).await.unwrap() }
    }));
    assert_eq!(made.await.into_iter().filter(|made| *made).count(), 3);
    // Those that ended make room; what was refused left no record.
    store.revoke_grant(task.id, store.list_grants(task.id, 1).await.unwrap()[0].id, at(1), audit()).await.unwrap();
    assert!(store.create_grant(&grant(&task, 9), 3, record(&task, 1)).await.unwrap());
    assert_eq!(store.list_audit(owner(1), &of_task(task.id), 0, 99).await.unwrap().len(), 4);
}

pub(super) async fn policies_are_kept_by_their_revision(store: Arc<dyn Store>) {
    store.keep_policy("a", "one", at(1), audit()).await.unwrap();
    store.keep_policy("a", "two", at(2), audit()).await.unwrap();
    assert_eq!(store.policy("a").await.unwrap().as_deref(), Some("one"));
    assert_eq!(store.policy("b").await.unwrap(), None);
}

pub(super) async fn calls_wait_and_go_on(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    let step = |step| store.step_call(task.id, call.id, 1, step, vec![event(1)]);
    assert_eq!(step(Step::Pause).await.unwrap(), None, "it is queued");
    store.start_call(task.id, call.id, at(5), &grants(), vec![]).await.unwrap().unwrap();
    assert_eq!(step(Step::Resume).await.unwrap(), None, "it does not wait");
    assert_eq!(step(Step::Pause).await.unwrap(), Some(Appended { first: 2, last: 2 }));
    let state = async || store.call(owner(1), call.id).await.unwrap().unwrap().state;
    assert_eq!(state().await, CallState::Waiting { since: at(5) });
    assert_eq!(step(Step::Pause).await.unwrap(), None, "it waits already");
    assert_eq!(step(Step::Resume).await.unwrap(), Some(Appended { first: 3, last: 3 }));
    assert_eq!(state().await, CallState::Running { since: at(5) });
    assert_eq!(step(Step::Start).await.unwrap(), None, "that is another operation");
}
