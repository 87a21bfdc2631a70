//! The one door to owned things: principal and id in, proof out. Every use
//! case on an owned thing asks for the proof, so none can forget the check.
//! What is not yours is not there: the same answer, by the same query. The one
//! exception is an administrator with a reason, see [`admin`].

mod admin;
pub mod operation;
pub mod rules;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::audit::CancelledBy;
use crate::audit::refusals::{Refusals, Refused};
use crate::call::Call;
use crate::error::Error;
use crate::grants::Ceiling;
use crate::id::{CallId, SessionId, TaskId};
use crate::limits::Limits;
use crate::ports::store::{Store, StoreError, Thing};
use crate::principal::{By, Owner, Principal, Scope};
use crate::session::Session;
use crate::task::{Task, TaskState};
use crate::tool::ToolSet;

use self::admin::About;
pub use self::operation::{Operation, Reach};
use self::rules::{Rule, Softened};

/// Tasks whose frozen part is kept in memory.
const FROZEN_TASKS: u64 = 10_000;
/// Tool sets kept in memory; most tasks share a few.
const TOOL_SETS: u64 = 256;
/// How long a frozen part is kept. It never changes; this only bounds memory.
const FROZEN_TTL: Duration = Duration::from_secs(300);

/// A scope that the principal was checked to have.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Principal,
}

impl Permit {
    /// Who.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Tenant and user.
    pub fn owner(&self) -> Owner {
        self.principal.owner()
    }
}

/// A task that was checked to be the principal's.
#[derive(Clone, Debug)]
pub struct OwnedTask {
    task: Task,
    by: By,
}

impl OwnedTask {
    /// Who asked for it.
    pub fn by(&self) -> &By {
        &self.by
    }

    /// The task, as it was when it was checked.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The task, if it takes calls and file operations.
    ///
    /// # Errors
    /// If it is in another state; a deleted one is not there.
    pub fn ready(&self) -> Result<&Task, Error> {
        not_ready(&self.task.id, Some(self.task.state)).map_or(Ok(&self.task), Err)
    }
}

/// The error for a task in a state that takes no calls; none if it is ready.
pub(crate) fn not_ready(id: &TaskId, state: Option<TaskState>) -> Option<Error> {
    let remedy = match state {
        Some(TaskState::Ready) => return None,
        None | Some(TaskState::Deleted) => return Some(Error::not_found("task", id)),
        Some(TaskState::Initializing) => "its workspace is being filled; wait for the event `task.ready`",
        Some(TaskState::Archived) => "restore it first, with `POST /v1/tasks/{id}/restore`",
        Some(TaskState::Failed) => "its workspace could not be filled; make a new task",
    };
    let state = state.map(|state| state.to_string()).unwrap_or_default();
    Some(Error::WrongState { what: format!("the task `{id}`"), state, remedy: remedy.into() })
}

/// What of a task never changes, checked to be the principal's. The state is
/// not in it: the store checks that when a call is accepted.
#[derive(Debug)]
pub struct FrozenTask {
    /// The task.
    pub id: TaskId,
    /// Whose it is.
    pub owner: Owner,
    /// Its tools.
    pub tools: Arc<ToolSet>,
    /// Its ceiling of limits.
    pub limits: Limits,
    /// Its ceiling of grants.
    pub ceiling: Ceiling,
}

/// The same, and who asked for it.
#[derive(Clone, Debug)]
pub struct CallableTask {
    task: Arc<FrozenTask>,
    by: By,
}

impl CallableTask {
    /// Who asked for it.
    pub fn by(&self) -> &By {
        &self.by
    }
}

impl Deref for CallableTask {
    type Target = FrozenTask;

    fn deref(&self) -> &FrozenTask {
        &self.task
    }
}

/// A call that was checked to be the principal's.
#[derive(Clone, Debug)]
pub struct OwnedCall {
    call: Call,
    asked: CancelledBy,
}

impl OwnedCall {
    /// Who asked for it, as the record of its end names them if it is for that.
    pub fn asked(&self) -> &CancelledBy {
        &self.asked
    }

