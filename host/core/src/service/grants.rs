//! Grants: give, list, take back; answers to what calls ask; the policy in
//! force, what it says and why. Only an owner with the
//! scope for it gives grants: no tool and no key for calls alone can.

use std::sync::Arc;

use super::Ports;
use crate::access::{FrozenTask, OwnedCall, OwnedTask};
use crate::audit::{AuditBody, NewAudit};
use crate::clock::NewId as _;
use crate::dispatch::{Answer, Dispatcher, GRANTS_LOOKED_AT, MAX_GRANTS, Question};
use crate::error::Error;
use crate::grants::{Capability, Grant};
use crate::id::{CallId, GrantId, QuestionId, TaskId};
use crate::policy::{Explained, Policies, Policy, Subject};
use crate::principal::{By, Owner};
use crate::reached::{Bound, GRANTS};
use crate::task::TaskState;

/// Longest life of a grant, in seconds: a year.
pub const MAX_LIFE_S: u64 = 365 * 24 * 3_600;

/// A grant that an owner gives.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// What is granted.
    pub capability: Capability,
    /// How long it holds, in seconds.
    pub expires_in_s: Option<u64>,
    /// How often it can be used.
    pub uses: Option<u32>,
}

/// What a policy makes of a tool's wishes in a task.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The policy; none for the one without rules.
    pub policy: Option<Arc<str>>,
    /// One entry for each capability that the tool wants.
    pub capabilities: Vec<Explained>,
}

/// The use cases of grants and policies.
pub struct Grants {
    ports: Ports,
    dispatcher: Dispatcher,
    policies: Arc<Policies>,
}

impl Grants {
    pub(super) fn new(ports: Ports, dispatcher: Dispatcher, policies: Arc<Policies>) -> Self {
        Self { ports, dispatcher, policies }
    }

    /// Gives a grant to a task, within what the task allows.
    ///
    /// # Errors
    /// If it is not valid or outside of the task's ceiling, the task has too
    /// many, or the store fails.
    pub async fn give(&self, task: &OwnedTask, new: NewGrant) -> Result<Grant, Error> {
        let (task, by) = (task.task(), task.by());
        if task.state == TaskState::Deleted {
            return Err(Error::not_found("task", task.id));
        }
        new.capability.check().map_err(|why| Error::invalid("capability", why))?;
        if !task.ceiling.allows(&new.capability) {
            let why = format!("the task was made without `{}`; make one that allows it", new.capability);
            return Err(Error::invalid("capability", why));
        }
        self.store(task.owner, task.id, by, new).await
    }

    async fn store(&self, owner: Owner, task: TaskId, by: &By, new: NewGrant) -> Result<Grant, Error> {
        if new.uses == Some(0) {
            return Err(Error::invalid("uses", "a grant can be used once at least"));
        }
        if new.expires_in_s.is_some_and(|seconds| !(1..=MAX_LIFE_S).contains(&seconds)) {
            return Err(Error::invalid("expires_in_s", format!("must be 1 to {MAX_LIFE_S} seconds")));
        }
        let now = self.ports.ids.now();
        let life_ms = new.expires_in_s.map(|seconds| i64::try_from(seconds * 1000).unwrap_or(i64::MAX));
        let grant = Grant {
            id: self.ports.ids.grant_id(),
            task,
            owner,
            capability: new.capability,
            expires_at: life_ms.map(|life| now.plus_millis(life)),
            uses_left: new.uses,
            created_at: now,
            revoked_at: None,
        };
        let body = AuditBody::GrantGiven {
            grant: grant.id,
            capability: grant.capability.clone(),
            expires_at: grant.expires_at.map(|at| at.to_string()),
            uses: grant.uses_left,
        };
        let record = NewAudit::new(now, owner, task, None, &body).by(by);
        if self.ports.store.create_grant(&grant, MAX_GRANTS, record).await? {
            Ok(grant)
        } else {
            let most = MAX_GRANTS.into();
            Err(Error::OverQuota(Bound { name: GRANTS.spec.name, value: most, used: Some(most) }))
        }
    }

