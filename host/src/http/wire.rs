//! Wire types: what clients send and get, with their schemas.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState};
use bulkhead_core::event::Event;
use bulkhead_core::key::KeyRecord;
use bulkhead_core::limits::{Limits, LimitsPatch};
use bulkhead_core::outcome::Outcome;
use bulkhead_core::ports::workspace::{Entry, EntryKind};
use bulkhead_core::session::Session;
use bulkhead_core::task::{Source, Task};
use bulkhead_core::tool::{PinnedTool, Tool, ToolOwner, ToolState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{IntoParams, ToSchema};

/// Most things on one page.
pub const MAX_PAGE: u32 = 200;

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionBody {
    /// `ses_…`
    #[schema(value_type = String, examples("ses_01jd8n2m4v0000000000000000"))]
    pub id: String,
    /// A name for people.
    pub label: String,
    /// RFC 3339, UTC.
    pub created_at: String,
}

impl From<&Session> for SessionBody {
    fn from(session: &Session) -> Self {
        Self { id: session.id.to_string(), label: session.label.clone(), created_at: session.created_at.to_string() }
    }
}

/// What makes a session.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// A name for people; at most 200 bytes.
    #[serde(default)]
    pub label: String,
}

/// A page of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items<T> {
    /// The things.
    pub items: Vec<T>,
    /// Pass it as `before` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_before: Option<String>,
}

impl<T> Items<T> {
    /// A page of at most `limit` of the things that were fetched (one more than that, if there are).
    pub fn page<D>(mut fetched: Vec<D>, limit: u32, id: impl Fn(&D) -> String) -> Self
    where
        T: for<'a> From<&'a D>,
    {
        let more = fetched.len() > limit as usize;
        fetched.truncate(limit as usize);
        let next_before = if more { fetched.last().map(&id) } else { None };
        Self { items: fetched.iter().map(T::from).collect(), next_before }
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Only things made before the one with this id.
    pub before: Option<String>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskBody {
    /// `task_…`
    pub id: String,
    /// The session it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// A name for people.
    pub label: String,
    /// `initializing`, `ready`, `archived`, `failed` or `deleted`.
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What its workspace was filled with.
    #[schema(value_type = SourceBody)]
    pub source: Source,
    /// The ceiling of its calls' limits.
    #[schema(schema_with = limits_schema)]
    pub limits: Limits,
    /// Number of its last event; 0 if there is none.
    pub last_event: u64,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC; when its state last changed.
    pub updated_at: String,
}

impl From<&Task> for TaskBody {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.to_string(),
            session: task.session.map(|id| id.to_string()),
            label: task.label.clone(),
            state: task.state.as_str(),
            failure: task.failure.clone(),
            source: task.source.clone(),
            limits: task.limits.clone(),
            last_event: task.last_seq,
            created_at: task.created_at.to_string(),
            updated_at: task.updated_at.to_string(),
        }
    }
}

/// What a workspace is filled with at first.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceBody {
    /// Nothing.
    #[default]
    Empty,
    /// A git repository: a shallow clone without its `.git` directory.
    Git {
        /// `https://…`, or a path below a local root that the operator configured.
        url: String,
        /// Branch, tag or full commit id; the remote's default if absent.
        reference: Option<String>,
    },
    /// A tar archive; sent to `/v1/tasks/archive`, not named here.
    Archive,
}

/// What makes a task.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTaskBody {
    /// The session it belongs to.
    pub session: Option<String>,
    /// A name for people; at most 200 bytes.
    #[serde(default)]
    pub label: String,
    /// What its workspace is filled with.
    #[serde(default)]
    pub source: SourceBody,
    /// Names of tools to pin; every ready tool, if absent.
    pub tools: Option<Vec<String>>,
    /// Limits to be narrowed for every call of the task.
    #[serde(default)]
    #[schema(schema_with = limits_schema)]
    pub limits: LimitsPatch,
}

/// The query of a task made from an archive.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ArchiveQuery {
    /// The session it belongs to.
    pub session: Option<String>,
    /// A name for people.
    #[serde(default)]
    pub label: String,
    /// Names of tools to pin, separated by commas.
    pub tools: Option<String>,
}

/// A tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolBody {
    /// `tool_…`
    pub id: String,
    /// `operator` or `tenant`.
    pub owner: &'static str,
    /// Digest of the component.
    #[schema(examples("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"))]
    pub digest: String,
    /// Size of the component, in bytes.
    pub size: u64,
    /// `compiling`, `ready` or `rejected`.
    pub state: &'static str,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// What it says of itself, once ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ManifestBody>)]
    pub manifest: Option<Arc<bulkhead_core::tool::Manifest>>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// Why a component can't become a tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rejection {
    /// Stable, machine readable.
    pub code: String,
    /// What is missing or wrong.
    pub reason: String,
}

