//! Tasks, and what makes them.

use bulkhead_core::grants::{Capability, Ceiling};
use bulkhead_core::limits::Limits;
use bulkhead_core::limits::LimitsPatch;
use bulkhead_core::task::{Lifetimes, Source, Task};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{CapabilityBody, WorkspacePartBody, limits_schema};

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
    /// The ceiling of what its calls can be granted. A kind that is absent is
    /// left to the policy and the tools.
    #[schema(value_type = CeilingBody)]
    pub capabilities: Ceiling,
    /// How long it may be without use, and live, where that is less than the server's own.
    #[serde(skip_serializing_if = "is_default")]
    #[schema(value_type = LifecycleBody)]
    pub lifecycle: Lifetimes,
    /// Until when it can be restored, if it is deleted and kept; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
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
            capabilities: task.ceiling.clone(),
            lifecycle: task.lifetimes,
            kept_until: task.kept_until.map(|until| until.to_string()),
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

/// What a task allows at most: frozen when it is made.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Ceiling` for the document")]
pub struct CeilingBody {
    /// What of the whole workspace: `none`, `read` or `read-write`.
    workspace: String,
    /// Directories of it, where more is allowed than of the whole.
    paths: Option<Vec<WorkspacePartBody>>,
    /// Patterns of requests.
    http: Option<Vec<String>>,
    /// Environment variables, by name.
    environment: Option<Vec<String>>,
    /// Secrets, by name.
    secrets: Option<Vec<String>>,
}

/// How long a task may be without use, and live, in milliseconds. What is absent is
/// left to the server, `lifecycle` in its configuration.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Lifetimes` for the document")]
pub struct LifecycleBody {
    /// Without a call, a file operation or an open stream: then it is archived.
    archive_idle_ms: Option<u64>,
    /// Archived, or failed: then it is deleted.
    delete_archived_ms: Option<u64>,
    /// Since it was made: then it is deleted, whatever it does.
    max_age_ms: Option<u64>,
}

fn is_default(lifetimes: &Lifetimes) -> bool {
    *lifetimes == Lifetimes::default()
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
    /// What its calls may ever be granted: the ceiling of the policy, of
    /// grants, and of answers. Whatever policy and tools say, if absent.
    #[schema(value_type = Option<Vec<CapabilityBody>>)]
    pub capabilities: Option<Vec<Capability>>,
    /// How long it may be without use, and live: less than the server's own.
    #[serde(default)]
    #[schema(value_type = LifecycleBody)]
    pub lifecycle: Lifetimes,
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
