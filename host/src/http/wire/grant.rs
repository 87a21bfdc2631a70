//! Grants, questions and explanations.

use bulkhead_core::dispatch::Question;
use bulkhead_core::grants::{Capability, Grant};
use bulkhead_core::policy::Explained;
use bulkhead_core::service::grants::Explanation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A capability: `{"kind": "http", "value": "GET https://api.example.com/v1/*"}`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
#[allow(dead_code, reason = "describes the JSON of core's `Capability` for the document")]
pub enum CapabilityBody {
    /// The task's workspace: `none`, `read` or `read-write`; or a directory of
    /// it with all that it holds: `read-write:out`.
    Workspace(String),
    /// Outgoing HTTP: `[METHOD[,METHOD] ][scheme://]host[:port][/path]`, with
    /// `*` for any host or port, `*.` before a name, or `*` at a path's end.
    Http(String),
    /// One environment variable, by name.
    Environment(String),
    /// One secret, by name.
    Secret(String),
}

/// What makes a grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGrantBody {
    /// What is granted, within what the task allows.
    #[schema(value_type = CapabilityBody)]
    pub capability: Capability,
    /// How long it holds, in seconds; as long as the task if absent.
    pub expires_in_s: Option<u64>,
    /// How often it can be used: once a call, for HTTP once a request. As
    /// often as wanted if absent.
    pub uses: Option<u32>,
}

/// A grant.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantBody {
    /// `grant_…`
    pub id: String,
    /// The task it holds in.
    pub task: String,
    /// What is granted.
    #[schema(value_type = CapabilityBody)]
    pub capability: Capability,
    /// RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How often it can be used still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC; when it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

impl From<&Grant> for GrantBody {
    fn from(grant: &Grant) -> Self {
        Self {
            id: grant.id.to_string(),
            task: grant.task.to_string(),
            capability: grant.capability.clone(),
            expires_at: grant.expires_at.map(|at| at.to_string()),
            uses_left: grant.uses_left,
            created_at: grant.created_at.to_string(),
            revoked_at: grant.revoked_at.map(|at| at.to_string()),
        }
    }
}

/// Calls that were ended because a grant was taken back.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevokedBody {
    /// How many.
    pub ended_calls: u32,
}

/// An answer to a question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerBody {
    /// The question.
    pub question: String,
    /// Yes or no.
    pub allow: bool,
    /// Makes a grant of a yes, for the rest of the task; else it holds for
    /// this call.
    pub grant: Option<AnswerGrantBody>,
}

/// The grant that a yes becomes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerGrantBody {
    /// What is granted; what was asked if absent.
    #[schema(value_type = Option<CapabilityBody>)]
    pub capability: Option<Capability>,
    /// How long it holds, in seconds.
    pub expires_in_s: Option<u64>,
    /// How often it can be used.
    pub uses: Option<u32>,
}

/// What a waiting call asks its owner.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuestionBody {
    /// `question_…`; answered with `POST /v1/calls/{call}/answers`.
    pub id: String,
    /// What the call would get.
    #[schema(value_type = CapabilityBody)]
    pub capability: Capability,
    /// The rule of the policy that wants it asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// RFC 3339, UTC; then the answer is no.
    pub until: String,
}

impl From<Question> for QuestionBody {
    fn from(question: Question) -> Self {
        Self {
            id: question.id.to_string(),
            capability: question.capability,
            rule: question.rule.map(|rule| rule.to_string()),
            until: question.until.to_string(),
        }
    }
}

/// A directory of a workspace, with all that it holds.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `WorkspacePart` for the document")]
pub struct WorkspacePartBody {
    /// Its path, without `/` at either end.
    path: String,
    /// `read` or `read-write`.
    access: String,
}

/// What a call is granted: decided when its guest started.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Grants` for the document")]
pub struct GrantsBody {
    /// What of the whole workspace: `none`, `read` or `read-write`.
    workspace: String,
    /// Directories of it, where more is granted than of the whole.
    paths: Option<Vec<WorkspacePartBody>>,
    /// Requests with what becomes of them; the first that matches decides,
    /// what none matches is refused.
    #[schema(value_type = Option<Vec<Object>>)]
    http: (),
    /// Environment variables, by name.
    environment: Option<Vec<String>>,
    /// Secrets, by name.
    secrets: Option<Vec<String>>,
    /// What the owner is asked for before it starts.
    #[schema(value_type = Option<Vec<Object>>)]
    asks: (),
    /// The policy that decided, if there is one.
    policy: Option<String>,
}

/// What the policy in force makes of a tool's wishes in a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplanationBody {
    /// The policy's revision; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// One entry for each capability that the tool wants: `wanted`, and
    /// `decisions` with `what`, `mode`, `rule` and `because`; the first that
    /// fits decides.
    #[schema(value_type = Vec<Object>)]
    pub capabilities: Vec<Explained>,
}

impl From<Explanation> for ExplanationBody {
    fn from(explanation: Explanation) -> Self {
        let policy = explanation.policy.map(|policy| policy.to_string());
        Self { policy, capabilities: explanation.capabilities }
    }
}
