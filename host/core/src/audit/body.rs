//! What a record says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::call::Call;
use crate::digest::Digest;
use crate::grants::{Capability, Ceiling, Grants, Mode, SubPath, WorkspaceAccess};
use crate::id::{GrantId, QuestionId, TenantId, ToolId, UserId};
use crate::limits::{Limits, Usage};
use crate::outcome::{Ending, Outcome};
use crate::ports::workspace::FileId;
use crate::principal::{By, Principal};
use crate::task::Overdue;

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
        /// Networks beyond the public internet that it may lead to.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        private: Vec<ipnet::IpNet>,
        /// The secrets that were put into it, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<String>,
    },
    /// An HTTP request of a guest was refused before it was decided: it names nothing that
    /// a rule could, or is one too many; those after it are refused without a record.
    #[serde(rename = "http.refused")]
    HttpRefused {
        /// The tool's name.
        tool: String,
        /// The method.
        method: String,
        /// The URL, without its query, as far as it is shown.
        url: String,
        /// Why.
        reason: String,
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
    /// The owner took a grant back. The calls that end for it have records of their own.
    #[serde(rename = "grant.revoked")]
    GrantRevoked {
        /// The grant.
        grant: GrantId,
    },
    /// A call is ended because less is granted now.
    #[serde(rename = "call.revoked")]
    CallRevoked {
        /// Why.
        reason: String,
    },
    /// A call ended: each call that ends has this record once.
    #[serde(rename = "call.ended")]
    CallEnded {
        /// The tool's name.
        tool: String,
        /// The component that ran.
        digest: Digest,
        /// What it was granted, with the policy's revision.
        grants: Grants,
        /// The directory of its task that was opened for it, `device:inode`; none if it
        /// was granted nothing of it, never came to be run, or another host or a later
        /// start ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workspace: Option<String>,
        /// Those of its limits that are not its task's; those stand in `task.created`, and
        /// again in `task.deleted`.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        limits: Map<String, Value>,
        /// `succeeded`, `failed`, `timed_out`, `cancelled` or `interrupted`.
        state: String,
        /// The fault's code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// Who asked for its end, if it ended for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cancelled_by: Option<CancelledBy>,
        /// How often its guest was started, if more than once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempts: Option<u32>,
        /// What it used, in the attempt that ended it.
        used: Usage,
    },
    /// The operator made a key for this user.
    #[serde(rename = "key.created")]
    KeyCreated {
        /// Its public id.
        key: String,
        /// What it may do.
        scopes: String,
        /// When it ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<String>,
    },
    /// The operator revoked a key of this user.
    #[serde(rename = "key.revoked")]
    KeyRevoked {
        /// Its public id.
        key: String,
    },
    /// The operator made another key (`key.created`) in the place of one of this user.
    #[serde(rename = "key.rotated")]
    KeyRotated {
        /// Its public id.
        key: String,
        /// The public id of the other.
        by: String,
        /// When it ends.
        expires_at: String,
    },
    /// A tool was registered.
    #[serde(rename = "tool.registered")]
    ToolRegistered {
        /// The tool.
        tool: ToolId,
        /// Its component.
        digest: Digest,
        /// Its size, in bytes.
        size: u64,
    },
    /// A tool was deleted.
    #[serde(rename = "tool.deleted")]
    ToolDeleted {
        /// The tool.
        tool: ToolId,
        /// Its component.
        digest: Digest,
    },
    /// A task was made.
    #[serde(rename = "task.created")]
    TaskCreated {
        /// The digest of the tools that it pins.
        tools: Digest,
        /// The ceiling of its calls' limits.
        limits: Limits,
        /// The ceiling of their grants.
        ceiling: Ceiling,
    },
    /// A task takes no calls until it is restored.
    #[serde(rename = "task.archived")]
    TaskArchived {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
    },
    /// A task's workspace was given up: it lay on a volume that was retired.
    #[serde(rename = "task.workspace_lost")]
    TaskWorkspaceLost {
        /// The volume.
        volume: String,
    },
    /// The operator began to give up a volume with all that lies on it.
    #[serde(rename = "volume.retired")]
    VolumeRetired {
        /// The volume.
        volume: String,
        /// Tasks whose workspaces lie there.
        tasks: u64,
        /// The administrator's tenant.
        by_tenant: TenantId,
        /// The administrator.
        by_user: UserId,
        /// Why.
        reason: String,
    },
    /// A task takes calls again.
    #[serde(rename = "task.restored")]
    TaskRestored {},
    /// A task is about to be deleted, or purged: its calls are cancelled.
    #[serde(rename = "task.deleting")]
    TaskDeleting {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
    },
    /// A task was deleted, with its workspace unless that is kept for a while.
    #[serde(rename = "task.deleted")]
    TaskDeleted {
        /// What the ceiling of its calls' limits was.
        limits: Limits,
        /// Until when it can be restored, RFC 3339; absent if it can't be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_until: Option<String>,
    },
    /// The workspace that was kept of a deleted task is gone.
    #[serde(rename = "task.purged")]
    TaskPurged {
        /// Why, if nobody asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Overdue>,
    },
    /// A ticket for a task's events was given.
    #[serde(rename = "ticket.given")]
    TicketGiven {
        /// When it ends.
        expires_at: String,
    },
    /// A policy is put in force.
    #[serde(rename = "policy.installed")]
    PolicyInstalled {
        /// Its revision.
        revision: String,
        /// How many rules it has.
        rules: u64,
    },
    /// A principal was refused: what it asked for is not there, or another's, or its key
    /// lacks a scope.
    #[serde(rename = "access.refused")]
    AccessRefused {
        /// The kind of thing, or the scope.
        what: String,
        /// `not_found`, `missing_scope`, `expired_key` or `revoked_key`.
        reason: String,
        /// Some of the ids that were asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ids: Vec<String>,
        /// How often.
        count: u64,
        /// From when on these are counted; since the start if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
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
    /// Strangers were refused: no key, or none that is good.
    #[serde(rename = "strangers.refused")]
    StrangersRefused {
        /// The problem's code.
        reason: String,
        /// The network that they came from.
        source: String,
        /// How often.
        count: u64,
        /// From when on these are counted; since the start if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<String>,
    },
}

/// Who asked for the end of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelledBy {
    /// Whose key or token it was: not the call's owner if it was somebody with `operator:admin`.
    pub user: UserId,
    /// Which key or token, as `data.credential` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Arc<str>>,
}

