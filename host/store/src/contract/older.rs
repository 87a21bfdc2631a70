//! What a database has in it that an earlier version of this program made: the rows
//! that there were then, of each kind, and that all of it is there afterwards and goes on.

use std::sync::Arc;

use bulkhead_core::audit::verify::verify;
use bulkhead_core::call::Call;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::NewEvent;
use bulkhead_core::files::{Access, AccessKind, DeletedFile, HistoryEntry, Upload};
use bulkhead_core::grants::{Capability, Grant};
use bulkhead_core::id::{GrantId, TaskId, UploadId};
use bulkhead_core::key::KeyRecord;
use bulkhead_core::ports::files::FileStep;
use bulkhead_core::ports::store::{AcceptCall, Accepted, Idempotency, Store};
use bulkhead_core::principal::{By, Credential};
use bulkhead_core::quota::Extent;
use bulkhead_core::session::Session;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::ticket::TicketRecord;
use bulkhead_core::tool::{Tool, ToolOwner};

use super::files::{access, deleted, sent, upload};
use super::keys::record;
use super::world::{World, accept, at, audit, end, event, log, owner, page};

/// Tables whose rows are of no version but their own: they are made anew, or (the audit
/// log) tested by themselves.
pub(crate) const LEFT_OUT: [&str; 6] =
    ["_sqlx_migrations", "about", "audit", "audit_heads", "audit_unchained", "hosts"];

/// What was stored.
pub(crate) struct Filled {
    tasks: Vec<(Task, Vec<Call>, Vec<NewEvent>)>,
    running: Call,
    upload: UploadId,
    files: Files,
    keys: Vec<KeyRecord>,
    grants: Vec<Grant>,
    session: Session,
    tools: Vec<Tool>,
}

/// What is known of the files of the first task.
#[derive(Clone, Debug, Default, PartialEq)]
struct Files {
    history: Vec<HistoryEntry>,
    deleted: Vec<DeletedFile>,
    upload: Option<Upload>,
    accesses: Vec<Access>,
}

async fn files(store: &dyn Store, task: TaskId, upload: UploadId) -> Files {
    Files {
        history: store.file_history(task, super::files::all()).await.unwrap(),
        deleted: store.list_deleted(task, page(None, 9)).await.unwrap(),
        upload: store.upload(task, upload).await.unwrap(),
        accesses: store.list_accesses(task, None, page(None, 9)).await.unwrap(),
    }
}

/// Stores something of each kind that is known of files. Gives the upload.
async fn fill_files(store: &dyn Store, world: &World, task: &Task) -> UploadId {
    store.append_events(task.id, vec![sent(task, 2, &["a", "b"], b"one")]).await.unwrap();
    let gone = deleted(world, task, "d");
    assert!(store.put_deleted(&gone).await.unwrap());
    let extent = Extent { bytes: 5, entries: 2 };
    let kept = FileStep::Kept(gone.id, extent);
    store.change_files(task.id, kept, Some(extent), vec![sent(task, 3, &["d"], b"")]).await.unwrap().unwrap();
    let upload = upload(world, task);
    assert!(store.put_upload(&upload, 2).await.unwrap());
    store.append_accesses(&[access(1, task, AccessKind::Read), access(2, task, AccessKind::Write)]).await.unwrap();
    upload.id
}

fn ticket(task: &Task) -> TicketRecord {
    let (hash, credential) = (Digest::of(b"a ticket"), Credential::None);
    TicketRecord { hash, owner: task.owner, credential, task: task.id, expires_at: at(60_000) }
}

/// Stores something of each kind.
pub(crate) async fn fill(store: Arc<dyn Store>) -> Filled {
    let world = World::new(store.clone());
    store.ensure_owner(owner(1), at(0)).await.unwrap();
    let session = world.session(owner(1));
    store.create_session(&session).await.unwrap();
    store.create_key(&record(1), audit()).await.unwrap();
    store.create_key(&record(2), audit()).await.unwrap();
    store.revoke_key(&record(1).id, at(5), audit()).await.unwrap();
    world.ready_tool(ToolOwner::Operator, "echo", "one").await;
    world.ready_tool(ToolOwner::Tenant(owner(1).tenant), "own", "two").await;
    let (one, two) = (world.ready_task(owner(1)).await, world.ready_task(owner(2)).await);
    store.append_events(one.id, (0..50).map(event).collect()).await.unwrap();
    let upload = fill_files(&*store, &world, &one).await;
    assert!(store.create_ticket(&ticket(&one), 9, at(0), audit()).await.unwrap());
    // Earlier versions did not know who asked for a call.
    let running_call = || Call { by: By::HOST, ..world.running_call(&one) };
    let (short, long, running) = (running_call(), running_call(), running_call());
    for call in [&short, &long] {
        world.accept(call).await;
    }
    store.accept_call(keyed(&running)).await.unwrap();
    store.end_call(end(&short, "short")).await.unwrap().unwrap();
    store.end_call(end(&long, &"a long result, ".repeat(2_000))).await.unwrap().unwrap();
    store.move_task(two.id, TaskState::Archived, None, at(7), vec![event(1)], None).await.unwrap().unwrap();
    let grant = Grant {
        id: GrantId::from_parts(1, 1),
        task: one.id,
        owner: one.owner,
        capability: Capability::Environment("LANG".into()),
        expires_at: Some(at(1_000)),
        uses_left: Some(3),
        created_at: at(3),
        revoked_at: None,
    };
    assert!(store.create_grant(&grant, 9, audit()).await.unwrap());
    seen(&*store, &[one, two], running, upload, session).await
}

