//! The audit log: who did what, what was decided by which rule, and how each
//! call ended. Append-only, a chain of hashes for each tenant ([`chain`]), and
//! apart from a task's events: those tell what happened, these why it was allowed.
//! A record is stored in the transaction of what it records, so what can't be
//! written down is not done. Only refusals are different ([`refusals`]).

mod body;
pub mod chain;
pub mod refusals;
pub mod verify;

use std::sync::Arc;

pub use self::body::{AuditBody, CancelledBy, Decision, OpenedPart};
use self::chain::Chain;
use crate::clock::Timestamp;
use crate::id::{CallId, TaskId, UserId};
use crate::principal::{By, Owner};

/// A record on its way into the log: everything but its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// The chain that it becomes a link of.
    pub chain: Chain,
    /// The tenant's user who did it, or for whom it was done.
    pub user: Option<UserId>,
    /// The task, if it is about one.
    pub task: Option<TaskId>,
    /// The call, if it is about one.
    pub call: Option<CallId>,
    /// Its kind: `http.decided`.
    pub kind: String,
    /// Its data: JSON, as text.
    pub data: Arc<str>,
}

impl NewAudit {
    /// A record of an owner that says `body`.
    pub fn new(
        at: Timestamp,
        owner: Owner,
        task: impl Into<Option<TaskId>>,
        call: impl Into<Option<CallId>>,
        body: &AuditBody,
    ) -> Self {
        let (kind, data) = body.encode();
        let (chain, user) = (Chain::Tenant(owner.tenant), Some(owner.user));
        Self { at, chain, user, task: task.into(), call: call.into(), kind, data }
    }

    /// The same, of who did it: `credential` in its data, beside the user.
    #[must_use]
    pub fn by(mut self, by: &By) -> Self {
        if let (Some(by), Some(members)) = (&by.0, self.data.strip_suffix('}')) {
            let separator = if members.ends_with('{') { "" } else { "," };
            // A text: serializing it can't fail.
            let by = serde_json::to_string(&**by).unwrap_or_default();
            self.data = format!(r#"{members}{separator}"credential":{by}}}"#).into();
        }
        self
    }

    /// A record of what concerns no tenant alone.
    pub fn of_operator(at: Timestamp, body: &AuditBody) -> Self {
        let (kind, data) = body.encode();
        Self { at, chain: Chain::Operator, user: None, task: None, call: None, kind, data }
    }
}

/// Which records are wanted; all, if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Those about this task.
    pub task: Option<TaskId>,
    /// Those of this kind.
    pub kind: Option<String>,
    /// Those of other kinds than `call.ended`: with a task, they are found without a walk
    /// through all that the owner has.
    pub but_ends: bool,
    /// Those not older than this.
    pub since: Option<Timestamp>,
    /// Those older than this.
    pub until: Option<Timestamp>,
    /// Those with no larger number than this.
    pub up_to: Option<u64>,
}

impl AuditFilter {
    /// Whether records may have to be passed over to find those that are wanted. Those of
    /// a task but for ends have an index of their own.
    pub fn passes_over(&self) -> bool {
        let by_index = self.task.is_some() && self.but_ends;
        self.kind.is_some() || self.since.is_some() || self.until.is_some() || (self.task.is_some() && !by_index)
    }
}

/// Some of the records that are wanted, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The records.
    pub records: Vec<Audit>,
    /// After which number to go on; none if no more can follow.
    pub next_after: Option<u64>,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Its number in its tenant's chain: later ones are larger.
    pub number: u64,
    /// The rest.
    pub record: NewAudit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;

    #[test]
    fn a_record_says_who_beside_the_user() {
        let owner = Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) };
        let record = |body| NewAudit::new(Timestamp::from_millis(1), owner, None, None, &body);
        let key = By(Some("key:k".into()));
        assert_eq!(&*record(AuditBody::TaskRestored {}).by(&key).data, r#"{"credential":"key:k"}"#);
        let body = AuditBody::CallRevoked { reason: "}".into() };
        assert_eq!(&*record(body.clone()).by(&key).data, r#"{"reason":"}","credential":"key:k"}"#);
        let token = By(Some("token:a\"}".into()));
        assert_eq!(&*record(body.clone()).by(&token).data, r#"{"reason":"}","credential":"token:a\"}"}"#);
        assert_eq!(record(body.clone()).by(&By::HOST), record(body));
    }
}
