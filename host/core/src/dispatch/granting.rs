//! What a call is granted, at the moment its guest starts: the task's ceiling,
//! the policy in force, the owner's grants, and the answers to what is asked.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::drive::chain;
use super::{Dispatcher, Inner, lock};
use crate::audit::{AuditBody, Decision, NewAudit};
use crate::call::{Call, CallState};
use crate::error::Error;
use crate::grants::{Capability, Grant, Grants, Mode};
use crate::id::{GrantId, TaskId};
use crate::outcome::{Fault, code};
use crate::pause::Pauses;
use crate::policy::{Finding, Policy, Subject};
use crate::ports::store::StoreError;
use crate::principal::By;

/// Most live grants of a task.
pub const MAX_GRANTS: u32 = 256;
/// Grants of a task that are looked at, the newest, those that ended included.
pub const GRANTS_LOOKED_AT: u32 = 4 * MAX_GRANTS;

impl Inner {
    /// What a call would get now, and what of that is to be written down.
    pub(super) async fn granted_now(&self, call: &Call) -> Result<(Grants, Vec<Finding>, Arc<Policy>), Error> {
        let frozen = self.parts.access.frozen(call.owner, call.task).await?;
        let tool = self.tools.get(call.tool).await?;
        let policy = self.parts.policies.current();
        let subject = Subject { owner: call.owner, tool: &call.tool_name, digest: call.tool_digest };
        let (grants, findings) = policy.grants(&subject, &tool.manifest.capabilities, &frozen.ceiling);
        Ok((grants, findings, policy))
    }

    /// The grants that a call starts with, everything written down and asked.
    ///
    /// # Errors
    /// The fault that ends the call: less is granted than when it was
    /// accepted, or something can't be written down.
    pub(super) async fn grant(
        &self,
        call: &Call,
        pauses: &Pauses,
        cancel: &CancellationToken,
    ) -> Result<(Grants, Arc<Policy>), Fault> {
        let host = |error: &dyn std::error::Error| {
            tracing::error!(call = %call.id, error = %chain(error), "the grants of a call could not be made");
            Fault::new(code::HOST_ERROR, "the grants of the call could not be made; the server's log says why")
                .retryable()
        };
        let (now, findings, policy) = self.granted_now(call).await.map_err(|error| host(&error))?;
        if now.policy != call.grants.policy && !call.grants.within(&now) {
            return Err(Fault::new(code::GRANT_REVOKED, "the policy changed before the call started; call again"));
        }
        if !findings.is_empty() {
            let records = findings.into_iter().map(|finding| {
                let body = decided(call, finding);
                NewAudit::new(self.parts.ids.now(), call.owner, call.task, Some(call.id), &body).by(&call.by)
            });
            self.parts.store.append_audit(records.collect()).await.map_err(|error| host(&error))?;
        }
        // What was recorded with the call is what it gets: never more.
        let mut grants = call.grants.clone();
        for asked in std::mem::take(&mut grants.asks) {
            if grants.has(&asked.capability) {
                continue;
            }
            // Rare and large: in a box it is no part of what each call moves.
            let permitted = Box::pin(self.permitted(call, &grants, (asked.capability, asked.rule), pauses, cancel));
            let permitted = permitted.await;
            for capability in permitted.map_err(|error| host(&error))? {
                grants.add(&capability);
            }
        }
        Ok((grants, policy))
    }

    /// What the owner permits of what the policy wants asked: by grants that
    /// were given, or by an answer. Grants of parts of a workspace are an answer
    /// for all of it: the owner has said how much.
    async fn permitted(
        &self,
        call: &Call,
        had: &Grants,
        what: (Capability, Option<Arc<str>>),
        pauses: &Pauses,
        cancel: &CancellationToken,
    ) -> Result<Vec<Capability>, StoreError> {
        let (capability, rule) = &what;
        if let Some(grant) = self.take_grant(call, |given| given.covers(capability)).await? {
            self.record_grant(call, capability, rule, grant).await?;
            return Ok(vec![what.0]);
        }
        let parts = self.granted_parts(call, had, &what).await?;
        if !parts.is_empty() {
            return Ok(parts);
        }
        let answer = self.ask(call, what.clone(), pauses, cancel).await?;
        Ok(if answer.allowed { vec![answer.part.unwrap_or(what.0)] } else { Vec::new() })
    }