impl CancelledBy {
    /// This principal.
    pub fn new(principal: &Principal) -> Self {
        Self { user: principal.user, credential: By::from(principal).0 }
    }
}

impl AuditBody {
    /// That a call ended; `task` are the limits of its task, if they are known, `workspace`
    /// is the directory that it worked in, and `asked` who asked for its end, which counts
    /// if it ended so.
    pub fn call_ended(
        call: &Call,
        outcome: &Outcome,
        task: Option<&Limits>,
        workspace: Option<FileId>,
        asked: Option<CancelledBy>,
    ) -> Self {
        let limits = match task {
            Some(task) if *task == call.limits => Map::new(),
            task => differing(&call.limits, task),
        };
        Self::CallEnded {
            tool: call.tool_name.clone(),
            digest: call.tool_digest,
            grants: call.grants.clone(),
            workspace: workspace.map(|workspace| workspace.to_string()),
            limits,
            state: outcome.ending.state().into(),
            code: outcome.ending.fault().map(|fault| fault.code.to_string()),
            cancelled_by: asked.filter(|_| matches!(outcome.ending, Ending::Cancelled { .. })),
            attempts: (call.attempts > 1).then_some(call.attempts),
            used: outcome.usage.clone(),
        }
    }

    /// Kind and data, ready to be stored.
    pub fn encode(&self) -> (String, Arc<str>) {
        // Strings, numbers and booleans: serializing them can't fail.
        let text = serde_json::to_string(self).unwrap_or_default();
        // `{"kind":"…","data":{…}}`, in this order; a kind has nothing to be escaped.
        let parts = text.strip_prefix(r#"{"kind":""#).and_then(|rest| rest.split_once(r#"","data":"#));
        let (kind, data) = parts.unwrap_or_default();
        (kind.to_owned(), data.strip_suffix('}').unwrap_or_default().into())
    }
}

/// The limits that are not those of `task`; all of them if that is not known.
fn differing(limits: &Limits, task: Option<&Limits>) -> Map<String, Value> {
    // Structs of numbers: objects.
    let object = |limits: &Limits| match serde_json::to_value(limits) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let (mut own, of_task) = (object(limits), task.map(object).unwrap_or_default());
    own.retain(|name, value| of_task.get(name) != Some(value));
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_kind_and_data() {
        let body = AuditBody::CallRevoked { reason: "x".into() };
        assert_eq!(body.encode(), ("call.revoked".to_owned(), r#"{"reason":"x"}"#.into()));
        let body = AuditBody::TaskArchived { reason: None };
        assert_eq!(body.encode(), ("task.archived".to_owned(), "{}".into()));
        let body = AuditBody::CallRevoked { reason: r#"","data":{}}"#.into() };
        assert_eq!(&*body.encode().1, r#"{"reason":"\",\"data\":{}}"}"#);
    }

    #[test]
    fn only_limits_that_differ_are_named() {
        let task = Limits::default();
        let own = Limits { wall_time_ms: 5, ..task.clone() };
        assert_eq!(Value::Object(differing(&own, Some(&task))), serde_json::json!({"wall_time_ms": 5}));
        assert_eq!(differing(&own, None).len(), Limits::SPECS.len());
    }
}