    /// The call, as it was when it was checked.
    pub fn call(&self) -> &Call {
        &self.call
    }
}

/// A session that was checked to be the principal's.
#[derive(Clone, Debug)]
pub struct OwnedSession {
    session: Session,
}

impl OwnedSession {
    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

/// The door.
pub struct Access {
    store: Arc<dyn Store>,
    softened: Arc<Softened>,
    refusals: Arc<Refusals>,
    /// With the owner, so that another's is looked for by the same query as one that is not there.
    frozen: Cache<(Owner, TaskId), Arc<FrozenTask>>,
    tool_sets: Cache<crate::digest::Digest, Arc<ToolSet>>,
}

impl Access {
    /// A door to what is in `store`; what it refuses is written down.
    pub(crate) fn new(store: Arc<dyn Store>, softened: Arc<Softened>, refusals: Arc<Refusals>) -> Self {
        Self {
            store,
            softened,
            refusals,
            frozen: Cache::builder().max_capacity(FROZEN_TASKS).time_to_live(FROZEN_TTL).build(),
            tool_sets: Cache::new(TOOL_SETS),
        }
    }

    /// Checks the scope of an operation alone: for things that are made, listed or registered.
    ///
    /// # Errors
    /// If the principal lacks it.
    pub async fn permit(&self, principal: &Principal, operation: Operation) -> Result<Permit, Error> {
        let scope = operation.scope();
        if !principal.scopes.contains(scope) {
            let who = principal.owner();
            let softens = !scope.is_always_enforced()
                && self.softened.lets_through(Rule::Scopes, who, operation.name(), scope.as_str()).await?;
            if !softens {
                return Err(self.lacking(who, scope).await);
            }
        }
        Ok(Permit { principal: principal.clone() })
    }

    /// The answer to who lacks a scope.
    pub(crate) async fn lacking(&self, who: Owner, scope: Scope) -> Error {
        let refused = self.refused(who, Refused::Scope(scope), None).await;
        refused.map_or_else(Error::from, |()| Error::MissingScope(scope))
    }

    /// The answer to who asks for what is not there, or another's.
    pub(crate) async fn absent(&self, who: Owner, kind: &'static str, id: String) -> Error {
        let refused = self.refused(who, Refused::NotFound(kind), Some(id.clone())).await;
        refused.map_or_else(Error::from, |()| Error::not_found(kind, id))
    }

    /// Writes down that something was refused, or counts it if the like was written down
    /// a moment ago. What can't be written down is not answered.
    async fn refused(&self, who: Owner, what: Refused, id: Option<String>) -> Result<(), StoreError> {
        let Some(first) = self.refusals.principal(who, what, id, self.softened.ids.now()) else { return Ok(()) };
        self.store.append_audit(vec![first.record()]).await?;
        first.stored();
        Ok(())
    }

    /// Checks that a task is the principal's.
    ///
    /// # Errors
    /// If the scope is missing, or there is no such task of this principal.
    pub async fn task(&self, principal: &Principal, operation: Operation, id: TaskId) -> Result<OwnedTask, Error> {
        let permit = self.permit(principal, operation).await?;
        let task = match self.store.task(permit.owner(), id).await? {
            Some(task) => task,
            None => Box::pin(self.others_task(principal, operation, id)).await?,
        };
        Ok(OwnedTask { task, by: principal.into() })
    }

    async fn others_task(&self, principal: &Principal, operation: Operation, id: TaskId) -> Result<Task, Error> {
        let about = |_: &Task| About { task: Some(id), call: None };
        self.as_admin(principal, operation, Thing::Task(id), |owner| self.store.task(owner, id), about).await
    }

