//! Sessions.

use std::sync::Arc;

use bulkhead_core::ports::store::{Store, StoreError, Thing};
use bulkhead_core::principal::Owner;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::ToolSet;

use super::world::{World, audit, owner, page};

pub(super) async fn belong_to_their_owner_and_are_paged(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let sessions: Vec<_> = (0..5).map(|_| world.session(owner(1))).collect();
    for session in &sessions {
        store.create_session(session).await.unwrap();
    }
    assert!(matches!(store.create_session(&sessions[0]).await, Err(StoreError::Exists("session"))));
    let other = world.session(owner(2));
    store.create_session(&other).await.unwrap();

    let mixed = Owner { tenant: owner(1).tenant, user: owner(2).user };
    for stranger in [owner(2), mixed] {
        assert_eq!(store.session(stranger, sessions[0].id).await.unwrap(), None);
        assert!(!store.delete_session(stranger, sessions[0].id).await.unwrap());
    }
    assert_eq!(store.session(owner(1), sessions[0].id).await.unwrap().as_ref(), Some(&sessions[0]));
    assert_eq!(store.list_sessions(owner(2), page(None, 9)).await.unwrap(), [other]);

    let first = store.list_sessions(owner(1), page(None, 3)).await.unwrap();
    assert_eq!(first, [sessions[4].clone(), sessions[3].clone(), sessions[2].clone()]);
    let rest = store.list_sessions(owner(1), page(Some(first[2].id), 3)).await.unwrap();
    assert_eq!(rest, [sessions[1].clone(), sessions[0].clone()]);
}

pub(super) async fn a_deleted_one_leaves_its_tasks(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let session = world.session(owner(1));
    store.create_session(&session).await.unwrap();
    let inside = Task { session: Some(session.id), ..world.task(owner(1), TaskState::Ready) };
    store.create_task(&inside, &ToolSet::new([]), vec![], audit()).await.unwrap();
    let outside = world.ready_task(owner(1)).await;

    let of_session = store.list_tasks(owner(1), Some(session.id), false, page(None, 9)).await.unwrap();
    assert_eq!(of_session, std::slice::from_ref(&inside));
    assert_eq!(store.list_tasks(owner(2), Some(session.id), false, page(None, 9)).await.unwrap(), []);

    assert!(store.delete_session(owner(1), session.id).await.unwrap());
    assert!(!store.delete_session(owner(1), session.id).await.unwrap());
    assert_eq!(store.session(owner(1), session.id).await.unwrap(), None);
    let left = Task { session: None, ..inside };
    assert_eq!(store.list_tasks(owner(1), None, false, page(None, 9)).await.unwrap(), [outside, left]);
    assert_eq!(store.list_tasks(owner(1), Some(session.id), false, page(None, 9)).await.unwrap(), []);
}

pub(super) async fn things_know_whose_they_are(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let session = world.session(owner(1));
    store.create_session(&session).await.unwrap();
    let task = world.ready_task(owner(2)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    for (thing, whose) in
        [(Thing::Session(session.id), owner(1)), (Thing::Task(task.id), owner(2)), (Thing::Call(call.id), owner(2))]
    {
        assert_eq!(store.owner_of(thing).await.unwrap(), Some(whose), "{thing:?}");
    }
    let (session, call) = (world.session(owner(1)), world.call(&task));
    for nothing in [Thing::Session(session.id), Thing::Call(call.id)] {
        assert_eq!(store.owner_of(nothing).await.unwrap(), None, "{nothing:?}");
    }
}