/// The same call again is the same.
fn keyed(call: &Call) -> AcceptCall {
    let idempotency = Idempotency { key: "k".into(), operation: "calls.create", body: Digest::of(b"body") };
    AcceptCall { idempotency: Some(idempotency), ..accept(call) }
}

async fn seen(store: &dyn Store, tasks: &[Task], running: Call, upload: UploadId, session: Session) -> Filled {
    let mut all = Vec::new();
    for task in tasks {
        let mut calls = Vec::new();
        // Lists leave out what is long.
        for listed in store.list_calls(task.id, page(None, 99)).await.unwrap() {
            calls.push(store.call(task.owner, listed.id).await.unwrap().unwrap());
        }
        all.push((store.task(task.owner, task.id).await.unwrap().unwrap(), calls, log(store, task.id).await));
    }
    Filled {
        tasks: all,
        running,
        upload,
        files: files(store, tasks[0].id, upload).await,
        keys: store.list_keys().await.unwrap(),
        grants: store.list_grants(tasks[0].id, 9).await.unwrap(),
        session,
        tools: store.list_tools(owner(1).tenant, page(None, 9)).await.unwrap(),
    }
}

/// All of it is there, and what was under way goes on. Of what that version had no table for,
/// there is nothing.
pub(crate) async fn check(store: Arc<dyn Store>, filled: &Filled, tables: &[String]) {
    let has = |name: &str| tables.iter().any(|table| table == name);
    let with_grants = has("grants");
    let tasks: Vec<_> = filled.tasks.iter().map(|(task, ..)| task.clone()).collect();
    let now = seen(&*store, &tasks, filled.running.clone(), filled.upload, filled.session.clone()).await;
    assert_eq!(now.tasks, filled.tasks);
    assert_eq!((&now.keys, &now.tools), (&filled.keys, &filled.tools));
    assert_eq!(now.grants, if with_grants { filled.grants.clone() } else { Vec::new() });
    assert_eq!(now.files, if has("file_changes") { filled.files.clone() } else { Files::default() });
    assert!(filled.files.upload.is_some() && filled.files.deleted.len() == 1 && filled.files.history.len() == 3);
    let taken = store.take_ticket(ticket(&tasks[0]).hash, tasks[0].id, at(1)).await.unwrap();
    assert_eq!(taken.map(|(owner, _)| owner), has("tickets").then_some(owner(1)));
    let world = World::new(store.clone());
    let again = store.accept_call(keyed(&world.running_call(&tasks[0]))).await.unwrap();
    assert!(matches!(again, Accepted::Replayed(id) if id == filled.running.id), "{again:?}");
    assert_eq!(store.session(owner(1), filled.session.id).await.unwrap().as_ref(), Some(&filled.session));
    assert_eq!(store.first_owner().await.unwrap(), Some(owner(1)));
    assert_eq!(store.open_calls().await.unwrap(), std::slice::from_ref(&filled.running));

    let task = &tasks[0];
    let ended = store.end_call(end(&filled.running, "at last")).await.unwrap().expect("it was running");
    assert_eq!(ended.first, task.last_seq + 1, "its log goes on where it was");
    // Later than all that are there.
    while world.number() < 1_000 {}
    let call = world.running_call(task);
    world.accept(&call).await;
    store.end_call(end(&call, "more")).await.unwrap().unwrap();
    assert_eq!(store.use_grant(filled.grants[0].id, at(9)).await.unwrap(), with_grants);
    store.move_task(tasks[1].id, TaskState::Ready, None, at(9), vec![], None).await.unwrap().unwrap();
    assert_eq!(store.list_calls(task.id, page(None, 99)).await.unwrap().len(), filled.tasks[0].1.len() + 1);
    for state in store.audit_chains().await.unwrap() {
        let stored = store.chained_audit(&state.chain, 0, 1_000).await.unwrap();
        assert!(verify(&state, &stored, vec![]).is_ok(), "{state:?}");
    }
}