/// What a tool says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Manifest` for the document")]
pub struct ManifestBody {
    name: String,
    version: String,
    description: String,
    /// JSON Schema of the arguments.
    #[schema(value_type = Object)]
    input_schema: (),
    /// JSON Schema of the `json` part of a result.
    #[schema(value_type = Option<Object>)]
    output_schema: (),
    /// The ceiling of what the tool will ever use.
    #[schema(value_type = Vec<Object>)]
    capabilities: (),
    /// Whether running a call twice has the effect of running it once.
    idempotent: bool,
}

impl From<&Tool> for ToolBody {
    fn from(tool: &Tool) -> Self {
        let rejection = match &tool.state {
            ToolState::Rejected { code, reason } => Some(Rejection { code: code.clone(), reason: reason.clone() }),
            ToolState::Compiling | ToolState::Ready { .. } => None,
        };
        Self {
            id: tool.id.to_string(),
            owner: match tool.owner {
                ToolOwner::Operator => "operator",
                ToolOwner::Tenant(_) => "tenant",
            },
            digest: tool.digest.to_string(),
            size: tool.size,
            state: tool.state.name(),
            rejection,
            manifest: tool.manifest().cloned(),
            created_at: tool.created_at.to_string(),
        }
    }
}

/// A tool as a task pins it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PinnedToolBody {
    /// The name it is called by.
    pub name: String,
    /// `tool_…`
    pub id: String,
    /// Digest of the component.
    pub digest: String,
}

impl From<&PinnedTool> for PinnedToolBody {
    fn from(tool: &PinnedTool) -> Self {
        Self { name: tool.name.clone(), id: tool.id.to_string(), digest: tool.digest.to_string() }
    }
}

/// What makes a call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCallBody<'a> {
    /// The tool's name in the task.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub tool: std::borrow::Cow<'a, str>,
    /// The arguments: an object that fits the tool's input schema.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub arguments: &'a RawValue,
    /// Limits to be narrowed for this call.
    #[serde(default)]
    #[schema(schema_with = limits_schema)]
    pub limits: LimitsPatch,
}

/// How long to wait for the end of a call.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Seconds to wait for the end: 0 to the server's maximum. A call that
    /// has not ended by then goes on; nothing cancels it.
    pub wait: Option<f64>,
}

/// A call.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallBody {
    /// `call_…`
    pub id: String,
    /// The task it runs in.
    pub task: String,
    /// The name of the tool.
    pub tool: String,
    /// Digest of the tool's component.
    pub tool_digest: String,
    /// `queued`, `running`, `waiting`, `succeeded`, `failed`, `timed_out`, `cancelled` or `interrupted`.
    pub state: &'static str,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OutcomeBody>)]
    pub outcome: Option<Arc<Outcome>>,
    /// What it may use.
    #[schema(schema_with = limits_schema)]
    pub limits: Limits,
    /// How often its guest was started: 0 or 1.
    pub attempts: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC; when its guest started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// RFC 3339, UTC; when it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

impl From<&Call> for CallBody {
    fn from(call: &Call) -> Self {
        let (outcome, ended_at) = match &call.state {
            CallState::Ended { outcome, at, .. } => (Some(outcome.clone()), Some(at.to_string())),
            CallState::Queued | CallState::Running { .. } | CallState::Waiting { .. } => (None, None),
        };
        Self {
            id: call.id.to_string(),
            task: call.task.to_string(),
            tool: call.tool_name.clone(),
            tool_digest: call.tool_digest.to_string(),
            state: call.state.name(),
            outcome,
            limits: call.limits.clone(),
            attempts: call.attempts,
            created_at: call.created_at.to_string(),
            started_at: call.state.since().map(|at| at.to_string()),
            ended_at,
        }
    }
}

/// How a call ended, with its measured use.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Outcome` for the document")]
pub struct OutcomeBody {
    /// `succeeded`, `failed`, `timed_out`, `cancelled` or `interrupted`.
    state: String,
    /// The parts of the result, if it succeeded: `{"type":"text","text":…}`,
    /// `{"type":"json","json":…}` or `{"type":"blob","media_type":…,"data":base 64}`.
    #[schema(value_type = Option<Vec<Object>>)]
    content: (),
    /// Why it did not succeed.
    fault: Option<FaultBody>,
    /// What was used.
    usage: UsageBody,
}

/// Why a call did not succeed.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Fault` for the document")]
pub struct FaultBody {
    /// Stable: `limit.…`, `trap`, `exit`, `cancelled`, `worker_died`, … or `tool.…` with the tool's own code.
    code: String,
    /// What went wrong and what to do about it.
    message: String,
    /// Whether the same call may succeed later without a change.
    retryable: bool,
    /// The limit that was reached: its name, value and unit.
    #[schema(value_type = Option<Object>)]
    limit: (),
    /// Details of the tool's own.
    #[schema(value_type = Option<Object>)]
    details: (),
}

