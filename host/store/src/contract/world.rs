//! Things for tests to store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{EventBody, NewEvent};
use bulkhead_core::grants::{Ceiling, Grants, WorkspaceAccess};
use bulkhead_core::id::{CallId, SessionId, TaskId, TenantId, ToolId, UserId};
use bulkhead_core::limits::{Limits, Usage};
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::store::{AcceptCall, Accepted, Appended, EndCall, Idempotency, Page, Store};
use bulkhead_core::principal::{By, Owner};
use bulkhead_core::session::Session;
use bulkhead_core::task::{Lifetimes, Source, Task, TaskState};
use bulkhead_core::tool::{Artifact, Manifest, PinnedTool, Tool, ToolOwner, ToolSet, ToolState};

/// The time at which all tests play, in milliseconds.
pub const NOW: i64 = 1_800_000_000_000;

/// A store, and a number for whatever needs one of its own.
#[derive(Clone)]
pub struct World {
    pub store: Arc<dyn Store>,
    next: Arc<AtomicU64>,
}

/// A time, so many milliseconds after [`NOW`].
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW + millis)
}

pub fn owner(number: u128) -> Owner {
    Owner { tenant: TenantId::from_parts(1, number), user: UserId::from_parts(1, number) }
}

pub fn page<Id>(before: Option<Id>, limit: u32) -> Page<Id> {
    Page { before, limit }
}

/// An event that says something with the number.
pub fn event(number: u64) -> NewEvent {
    let body = EventBody::CallProgress { done: number, total: None, message: Some("§ \"quoted\"\n".into()) };
    NewEvent::new(at(number as i64), None, &body)
}

pub fn succeeded(text: &str) -> Arc<Outcome> {
    let content = vec![Content::Text { text: text.into() }];
    let usage = Usage { wall_us: 7, ..Usage::default() };
    Arc::new(Outcome { ending: Ending::Succeeded { content: Some(content) }, usage })
}

pub fn ended(call: CallId) -> NewEvent {
    let body = EventBody::CallEnded { state: "succeeded".into(), content: None, fault: None, usage: Usage::default() };
    NewEvent::new(at(9), Some(call), &body)
}

pub fn end(call: &Call, text: &str) -> EndCall {
    EndCall {
        task: call.task,
        call: call.id,
        at: at(9),
        outcome: succeeded(text),
        events: vec![ended(call.id)],
        extent: None,
        audit: NewAudit::new(
            at(9),
            call.owner,
            call.task,
            call.id,
            &AuditBody::call_ended(call, &succeeded(text), None, None, None),
        ),
    }
}

/// A record that nothing is looked at but that it is there: of no tenant.
pub fn audit() -> NewAudit {
    NewAudit::of_operator(at(1), &AuditBody::CallRevoked { reason: "x".into() })
}

/// Records about a task.
pub fn of_task(task: TaskId) -> AuditFilter {
    AuditFilter { task: Some(task), ..AuditFilter::default() }
}

pub fn idempotency(key: &str, body: &str) -> Idempotency {
    Idempotency { key: key.into(), operation: "calls.create", body: Digest::of(body.as_bytes()) }
}

pub fn accept(call: &Call) -> AcceptCall {
    AcceptCall { call: Arc::new(call.clone()), idempotency: None, own_limits: true, events: vec![event(1)] }
}

pub fn ready(name: &str, description: &str) -> ToolState {
    let manifest = Manifest {
        name: name.into(),
        version: "1.0.0".into(),
        description: description.into(),
        input_schema: serde_json::json!({"type": "object", "properties": {"path": {"type": "string"}}}),
        output_schema: None,
        capabilities: vec![],
        idempotent: false,
    };
    let artifact = Artifact { key: Digest::of(b"key"), digest: Digest::of(b"artifact"), size: 4096 };
    ToolState::Ready { manifest: Arc::new(manifest), artifact }
}

