//! How an administrator reaches what is another's: with a scope for it, for
//! reading and ending alone, with a reason, and on record before it is given.
//! Whoever lacks any of these gets the answer that everybody gets.

use crate::access::operation::{Operation, Reach};
use crate::access::rules::Rule;
use crate::audit::{AuditBody, NewAudit};
use crate::error::Error;
use crate::id::{CallId, TaskId};
use crate::ports::store::{StoreError, Thing};
use crate::principal::{Owner, Principal, Scope};

use super::Access;

/// What a record of such an access is about.
pub(super) struct About {
    /// The task, if it is about one.
    pub(super) task: Option<TaskId>,
    pub(super) call: Option<CallId>,
}

impl Access {
    /// Whose a thing is, if the principal may be told as an administrator: of its
    /// tenant, or of all, and with a reason.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) async fn whose(&self, principal: &Principal, thing: Thing) -> Result<Option<Owner>, Error> {
        let anywhere = principal.scopes.contains(Scope::OperatorAdmin);
        if !(anywhere || principal.scopes.contains(Scope::Admin)) {
            return Ok(None);
        }
        // Before anything is looked for: without a reason all ids are alike.
        if principal.reason.is_none() && self.softened.enforces(Rule::AdminReason) {
            return Ok(None);
        }
        let whose = self.store.owner_of(thing).await?;
        Ok(whose.filter(|whose| anywhere || whose.tenant == principal.tenant))
    }

    /// Another's thing, if the principal may have it as an administrator. The
    /// record is stored before the thing is returned; if it can't be, it is not.
    pub(super) async fn as_admin<T, F>(
        &self,
        principal: &Principal,
        operation: Operation,
        thing: Thing,
        get: impl FnOnce(Owner) -> F,
        about: impl FnOnce(&T) -> About,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Option<T>, StoreError>>,
    {
        let who = principal.owner();
        let whose = match operation.reach() {
            Reach::Own => None,
            Reach::Others => self.whose(principal, thing).await?,
        };
        let found = match whose {
            Some(whose) => get(whose).await?.map(|found| (whose, found)),
            None => None,
        };
        let Some((whose, found)) = found else { return Err(self.absent(who, thing.kind(), thing.id()).await) };
        if principal.reason.is_none() {
            let what = format!("the {} `{}` of {}", thing.kind(), thing.id(), whose.user);
            self.softened.lets_through(Rule::AdminReason, who, operation.name(), &what).await?;
        }
        let body = AuditBody::AdminAccessed {
            by_tenant: who.tenant,
            by_user: who.user,
            operation: operation.name().into(),
            thing: thing.id(),
            reason: principal.reason.as_ref().map(|reason| reason.as_str().to_owned()),
        };
        let About { task, call } = about(&found);
        self.store
            .append_audit(vec![NewAudit::new(self.softened.ids.now(), whose, task, call, &body).by(&principal.into())])
            .await?;
        self.softened.admin_accessed();
        tracing::info!(
            operation = operation.name(), thing = thing.id(), of = %whose.user, by = %who.user,
            "an administrator was given another's thing"
        );
        Ok(found)
    }
}
