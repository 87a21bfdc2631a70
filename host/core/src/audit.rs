//! The audit log: what was decided about capabilities, by which rule, for
//! whom. Append-only and apart from a task's events: those tell what happened,
//! these why it was allowed. What can't be written down is not allowed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::grants::{Capability, Mode, SubPath, WorkspaceAccess};
use crate::id::{CallId, GrantId, QuestionId, TaskId, TenantId, UserId};
use crate::principal::Owner;

/// How something was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it was allowed.
    pub allowed: bool,
    /// The mode that decided.
    pub mode: Mode,
    /// The rule; none for a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// The policy; none for the one without rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// The grant that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
}

/// A part of a workspace that was opened for a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedPart {
    /// Its path in the workspace.
    pub path: SubPath,
    /// What the call may do in it.
    pub access: WorkspaceAccess,
    /// The directory that was opened, `device:inode`; none if nothing was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// What a record says. `kind` and `data` where it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data")]
pub enum AuditBody {
    /// A capability that a tool wants was decided otherwise than by `allow`.
    #[serde(rename = "capability.decided")]
    CapabilityDecided {
        /// The tool's name.
        tool: String,
        /// What it wants.
        capability: Capability,
        /// What became of it.
        decision: Decision,
    },
    /// Parts of the workspace were opened for a call, before its guest started.
    #[serde(rename = "workspace.opened")]
    WorkspaceOpened {
        /// The tool's name.
        tool: String,
        /// Which.
        paths: Vec<OpenedPart>,
    },
    /// An HTTP request of a guest was decided, before anything was sent.
    #[serde(rename = "http.decided")]
    HttpDecided {
        /// The tool's name.
        tool: String,
        /// The method.
        method: String,
        /// The URL, without its query.
        url: String,
        /// What became of it.
        decision: Decision,
        /// The secrets that were put into it, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<String>,
    },
    /// The owner was asked.
    #[serde(rename = "question.asked")]
    QuestionAsked {
        /// The question.
        question: QuestionId,
        /// The tool's name.
        tool: String,
        /// What for.
        capability: Capability,
        /// The rule that wants it asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Arc<str>>,
    },
    /// The owner answered, or time was up.
    #[serde(rename = "question.answered")]
    QuestionAnswered {
        /// The question.
        question: QuestionId,
        /// The answer.
        allowed: bool,
        /// False if nobody answered in time.
        answered: bool,
    },
    /// The owner gave a grant.
    #[serde(rename = "grant.given")]
    GrantGiven {
        /// The grant.
        grant: GrantId,
        /// What is granted.
        capability: Capability,
        /// When it ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<String>,
        /// How often it can be used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uses: Option<u32>,
    },
    /// The owner took a grant back.
    #[serde(rename = "grant.revoked")]
    GrantRevoked {
        /// The grant.
        grant: GrantId,
        /// Calls that were ended for it.
        ended_calls: u32,
    },
    /// A call was ended because less is granted now.
    #[serde(rename = "call.revoked")]
    CallRevoked {
        /// Why.
        reason: String,
    },
    /// An administrator was given another's thing; whose it is, is the record's owner.
    #[serde(rename = "admin.accessed")]
    AdminAccessed {
        /// The administrator's tenant.
        by_tenant: TenantId,
        /// The administrator.
        by_user: UserId,
        /// What for.
        operation: String,
        /// The thing's id.
        thing: String,
        /// Why; none only while that rule is not enforced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Something was let through that a rule of the door would refuse if it
    /// were enforced. At most one a minute for a principal, rule and operation.
    #[serde(rename = "access.would_refuse")]
    AccessWouldRefuse {
        /// The rule.
        rule: String,
        /// The operation.
        operation: String,
        /// What was missing.
        what: String,
    },
}

impl AuditBody {
    /// Kind and data, ready to be stored.
    pub fn encode(&self) -> (String, Arc<str>) {
        // Strings, numbers and booleans: serializing them can't fail.
        let value = serde_json::to_value(self).unwrap_or_default();
        let kind = value.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        (kind, value.get("data").map(ToString::to_string).unwrap_or_default().into())
    }
}

/// A record on its way into the log: everything but its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// Whose task or grant it is about.
    pub owner: Owner,
    /// The task.
    pub task: TaskId,
    /// The call, if it is about one.
    pub call: Option<CallId>,
    /// Its kind: `http.decided`.
    pub kind: String,
    /// Its data: JSON, as text.
    pub data: Arc<str>,
}

impl NewAudit {
    /// A record that says `body`.
    pub fn new(at: Timestamp, owner: Owner, task: TaskId, call: Option<CallId>, body: &AuditBody) -> Self {
        let (kind, data) = body.encode();
        Self { at, owner, task, call, kind, data }
    }

    /// The task of a record that is about none.
    pub fn no_task() -> TaskId {
        TaskId::from_parts(0, 0)
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Its number: later ones are larger.
    pub number: u64,
    /// The rest.
    pub record: NewAudit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_kind_and_data() {
        let body = AuditBody::CallRevoked { reason: "x".into() };
        assert_eq!(body.encode(), ("call.revoked".to_owned(), r#"{"reason":"x"}"#.into()));
    }
}