/// What a call used.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Usage` for the document")]
pub struct UsageBody {
    wall_us: u64,
    cpu_us: u64,
    peak_memory_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
    output_bytes: u64,
}

/// An event of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBody<'a> {
    /// Its number in the task, from 1 without gaps.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// `task.created`, `task.ready`, `task.failed`, `task.archived`, `task.deleted`, `call.queued`,
    /// `call.started`, `call.output`, `call.content`, `call.truncated`, `call.progress`, `call.log`,
    /// `files.changed` or `call.ended`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The call it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// What its type says.
    #[schema(value_type = Object)]
    pub data: &'a RawValue,
}

impl<'a> EventBody<'a> {
    /// The wire form of an event; `None` if its data is not JSON.
    pub fn of(event: &'a Event) -> Option<Self> {
        Some(Self {
            seq: event.seq,
            at: event.body.at.to_string(),
            kind: &event.body.kind,
            call: event.body.call.map(|id| id.to_string()),
            data: serde_json::from_str(&event.body.data).ok()?,
        })
    }
}

/// An entry of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryBody {
    /// Path in the workspace. Bytes that are not UTF-8, control characters and `%` stand as `%XX`.
    pub path: String,
    /// `file`, `directory`, `symlink` (never followed) or `other` (never opened).
    #[schema(value_type = String)]
    pub kind: EntryKind,
    /// Size, in bytes; 0 for a directory.
    pub size: u64,
    /// RFC 3339, UTC; when its content last changed.
    pub modified_at: String,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Where a symbolic link points, as it stands in the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The URL path of its content (a file) or of its entries (a directory).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
}

/// A directory with a page of its entries, or another entry alone.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryPage {
    /// What the path names.
    pub entry: EntryBody,
    /// The entries of a directory, sorted by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<EntryBody>>,
    /// Pass it as `after` to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

impl EntryBody {
    /// The wire form of an entry of `task`.
    pub fn of(task: &str, entry: &Entry) -> Self {
        let place = match entry.kind {
            EntryKind::File => Some("files"),
            EntryKind::Directory => Some("entries"),
            EntryKind::Symlink | EntryKind::Other => None,
        };
        let encoded = url_path(entry.path.as_bytes());
        Self {
            path: entry.path.to_text(),
            kind: entry.kind,
            size: entry.size,
            modified_at: entry.modified_at.to_string(),
            executable: entry.executable,
            target: entry.target.as_deref().map(bulkhead_core::path::display),
            href: place.map(|place| format!("/v1/tasks/{task}/{place}/{encoded}")),
        }
    }
}

/// A path as it stands in a URL.
pub fn url_path(path: &[u8]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encode(path, KEPT).to_string()
}

/// What moves an entry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// Its path; `%XX` for bytes that are not text.
    pub from: String,
    /// Its new path.
    pub to: String,
    /// Whether something that is there may be replaced.
    #[serde(default)]
    pub replace: bool,
}

/// What makes a directory.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryBody {
    /// Its path; `%XX` for bytes that are not text. Parents are made.
    pub path: String,
}

/// What the caller's key may do.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhoAmI {
    /// `ten_…`
    pub tenant: String,
    /// `usr_…`
    pub user: String,
    /// Scopes of the key.
    pub scopes: Vec<&'static str>,
}

/// A key, without its secret.
#[derive(Debug, Serialize)]
pub struct KeyBody {
    /// The public id.
    pub id: String,
    /// A name for people.
    pub label: String,
    /// What it may do.
    pub scopes: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The user it belongs to.
    pub user: String,
    /// When it was made.
    pub created_at: String,
    /// From when on it is refused.
    pub expires_at: Option<String>,
    /// Since when it is revoked.
    pub revoked_at: Option<String>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<String>,
}

impl From<&KeyRecord> for KeyBody {
    fn from(key: &KeyRecord) -> Self {
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            scopes: key.scopes.to_string(),
            tenant: key.owner.tenant.to_string(),
            user: key.owner.user.to_string(),
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            revoked_at: key.revoked_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
        }
    }
}

/// The schema of limits, made from their table.
pub fn limits_schema() -> RefOr<Schema> {
    let object = Limits::SPECS.iter().fold(ObjectBuilder::new(), |object, spec| {
        let field = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(0))
            .maximum(Some(spec.max as i64))
            .description(Some(format!("In {}; {} by default. {}", spec.unit, spec.default, spec.reason)));
        object.property(spec.name, field)
    });
    RefOr::T(Schema::Object(object.build()))
}