    /// The newest grants of a task, as many as are looked at, those that ended included.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, task: &OwnedTask) -> Result<Vec<Grant>, Error> {
        Ok(self.ports.store.list_grants(task.task().id, GRANTS_LOOKED_AT).await?)
    }

    /// Takes a grant back and ends the calls that stand on it. How many.
    ///
    /// # Errors
    /// If the task has no such grant, or the store fails.
    pub async fn revoke(&self, task: &OwnedTask, id: GrantId) -> Result<u32, Error> {
        let (task, by, now) = (task.task(), task.by(), self.ports.ids.now());
        let body = AuditBody::GrantRevoked { grant: id };
        let record = NewAudit::new(now, task.owner, task.id, None, &body).by(by);
        if !self.ports.store.revoke_grant(task.id, id, now, record).await? {
            return Err(Error::not_found("grant", id));
        }
        Ok(self.dispatcher.revoke(id).await)
    }

    /// The question that a call waits for the answer to.
    pub fn question(&self, call: CallId) -> Option<Question> {
        self.dispatcher.question(call)
    }

    /// Answers a question; a yes may become a grant for the rest of the task.
    ///
    /// # Errors
    /// If the question is not open, the grant is not valid, or the store fails.
    pub async fn answer(
        &self,
        call: &OwnedCall,
        id: QuestionId,
        allowed: bool,
        remember: Option<(Option<Capability>, Option<u64>, Option<u32>)>,
        task: &OwnedTask,
    ) -> Result<(), Error> {
        let closed = || Error::WrongState {
            what: format!("the question `{id}`"),
            state: "closed".into(),
            remedy: "it was answered, or its time is up; see the call's events".into(),
        };
        let call = call.call();
        let question = self.dispatcher.question(call.id).filter(|question| question.id == id).ok_or_else(closed)?;
        let (grant, part) = match remember.filter(|_| allowed) {
            Some((capability, expires_in_s, uses)) => {
                let capability = capability.unwrap_or_else(|| question.capability.clone());
                let part = narrowed(&question.capability, &capability)?;
                (Some(self.give(task, NewGrant { capability, expires_in_s, uses }).await?.id), part)
            }
            None => (None, None),
        };
        if self.dispatcher.answer(call.id, id, Answer { allowed, grant, part, answered: true, by: task.by().clone() }) {
            return Ok(());
        }
        // Somebody else was first, or time was up: then nothing was granted.
        if let Some(grant) = grant {
            self.revoke(task, grant).await?;
        }
        Err(closed())
    }

    /// What the policy in force makes of a tool's wishes in a task.
    ///
    /// # Errors
    /// If the task has no such tool, or it can't be loaded.
    pub async fn explain(&self, task: &FrozenTask, tool: &str) -> Result<Explanation, Error> {
        let pinned = task.tools.get(tool).ok_or_else(|| super::calls::unknown_tool(task, tool))?;
        let loaded = self.dispatcher.known_tool(pinned.id).await?;
        let policy = self.policies.current();
        let subject = Subject { owner: task.owner, tool: &pinned.name, digest: pinned.digest };
        Ok(Explanation {
            policy: policy.revision().cloned(),
            capabilities: policy.explain(&subject, &loaded.manifest.capabilities, &task.ceiling),
        })
    }

    /// Puts a policy in force, keeps its text, and ends the calls that were
    /// granted more than it grants. How many.
    ///
    /// # Errors
    /// If its text can't be stored, with a record of it: records would name what nobody can read.
    pub async fn install(&self, policy: Policy, text: &str) -> Result<u32, Error> {
        if let Some(revision) = policy.revision() {
            let now = self.ports.ids.now();
            let body = AuditBody::PolicyInstalled { revision: revision.to_string(), rules: policy.rules() as u64 };
            self.ports.store.keep_policy(revision, text, now, NewAudit::of_operator(now, &body)).await?;
        }
        let (revision, rules) = (policy.revision().cloned(), policy.rules());
        self.policies.replace(policy);
        let ended_calls = self.dispatcher.reconsider().await;
        tracing::info!(revision = revision.as_deref().unwrap_or("none"), rules, ended_calls, "a policy is in force");
        Ok(ended_calls)
    }
}

/// What a yes to `asked` gives if its grant is less: a part of the workspace.
fn narrowed(asked: &Capability, given: &Capability) -> Result<Option<Capability>, Error> {
    match (asked, given) {
        (Capability::Workspace(asked), Capability::Workspace(given)) if !given.covers(asked) => {
            let part = asked.intersect(given).ok_or_else(|| {
                let why =
                    format!("`{given}` has nothing of what was asked for, `{asked}`; answer no, or grant a part of it");
                Error::invalid("grant.capability", why)
            })?;
            Ok(Some(Capability::Workspace(part)))
        }
        (asked, given) if asked.kind() != given.kind() => {
            Err(Error::invalid("grant.capability", format!("`{}` was asked for, not `{}`", asked.kind(), given.kind())))
        }
        _ => Ok(None),
    }
}