impl World {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, next: Arc::new(AtomicU64::new(1)) }
    }

    /// A number that was not given before; later ones are larger.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn session(&self, owner: Owner) -> Session {
        let number = self.number();
        let id = SessionId::from_parts(NOW as u64 + number, 0);
        Session { id, owner, label: format!("session {number}"), created_at: at(number as i64) }
    }

    pub fn task(&self, owner: Owner, state: TaskState) -> Task {
        let number = self.number();
        Task {
            id: TaskId::from_parts(NOW as u64 + number, 0),
            owner,
            session: None,
            label: format!("task {number}"),
            state,
            failure: None,
            source: Source::Git { url: "https://example.org/x.git".into(), reference: None },
            tool_set: ToolSet::new([]).digest,
            limits: Limits { wall_time_ms: number, ..Limits::default() },
            ceiling: Ceiling::OPEN,
            created_at: at(number as i64),
            updated_at: at(number as i64),
            lifetimes: Lifetimes::default(),
            kept_until: None,
            last_seq: 0,
            first_seq: 1,
        }
    }

    /// A stored task, ready, without events.
    pub async fn ready_task(&self, owner: Owner) -> Task {
        let task = self.task(owner, TaskState::Ready);
        self.store.create_task(&task, &ToolSet::new([]), vec![], audit()).await.unwrap();
        task
    }

    /// A call of a task, queued.
    pub fn call(&self, task: &Task) -> Call {
        let number = self.number();
        Call {
            id: CallId::from_parts(NOW as u64 + number, 0),
            task: task.id,
            owner: task.owner,
            tool_name: "read_file".into(),
            tool: ToolId::from_parts(1, 1),
            tool_digest: Digest::of(b"tool"),
            arguments: format!(r#"{{"number":{number},"text":"ä\n\""}}"#).into(),
            state: CallState::Queued,
            limits: Limits::default(),
            grants: Grants::workspace(WorkspaceAccess::ReadWrite),
            by: By(Some("key:a".into())),
            attempts: 0,
            created_at: at(number as i64),
        }
    }

    /// A call of a task, running already when it is accepted.
    pub fn running_call(&self, task: &Task) -> Call {
        let call = self.call(task);
        Call { state: CallState::Running { since: call.created_at }, attempts: 1, ..call }
    }

    /// Stores a call.
    pub async fn accept(&self, call: &Call) -> Appended {
        match self.store.accept_call(accept(call)).await.unwrap() {
            Accepted::New(appended) => appended,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub fn tool(&self, owner: ToolOwner, content: &str, state: ToolState) -> Tool {
        let number = self.number();
        Tool {
            id: ToolId::from_parts(NOW as u64 + number, 0),
            owner,
            digest: Digest::of(content.as_bytes()),
            size: 100 + number,
            state,
            created_at: at(number as i64),
        }
    }

    /// A stored tool that is ready.
    pub async fn ready_tool(&self, owner: ToolOwner, name: &str, content: &str) -> Tool {
        let mut tool = self.tool(owner, content, ToolState::Compiling);
        assert_eq!(self.store.create_tool(&tool, audit()).await.unwrap(), None);
        tool.state = ready(name, "does something");
        assert!(self.store.finish_tool(tool.id, &tool.state).await.unwrap());
        tool
    }
}

pub fn pinned(tool: &Tool) -> PinnedTool {
    let name = tool.manifest().unwrap().name.clone();
    PinnedTool { name, id: tool.id, digest: tool.digest }
}

/// All events of a task, checked to be without a gap.
pub async fn log(store: &dyn Store, task: TaskId) -> Vec<NewEvent> {
    let page = store.events_after(task, 0, 100_000, u64::MAX).await.unwrap().unwrap();
    let numbers: Vec<_> = page.events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (page.first_seq..=page.last_seq).collect::<Vec<_>>());
    page.events.into_iter().map(|event| event.body).collect()
}

/// What a call is granted when it starts: other than when it was accepted.
pub fn grants() -> Grants {
    Grants::workspace(WorkspaceAccess::Read)
}
