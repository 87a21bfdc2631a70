//! Calls, and how they end.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState, ListedCall};
use bulkhead_core::grants::Grants;
use bulkhead_core::limits::{Limits, LimitsPatch};
use bulkhead_core::outcome::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{GrantsBody, QuestionBody, limits_schema};

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
    /// How it ended. In a list, one of more than 16 KiB of JSON is without its `content`,
    /// its fault without `details` and the end of its `message`: read the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OutcomeBody>)]
    pub outcome: Option<Arc<Outcome>>,
    /// What it may use.
    #[schema(schema_with = limits_schema)]
    pub limits: Limits,
    /// What it is granted: decided when its guest started.
    #[schema(value_type = GrantsBody)]
    pub grants: Grants,
    /// What it asks its owner, while it is `waiting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<QuestionBody>,
    /// How often its guest was started: 0 or 1; 2 if its host failed or was stopped meanwhile
    /// and the tool is idempotent.
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

/// The body of a call, or of one in a list: it has what the body needs by the same names.
macro_rules! body_of {
    ($call:expr) => {{
        let call = $call;
        let (outcome, ended_at) = match &call.state {
            CallState::Ended { outcome, at, .. } => (Some(outcome.clone()), Some(at.to_string())),
            CallState::Queued | CallState::Running { .. } | CallState::Waiting { .. } => (None, None),
        };
        CallBody {
            id: call.id.to_string(),
            task: call.task.to_string(),
            tool: call.tool_name.clone(),
            tool_digest: call.tool_digest.to_string(),
            state: call.state.name(),
            outcome,
            limits: call.limits.clone(),
            grants: call.grants.clone(),
            question: None,
            attempts: call.attempts,
            created_at: call.created_at.to_string(),
            started_at: call.state.since().map(|at| at.to_string()),
            ended_at,
        }
    }};
}

impl From<&Call> for CallBody {
    fn from(call: &Call) -> Self {
        body_of!(call)
    }
}

impl From<&ListedCall> for CallBody {
    fn from(call: &ListedCall) -> Self {
        body_of!(call)
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
    /// The JSON is the tool's text without white space: names that come twice are not made one.
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