    /// The parts of a wanted workspace that live grants give, beyond what the
    /// call has. Each grant is used.
    async fn granted_parts(
        &self,
        call: &Call,
        had: &Grants,
        (capability, rule): &(Capability, Option<Arc<str>>),
    ) -> Result<Vec<Capability>, StoreError> {
        let Capability::Workspace(wanted) = capability else { return Ok(Vec::new()) };
        let mut with = Grants { asks: Vec::new(), ..had.clone() };
        let mut parts = Vec::new();
        for grant in self.live_grants(call.task).await? {
            let Capability::Workspace(given) = &grant.capability else { continue };
            let Some(part) = wanted.intersect(given).map(Capability::Workspace) else { continue };
            if with.has(&part) || !with.add(&part) {
                continue;
            }
            self.holds(call, grant.id);
            if self.parts.store.use_grant(grant.id, self.parts.ids.now()).await? {
                self.record_grant(call, &part, rule, grant.id).await?;
                parts.push(part);
            }
        }
        Ok(parts)
    }

    async fn record_grant(
        &self,
        call: &Call,
        capability: &Capability,
        rule: &Option<Arc<str>>,
        grant: GrantId,
    ) -> Result<(), StoreError> {
        let (rule, policy) = (rule.clone(), call.grants.policy.clone());
        let decision = Decision { allowed: true, mode: Mode::Ask, rule, policy, grant: Some(grant) };
        let (tool, capability) = (call.tool_name.clone(), capability.clone());
        self.record(call, AuditBody::CapabilityDecided { tool, capability, decision }).await
    }

    /// Uses a live grant of the task that fits, and notes that the call stands on it.
    pub(super) async fn take_grant(
        &self,
        call: &Call,
        fits: impl Fn(&Capability) -> bool,
    ) -> Result<Option<GrantId>, StoreError> {
        let now = self.parts.ids.now();
        for grant in self.live_grants(call.task).await? {
            if fits(&grant.capability) {
                // Before it is used: a revocation in between finds the call.
                self.holds(call, grant.id);
                if self.parts.store.use_grant(grant.id, now).await? {
                    return Ok(Some(grant.id));
                }
            }
        }
        Ok(None)
    }

    async fn live_grants(&self, task: TaskId) -> Result<Vec<Grant>, StoreError> {
        let now = self.parts.ids.now();
        let mut grants = self.parts.store.list_grants(task, GRANTS_LOOKED_AT).await?;
        grants.retain(|grant| grant.is_live(now));
        Ok(grants)
    }

    /// Notes that a call stands on a grant: it ends if that is taken back.
    pub(super) fn holds(&self, call: &Call, grant: GrantId) {
        if let Some(active) = lock(&self.active).get_mut(&call.id)
            && !active.holds.contains(&grant)
        {
            active.holds.push(grant);
        }
    }
}

fn decided(call: &Call, finding: Finding) -> AuditBody {
    let decision = Decision {
        allowed: finding.mode != Mode::Deny,
        mode: finding.mode,
        rule: finding.rule,
        policy: call.grants.policy.clone(),
        grant: None,
    };
    AuditBody::CapabilityDecided { tool: call.tool_name.clone(), capability: finding.capability, decision }
}

impl Dispatcher {
    /// Ends every call that stands on a grant. How many there were.
    pub async fn revoke(&self, grant: GrantId) -> u32 {
        let stands = |_: &Call, holds: &[GrantId]| holds.contains(&grant);
        self.end_calls(&format!("the grant `{grant}` was taken back"), stands).await
    }

    /// Ends every call that was granted more than the policy in force grants.
    pub async fn reconsider(&self) -> u32 {
        // What waits in the queue is judged when its turn comes.
        let runs = |call: &Arc<Call>| !matches!(call.state, CallState::Queued);
        let running: Vec<_> =
            lock(&self.inner.active).values().map(|active| active.call.clone()).filter(runs).collect();
        let mut less = Vec::new();
        for call in running {
            match self.inner.granted_now(&call).await {
                Ok((now, ..)) if call.grants.within(&now) => {}
                Ok(_) => less.push(call.id),
                // Then nobody knows what it is granted.
                Err(error) => {
                    tracing::error!(call = %call.id, error = %chain(&error), "a call could not be judged anew");
                    less.push(call.id);
                }
            }
        }
        self.end_calls("the policy grants less now", |call, _| less.contains(&call.id)).await
    }

    async fn end_calls(&self, reason: &str, which: impl Fn(&Call, &[GrantId]) -> bool) -> u32 {
        let ended: Vec<_> = {
            let active = lock(&self.inner.active);
            let fits = active.values().filter(|active| which(&active.call, &active.holds));
            fits.map(|active| {
                // Only the first reason is told.
                let _ = active.revoked.set(reason.to_owned());
                active.cancel.cancel();
                active.call.clone()
            })
            .collect()
        };
        for call in &ended {
            let body = AuditBody::CallRevoked { reason: reason.to_owned() };
            if let Err(error) = self.inner.recorded(call, body, &By::HOST).await {
                tracing::error!(call = %call.id, %error, "the end of a call's grants could not be written down");
            }
        }
        // Those in the queue end when their turn comes; let it come.
        self.inner.pump();
        u32::try_from(ended.len()).unwrap_or(u32::MAX)
    }
}
