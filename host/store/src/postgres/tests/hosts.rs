//! Several hosts on one database: who holds what, and what a host that was believed
//! gone can still do: nothing.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::call::CallState;
use bulkhead_core::digest::Digest;
use bulkhead_core::files::DeletedState;
use bulkhead_core::ports::cluster::{Cluster as _, Holder, Lease};
use bulkhead_core::ports::components::Components as _;
use bulkhead_core::ports::files::{FileRecords as _, FileStep};
use bulkhead_core::ports::store::{AcceptCall, Store, StoreError};
use bulkhead_core::quota::Extent;
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::{ToolOwner, ToolState};
use futures::future::join_all;

use super::server::postgres;
use super::{PostgresConfig, config, database, open};
use crate::contract::files::{deleted, upload};
use crate::contract::grants::grant;
use crate::contract::world::{World, accept, audit, end, event, idempotency, log, owner};
use crate::postgres::{HostConfig, PostgresStore};
use crate::proxy::{Proxy, Weather};

fn host(name: &str) -> HostConfig {
    HostConfig {
        host: name.into(),
        volume: name.into(),
        address: format!("http://{name}:1"),
        lease: Duration::from_secs(60),
        margin: Duration::from_secs(20),
        queued_grace: Duration::ZERO,
    }
}

async fn joined(url: &str, host: HostConfig) -> Arc<PostgresStore> {
    let store = open(url).await;
    store.join(host).await.unwrap();
    store
}

/// Two hosts on a new database.
async fn two() -> (String, [Arc<PostgresStore>; 2]) {
    let name = database();
    let url = postgres().socket_url(&name);
    (name, [joined(&url, host("a")).await, joined(&url, host("b")).await])
}

/// Ends a host for the others, as its being late would.
fn late(database: &str, host: &str) {
    let sql = format!("UPDATE bulkhead.hosts SET expires_at = '2000-01-01' WHERE host = '{host}' AND ended_at IS NULL");
    postgres().psql(database, &sql).unwrap();
}

