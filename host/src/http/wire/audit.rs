//! Audit records.

use bulkhead_core::audit::{Audit, AuditFilter, AuditPage};
use bulkhead_core::clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::super::problem::Problem;

/// Which audit records of a task.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskAuditQuery {
    /// Only records with a larger number.
    pub after: Option<u64>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
}

/// Which audit records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only records with a larger number.
    pub after: Option<u64>,
    /// At most this many: 1 to 200, 50 if absent.
    pub limit: Option<u32>,
    /// Only records about this task; it may be deleted.
    pub task: Option<String>,
    /// Only records of this kind.
    pub kind: Option<String>,
    /// Only records not older than this: RFC 3339.
    #[param(value_type = Option<String>)]
    pub since: Option<Timestamp>,
    /// Only records older than this: RFC 3339.
    #[param(value_type = Option<String>)]
    pub until: Option<Timestamp>,
}

impl AuditQuery {
    /// What is wanted.
    ///
    /// # Errors
    /// If `task` is no id.
    pub fn filter(&self) -> Result<AuditFilter, Problem> {
        let no_id = |_| Problem::new("invalid_request", "`task` is not an id").with("field", "task");
        let task = self.task.as_deref().map(str::parse).transpose().map_err(no_id)?;
        Ok(AuditFilter {
            task,
            kind: self.kind.clone(),
            since: self.since,
            until: self.until,
            ..AuditFilter::default()
        })
    }
}

/// Audit records, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPageBody {
    /// The records.
    pub items: Vec<AuditRecordBody>,
    /// Pass it as `after` to go on; absent if there are no more for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

impl From<&AuditPage> for AuditPageBody {
    fn from(page: &AuditPage) -> Self {
        Self { items: page.records.iter().map(AuditRecordBody::from).collect(), next_after: page.next_after }
    }
}

/// An audit record.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditRecordBody {
    /// Its number in the tenant's log: later records have larger numbers. Between two may be
    /// records of the tenant's other users.
    pub number: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// The task, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The call, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// `access.refused`, `access.would_refuse`, `admin.accessed`, `call.ended`, `call.revoked`,
    /// `capability.decided`, `grant.given`, `grant.revoked`, `http.decided`, `http.refused`, `key.created`,
    /// `key.revoked`, `key.rotated`, `question.answered`, `question.asked`, `task.archived`,
    /// `task.created`, `task.deleted`, `task.deleting`, `task.restored`, `task.workspace_lost`,
    /// `ticket.given`, `tool.deleted`, `tool.registered`, `volume.retired` or `workspace.opened`.
    pub kind: String,
    /// What was done or decided, and by which rule.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

impl From<&Audit> for AuditRecordBody {
    fn from(audit: &Audit) -> Self {
        let record = &audit.record;
        // It was JSON when it was stored.
        let data = RawValue::from_string(record.data.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self {
            number: audit.number,
            at: record.at.to_string(),
            task: record.task.map(|task| task.to_string()),
            call: record.call.map(|call| call.to_string()),
            kind: record.kind.clone(),
            data,
        }
    }
}