    /// The same, but only what of the task never changes: mostly from memory.
    ///
    /// # Errors
    /// As [`Access::task`].
    pub async fn frozen_task(
        &self,
        principal: &Principal,
        operation: Operation,
        id: TaskId,
    ) -> Result<CallableTask, Error> {
        let permit = self.permit(principal, operation).await?;
        let found = match self.frozen(permit.owner(), id).await {
            Err(Error::NotFound { .. }) => {
                // Rare and large: in a box it is no part of what each request moves.
                let others = async {
                    let task = self.others_task(principal, operation, id).await?;
                    self.frozen(task.owner, id).await
                };
                Box::pin(others).await
            }
            found => found,
        };
        Ok(CallableTask { task: found?, by: principal.into() })
    }

    /// The same for the host itself, which has the owner from a record.
    ///
    /// # Errors
    /// If there is no such task of this owner.
    pub(crate) async fn frozen(&self, owner: Owner, id: TaskId) -> Result<Arc<FrozenTask>, Error> {
        if let Some(frozen) = self.frozen.get(&(owner, id)) {
            return Ok(frozen);
        }
        let task = self.store.task(owner, id).await?.ok_or_else(|| Error::not_found("task", id))?;
        let tools = self.tool_set(&task).await?;
        let frozen = Arc::new(FrozenTask { id, owner: task.owner, tools, limits: task.limits, ceiling: task.ceiling });
        self.frozen.insert((owner, id), frozen.clone());
        Ok(frozen)
    }

    /// Of how many tasks something is remembered.
    pub(crate) fn remembered(&self) -> u64 {
        self.frozen.run_pending_tasks();
        self.frozen.entry_count()
    }

    /// Forgets what is remembered of a task: it is archived or deleted.
    pub(crate) fn forget(&self, owner: Owner, id: TaskId) {
        self.frozen.invalidate(&(owner, id));
    }

    /// The tools of a task.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn tool_set(&self, task: &Task) -> Result<Arc<ToolSet>, Error> {
        if let Some(tools) = self.tool_sets.get(&task.tool_set) {
            return Ok(tools);
        }
        let tools = self.store.tool_set(task.tool_set).await?;
        let tools = Arc::new(tools.ok_or_else(|| StoreError::Corrupt {
            table: "tool_sets",
            row: task.tool_set.to_string(),
            reason: format!("missing, but used by {}", task.id),
        })?);
        self.tool_sets.insert(task.tool_set, tools.clone());
        Ok(tools)
    }

    /// Checks that a call is the principal's.
    ///
    /// # Errors
    /// If the scope is missing, or there is no such call of this principal.
    pub async fn call(&self, principal: &Principal, operation: Operation, id: CallId) -> Result<OwnedCall, Error> {
        let permit = self.permit(principal, operation).await?;
        let call = match self.store.call(permit.owner(), id).await? {
            Some(call) => call,
            None => {
                let about = |call: &Call| About { task: Some(call.task), call: Some(id) };
                self.as_admin(principal, operation, Thing::Call(id), |owner| self.store.call(owner, id), about).await?
            }
        };
        Ok(OwnedCall { call, asked: CancelledBy::new(principal) })
    }

    /// The same call, as it is now: what was checked once needs no second look.
    ///
    /// # Errors
    /// If it went meanwhile, or the store fails.
    pub async fn again(&self, call: &OwnedCall) -> Result<OwnedCall, Error> {
        let OwnedCall { call: Call { owner, id, .. }, asked } = call;
        let (owner, id) = (*owner, *id);
        let call = self.store.call(owner, id).await?;
        let asked = |call| OwnedCall { call, asked: asked.clone() };
        call.map(asked).ok_or_else(|| Error::not_found("call", id))
    }

    /// Checks that a session is the principal's.
    ///
    /// # Errors
    /// If the scope is missing, or there is no such session of this principal.
    pub async fn session(
        &self,
        principal: &Principal,
        operation: Operation,
        id: SessionId,
    ) -> Result<OwnedSession, Error> {
        let permit = self.permit(principal, operation).await?;
        let session = match self.store.session(permit.owner(), id).await? {
            Some(session) => session,
            None => {
                let about = |_: &Session| About { task: None, call: None };
                let get = |owner| self.store.session(owner, id);
                self.as_admin(principal, operation, Thing::Session(id), get, about).await?
            }
        };
        Ok(OwnedSession { session })
    }
}