fn elsewhere(host: &str) -> Option<Holder> {
    Some(Holder::Elsewhere { address: format!("http://{host}:1") })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_makes_it_holds() {
    let (_, [a, b]) = two().await;
    let world = World::new(a.clone());
    let task = world.ready_task(owner(1)).await;
    assert_eq!(a.hold(task.id).await.unwrap(), Some(Holder::Here));
    assert_eq!(b.hold(task.id).await.unwrap(), elsewhere("a"));
    assert_eq!(b.hold(world.task(owner(1), TaskState::Ready).id).await.unwrap(), None);
    // Another host writes nothing to it, and none of what it tried is there.
    let call = world.running_call(&task);
    let refused = |done: &StoreError| matches!(done, StoreError::NotHeld(id) if *id == task.id);
    assert!(refused(&b.append_events(task.id, vec![event(1)]).await.unwrap_err()));
    assert!(refused(&b.accept_call(accept(&call)).await.unwrap_err()));
    let keyed = AcceptCall { idempotency: Some(idempotency("key", "body")), ..accept(&call) };
    assert!(refused(&b.accept_call(keyed.clone()).await.unwrap_err()));
    world.accept(&call).await;
    let recorded = a.audit_chains().await.unwrap();
    assert!(refused(&b.end_call(end(&call, "theirs")).await.unwrap_err()));
    let archive = b.move_task(task.id, TaskState::Archived, None, call.created_at, vec![], Some(audit()));
    assert!(refused(&archive.await.unwrap_err()));
    // Nor to what is known of its files.
    let (file, upload) = (deleted(&world, &task, "f"), upload(&world, &task));
    let keep = |store: &Arc<PostgresStore>| {
        let (store, step) = (store.clone(), FileStep::Kept(file.id, Extent::default()));
        async move { store.change_files(task.id, step, None, vec![event(2)]).await }
    };
    assert!(!b.put_deleted(&file).await.unwrap() && !b.put_upload(&upload, 9).await.unwrap());
    assert!(a.put_deleted(&file).await.unwrap() && a.put_upload(&upload, 9).await.unwrap());
    assert!(refused(&keep(&b).await.unwrap_err()));
    let (leaving, kept) = (DeletedState::Leaving, DeletedState::Kept);
    assert!(!b.move_deleted(task.id, file.id, leaving, kept, None).await.unwrap());
    assert_eq!(a.deleted(task.id, file.id).await.unwrap().unwrap().state, leaving);
    assert_eq!(a.audit_chains().await.unwrap(), recorded);
    // Nor to what its owner grants, and takes no use of it.
    let (first, second) = (grant(&task, 1), grant(&task, 2));
    assert!(refused(&b.create_grant(&first, 9, audit()).await.unwrap_err()));
    assert!(a.create_grant(&second, 9, audit()).await.unwrap());
    assert!(!b.use_grant(second.id, second.created_at).await.unwrap());
    assert!(refused(&b.revoke_grant(task.id, second.id, second.created_at, audit()).await.unwrap_err()));
    assert!(a.use_grant(second.id, second.created_at).await.unwrap());
    assert_eq!(a.list_grants(task.id, 9).await.unwrap().len(), 1);
    // Nor to a tool that the first prepares.
    let tool = world.tool(ToolOwner::Tenant(owner(1).tenant), "t", ToolState::Compiling);
    a.create_tool(&tool, audit()).await.unwrap();
    let rejected = ToolState::Rejected { code: "no_world".into(), reason: "exports nothing".into() };
    assert!(!b.finish_tool(tool.id, &rejected).await.unwrap() && a.finish_tool(tool.id, &rejected).await.unwrap());
    assert_eq!(log(&*b, task.id).await.len(), 1);
    assert!(!a.call(owner(1), call.id).await.unwrap().unwrap().state.is_ended());
    assert_eq!(b.held_calls().await.unwrap(), []);
    assert_eq!(a.held_calls().await.unwrap().len(), 1);
    // The key was not taken by the refusal.
    let other = world.running_call(&task);
    let keyed = AcceptCall { call: Arc::new(other), ..keyed };
    assert!(matches!(a.accept_call(keyed).await.unwrap(), bulkhead_core::ports::store::Accepted::New(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_a_host_has_what_it_held() {
    let (name, [a, _]) = two().await;
    let world = World::new(a.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    // As if it had been killed: nothing is given back.
    let again = joined(&postgres().socket_url(&name), host("a")).await;
    let taken = again.take_over(9).await.unwrap();
    assert_eq!(taken.iter().map(|orphan| (orphan.call.id, orphan.reachable)).collect::<Vec<_>>(), [(call.id, true)]);
    assert_eq!(again.take_over(9).await.unwrap(), []);
    assert_eq!(again.hold(task.id).await.unwrap(), Some(Holder::Here));
    // What the dead one had under way comes too late.
    assert!(matches!(a.end_call(end(&call, "old")).await, Err(StoreError::NotHeld(_))));
    again.end_call(end(&call, "new")).await.unwrap().unwrap();
    // A task without calls is held when it is needed.
    let idle = world.ready_task(owner(1)).await;
    again.append_events(idle.id, vec![event(1)]).await.unwrap().unwrap();
    assert!(matches!(a.append_events(idle.id, vec![event(1)]).await, Err(StoreError::NotHeld(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_host_that_is_gone_are_another_hosts_to_end() {
    let (name, [a, b]) = two().await;
    let world = World::new(a.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    assert_eq!(b.take_over(9).await.unwrap(), []);
    late(&name, "a");
    let taken = b.take_over(9).await.unwrap();
    assert_eq!(taken.iter().map(|orphan| (orphan.call.id, orphan.reachable)).collect::<Vec<_>>(), [(call.id, false)]);
    assert!(matches!(a.end_call(end(&call, "late")).await, Err(StoreError::NotHeld(_))));
    b.end_call(end(&call, "lost")).await.unwrap().unwrap();
    // Its workspace is not there: nobody can run a call of it, until its host is back.
    assert_eq!(b.hold(task.id).await.unwrap(), Some(Holder::Nobody), "holding it to end its calls is not having it");
    let idle = world.ready_task(owner(2)).await;
    assert_eq!(b.hold(idle.id).await.unwrap(), Some(Holder::Nobody));
    let again = joined(&postgres().socket_url(&name), host("a")).await;
    for task in [task.id, idle.id] {
        assert_eq!(again.hold(task).await.unwrap(), Some(Holder::Here));
        assert_eq!(b.hold(task).await.unwrap(), elsewhere("a"));
    }
    assert!(matches!(b.append_events(task.id, vec![event(1)]).await, Err(StoreError::NotHeld(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_calls_wait_a_while_for_their_host() {
    let name = database();
    let url = postgres().socket_url(&name);
    let a = joined(&url, host("a")).await;
    let patient = joined(&url, HostConfig { queued_grace: Duration::from_secs(600), ..host("b") }).await;
    let impatient = joined(&url, host("c")).await;
    let world = World::new(a);
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    assert!(matches!(call.state, CallState::Queued));
    world.accept(&call).await;
    late(&name, "a");
    assert_eq!(patient.take_over(9).await.unwrap(), []);
    assert_eq!(impatient.take_over(9).await.unwrap()[0].call.id, call.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_volume_is_taken_over_by_one() {
    let name = database();
    let url = postgres().socket_url(&name);
    let on = |name: &str| HostConfig { volume: "v".into(), ..host(name) };
    let a = joined(&url, on("a")).await;
    let world = World::new(a.clone());
    let mut calls = Vec::new();
    for number in 0..20 {
        let task = world.ready_task(owner(number)).await;
        let call = world.running_call(&task);
        world.accept(&call).await;
        calls.push(call.id);
    }
    let others = join_all(["b", "c", "d"].map(|name| joined(&url, on(name)))).await;
    assert!(matches!(
        others[0].hold(world.ready_task(owner(1)).await.id).await.unwrap(),
        Some(Holder::Elsewhere { .. })
    ));
    late(&name, "a");
    // All at once, again and again: each call has one that takes it.
    let takes = others.iter().map(|host| async move {
        let mut taken = Vec::new();
        for _ in 0..10 {
            taken.extend(host.take_over(3).await.unwrap());
        }
        taken
    });
    let mut taken: Vec<_> = join_all(takes).await.into_iter().flatten().collect();
    assert!(taken.iter().all(|orphan| orphan.reachable));
    taken.sort_by_key(|orphan| orphan.call.id);
    assert_eq!(taken.into_iter().map(|orphan| orphan.call.id).collect::<Vec<_>>(), calls);
    let idle = world.ready_task(owner(1)).await;
    let holds = join_all(others.iter().map(|host| host.hold(idle.id))).await;
    let here = holds.into_iter().filter(|holder| matches!(holder, Ok(Some(Holder::Here)))).count();
    assert_eq!(here, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_half_filled_tasks_are_taken_over() {
    let (name, [a, b]) = two().await;
    let world = World::new(a.clone());
    let tool = world.tool(ToolOwner::Operator, "a", ToolState::Compiling);
    a.create_tool(&tool, audit()).await.unwrap();
    let half = world.task(owner(1), TaskState::Initializing);
    a.create_task(&half, &bulkhead_core::tool::ToolSet::new([]), vec![event(1)], audit()).await.unwrap();
    assert_eq!(b.take_over_tools(9).await.unwrap(), []);
    late(&name, "a");
    b.take_over(9).await.unwrap();
    assert_eq!(b.take_over_tools(9).await.unwrap().len(), 1);
    assert_eq!(b.take_over_tools(9).await.unwrap(), []);
    // What was filled lies with its host.
    assert_eq!(b.take_over_tasks(TaskState::Initializing, 9).await.unwrap(), []);
    let again = joined(&postgres().socket_url(&name), host("a")).await;
    assert_eq!(again.take_over_tasks(TaskState::Initializing, 9).await.unwrap()[0].id, half.id);
    assert_eq!(again.take_over_tasks(TaskState::Initializing, 9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_a_lost_volume_can_be_given_up_and_nothing_else() {
    let (name, [a, b]) = two().await;
    let world = World::new(a.clone());
    let (idle, busy) = (world.ready_task(owner(1)).await, world.ready_task(owner(2)).await);
    world.accept(&world.running_call(&busy)).await;
    let tasks_of = async |volume: &str| {
        let volumes = b.volumes().await.unwrap();
        volumes.into_iter().find(|found| found.id == volume).map(|found| (found.reached_by().is_some(), found.tasks))
    };
    assert_eq!((tasks_of("a").await, tasks_of("b").await), (Some((true, 2)), Some((true, 0))));
    assert_eq!(b.hold_lost("a", 9).await.unwrap(), [], "its host lives");
    late(&name, "a");
    assert_eq!(b.take_over(0).await.unwrap(), []);
    assert_eq!(tasks_of("a").await, Some((false, 2)));
    assert_eq!(b.hold_lost("b", 9).await.unwrap(), [], "it is this host's own");
    let lost = b.hold_lost("a", 9).await.unwrap();
    assert_eq!(lost.iter().map(|task| task.id).collect::<Vec<_>>(), [idle.id], "in the other a call is open");
    assert!(matches!(a.append_events(idle.id, vec![event(1)]).await, Err(StoreError::NotHeld(_))));
    b.bring_home("a", &[idle.id, busy.id]).await.unwrap();
    assert_eq!(b.hold(idle.id).await.unwrap(), Some(Holder::Here));
    assert_eq!(b.hold(busy.id).await.unwrap(), Some(Holder::Nobody));
    assert_eq!((tasks_of("a").await, tasks_of("b").await), (Some((false, 1)), Some((true, 1))));
    // Should it come back: what was not given up is its own still.
    let again = joined(&postgres().socket_url(&name), host("a")).await;
    assert_eq!(again.hold(idle.id).await.unwrap(), elsewhere("b"));
    assert_eq!(again.hold(busy.id).await.unwrap(), Some(Holder::Here));
    assert_eq!(b.hold_lost("a", 9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_there_for_all() {
    let (name, [a, b]) = two().await;
    let (bytes, digest) = (bytes::Bytes::from(vec![7; 3 << 20]), Digest::of(&[7; 3 << 20]));
    assert_eq!(b.get(digest).await.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    a.put(digest, bytes.clone()).await.unwrap();
    b.put(digest, bytes.clone()).await.unwrap();
    assert_eq!(b.get(digest).await.unwrap(), bytes);
    postgres().psql(&name, "UPDATE bulkhead.components SET body = 'x'").unwrap();
    assert_eq!(b.get(digest).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

/// A host by way of a proxy, with a short lease.
async fn through(proxy: &Proxy, database: &str) -> Arc<PostgresStore> {
    let short = Duration::from_millis(500);
    let config = config(&postgres().url(proxy.port(), database));
    let config = PostgresConfig { connect_timeout: short, timeout: short, breaker_failures: 1_000, ..config };
    let store = Arc::new(PostgresStore::open(config).await.unwrap());
    let lease = Duration::from_secs(3);
    store.join(HostConfig { lease, margin: lease / 3, ..host("far") }).await.unwrap();
    store
}

async fn becomes(store: &PostgresStore, wanted: Lease) {
    let mut lease = store.lease();
    tokio::time::timeout(Duration::from_secs(30), lease.wait_for(|lease| *lease == wanted)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_renew_stops_before_others_take_over() {
    let (database, proxy) = (database(), Proxy::before(postgres().port()));
    let far = through(&proxy, &database).await;
    let near = joined(&postgres().socket_url(&database), host("near")).await;
    let world = World::new(far.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.running_call(&task);
    world.accept(&call).await;
    // It renews: after a few times its lease nobody takes anything.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(near.take_over(9).await.unwrap(), []);
    proxy.set(Weather::Gone);
    becomes(&far, Lease::Lost).await;
    assert_eq!(near.take_over(9).await.unwrap(), [], "it knew before the others");
    let taken = async {
        loop {
            let taken = near.take_over(9).await.unwrap();
            if !taken.is_empty() {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let taken = tokio::time::timeout(Duration::from_secs(20), taken).await.unwrap();
    assert_eq!(taken[0].call.id, call.id);
    near.end_call(end(&call, "lost")).await.unwrap().unwrap();
    let before = far.token();
    proxy.set(Weather::Fair);
    becomes(&far, Lease::Held).await;
    assert_ne!(far.token(), before, "it is a new host to the others");
    assert!(far.end_call(end(&call, "late")).await.unwrap().is_none(), "its task is its own again, the call has ended");
    assert_eq!(far.take_over(9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_absence_of_the_database_costs_nothing() {
    let (database, proxy) = (database(), Proxy::before(postgres().port()));
    let far = through(&proxy, &database).await;
    let task = World::new(far.clone()).ready_task(owner(1)).await;
    let before = far.token();
    proxy.set(Weather::Gone);
    becomes(&far, Lease::Lost).await;
    proxy.set(Weather::Fair);
    // Nobody has ended it meanwhile: it is renewed, however late.
    becomes(&far, Lease::Held).await;
    assert_eq!(far.token(), before);
    far.append_events(task.id, vec![event(1)]).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_one_directory_are_not_both_believed() {
    let name = database();
    let url = postgres().socket_url(&name);
    let lease = Duration::from_secs(3);
    let short = HostConfig { lease, margin: lease / 3, ..host("a") };
    let one = joined(&url, short.clone()).await;
    let two = joined(&url, short).await;
    becomes(&one, Lease::Lost).await;
    tokio::time::sleep(lease).await;
    assert_eq!((*one.lease().borrow(), *two.lease().borrow()), (Lease::Lost, Lease::Held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_gives_back_at_once() {
    let (name, [a, b]) = two().await;
    let world = World::new(a.clone());
    let task = world.ready_task(owner(1)).await;
    let call = world.call(&task);
    world.accept(&call).await;
    Store::close(&*a).await;
    assert_eq!(b.take_over(9).await.unwrap()[0].call.id, call.id);
    let living = "SELECT count(*) FROM bulkhead.hosts WHERE ended_at IS NULL";
    assert_eq!(postgres().psql(&name, living).unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_writes_another_can_follow() {
    let (_, [a, b]) = two().await;
    let world = World::new(a.clone());
    let task = world.ready_task(owner(1)).await;
    a.append_events(task.id, vec![event(1), event(2)]).await.unwrap();
    assert_eq!(b.newest(&[task.id]).await.unwrap(), [(task.id, 2)]);
    assert_eq!(log(&*b, task.id).await, log(&*a, task.id).await);
}
