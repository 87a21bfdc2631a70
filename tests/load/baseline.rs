//! What the figures are compared with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::routing::post;
use axum::serve::ListenerExt as _;
use bulkhead_core::audit::{AuditBody, NewAudit};
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::{Clock as _, NewId as _};
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{EventBody, NewEvent};
use bulkhead_core::grants::{Ceiling, Grants, WorkspaceAccess};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::store::{AcceptCall, EndCall, Store as _};
use bulkhead_core::principal::{By, Owner};
use bulkhead_core::task::{Source, Task, TaskState};
use bulkhead_core::tool::ToolSet;
use bulkhead_store::{SqliteConfig, SqliteStore, Synchronous};

pub struct Bare {
    pub address: String,
    pub request: Vec<u8>,
}

/// A handler that reads a call's body and answers with a call's size, and
/// does nothing else. It lives until the benchmark ends.
pub fn bare_handler() -> Bare {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let answer = "x".repeat(900);
            let handler = post(async move |body: axum::Json<serde_json::Value>| format!("{}{answer}", body["tool"]));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap().to_string()).unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            axum::serve(listener, axum::Router::new().route("/", handler)).await.unwrap();
        });
    });
    let address = receive.recv().unwrap();
    let body = r#"{"tool":"echo","arguments":{"text":"hello"}}"#;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Bare { address, request: request.into_bytes() }
}

/// The median time of the two commits of a call, one after the other, without
/// anything around them.
pub fn commits(full: bool, rounds: usize) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let directory = tempfile::tempdir().unwrap();
        let synchronous = if full { Synchronous::Full } else { Synchronous::Off };
        let config = SqliteConfig { synchronous, ..SqliteConfig::new(directory.path().join("db")) };
        let store = SqliteStore::open(config).await.unwrap();
        let ids = bulkhead::system::System;
        let owner = Owner { tenant: ids.tenant_id(), user: ids.user_id() };
        store.ensure_owner(owner, ids.now()).await.unwrap();
        let tools = ToolSet::new([]);
        let task = task(owner, &tools);
        store.create_task(&task, &tools, Vec::new(), made(&task)).await.unwrap();
        let mut times = Vec::new();
        for _ in 0..rounds {
            let (accept, end) = call(&task);
            let begun = Instant::now();
            store.accept_call(accept).await.unwrap();
            store.end_call(end).await.unwrap();
            times.push(begun.elapsed());
        }
        store.close().await;
        times.sort();
        times[times.len() / 2]
    })
}

fn task(owner: Owner, tools: &ToolSet) -> Task {
    let ids = bulkhead::system::System;
    let now = ids.now();
    Task {
        id: ids.task_id(),
        owner,
        session: None,
        label: String::new(),
        state: TaskState::Ready,
        failure: None,
        source: Source::Empty,
        tool_set: tools.digest,
        limits: Limits::default(),
        ceiling: Ceiling::OPEN,
        created_at: now,
        updated_at: now,
        lifetimes: Default::default(),
        kept_until: None,
        last_seq: 0,
        first_seq: 1,
    }
}

fn made(task: &Task) -> NewAudit {
    NewAudit::new(task.created_at, task.owner, task.id, None, &AuditBody::TaskArchived { reason: None })
}

fn call(task: &Task) -> (AcceptCall, EndCall) {
    let ids = bulkhead::system::System;
    let (id, at) = (ids.call_id(), ids.now());
    let call = Call {
        id,
        task: task.id,
        owner: task.owner,
        by: By(Some("key:0123456789ab".into())),
        tool_name: "echo".into(),
        tool: ids.tool_id(),
        tool_digest: Digest::of(b""),
        arguments: r#"{"text":"hello"}"#.into(),
        state: CallState::Running { since: at },
        limits: Limits::default(),
        grants: Grants::workspace(WorkspaceAccess::ReadWrite),
        attempts: 1,
        created_at: at,
    };
    let content = vec![Content::Text { text: "hello".into() }];
    let outcome = Outcome::without_use(Ending::Succeeded { content: Some(content.clone()) });
    let started = EventBody::CallStarted { tool: "echo".into() };
    let ended = EventBody::CallEnded {
        state: "succeeded".into(),
        content: Some(content),
        fault: None,
        usage: outcome.usage.clone(),
    };
    let event = |body: &EventBody| vec![NewEvent::new(at, Some(id), body)];
    let audit = NewAudit::new(
        at,
        task.owner,
        task.id,
        id,
        &AuditBody::call_ended(&call, &outcome, Some(&task.limits), None, None),
    );
    let outcome = Arc::new(outcome);
    (
        AcceptCall { call: Arc::new(call), idempotency: None, own_limits: false, events: event(&started) },
        EndCall { task: task.id, call: id, at, outcome, events: event(&ended), extent: None, audit },
    )
}
