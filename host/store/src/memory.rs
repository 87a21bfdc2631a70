//! The store in memory: same promises, one mutex, gone with the process. For
//! tests and one-shot runs; nothing bounds it but what is put in, and its
//! lists are searched linearly, so a server must not use it.

mod audit;
mod files;
mod grants;
mod life;
mod state;
mod tools;

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bulkhead_core::audit::chain::{ChainState, Stored};
use bulkhead_core::audit::{Audit, AuditFilter, NewAudit};
use bulkhead_core::call::{Call, ListedCall, Step};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{NewEvent, Seq};
use bulkhead_core::grants::{Grant, Grants};
use bulkhead_core::id::{CallId, GrantId, SessionId, TaskId, TenantId, ToolId};
use bulkhead_core::key::{KeyId, KeyRecord};
use bulkhead_core::ports::store::{
    AcceptCall, Accepted, Appended, EndCall, EventPage, HeldTask, Page, Retained, Retention, Store, StoreError, Thing,
    Times,
};
use bulkhead_core::principal::{Credential, Owner};
use bulkhead_core::quota::Extent;
use bulkhead_core::session::Session;
use bulkhead_core::task::{KeptStep, Overdue, Task, TaskState};
use bulkhead_core::ticket::TicketRecord;
use bulkhead_core::tool::{Tool, ToolOwner, ToolSet, ToolState};

use state::{State, page as page_of};

/// Storage in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets nothing more be appended to the audit log, or lets it again: for
    /// tests of what must not happen unwritten.
    pub fn refuse_audit(&self, refused: bool) {
        self.state().audit_refused = refused;
    }

    /// The state; what a panicking holder left is consistent enough for a test to say what it saw.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn ensure_owner(&self, owner: Owner, at: Timestamp) -> Result<(), StoreError> {
        let _ = at;
        let owners = &mut self.state().owners;
        if !owners.contains(&owner) {
            owners.push(owner);
        }
        Ok(())
    }

    async fn first_owner(&self) -> Result<Option<Owner>, StoreError> {
        Ok(self.state().owners.first().copied())
    }

    async fn create_key(&self, key: &KeyRecord, audit: NewAudit) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.keys.iter().any(|known| known.id == key.id) {
            return Err(StoreError::Exists("key"));
        }
        state.keys.push(key.clone());
        state.audit.append(audit);
        Ok(())
    }

    async fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.state().keys.iter().find(|key| key.id == *id).cloned())
    }

    async fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let mut keys: Vec<_> = self.state().keys.iter().rev().cloned().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.created_at));
        Ok(keys)
    }

    async fn revoke_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError> {
        let mut state = self.state();
        let key = state.keys.iter_mut().find(|key| key.id == *id && key.revoked_at.is_none());
        let revoked = key.map(|key| key.revoked_at = Some(at)).is_some();
        if revoked {
            state.audit.append(audit);
        }
        Ok(revoked)
    }

    async fn expire_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError> {
        let mut state = self.state();
        let key = state.keys.iter_mut().find(|key| key.id == *id && key.revoked_at.is_none());
        let Some(key) = key else { return Ok(false) };
        key.expires_at = Some(key.expires_at.map_or(at, |known| known.min(at)));
        state.audit.append(audit);
        Ok(true)
    }

    async fn touch_key(&self, id: &KeyId, at: Timestamp) -> Result<(), StoreError> {
        if let Some(key) = self.state().keys.iter_mut().find(|key| key.id == *id) {
            key.last_used_at = key.last_used_at.max(Some(at));
        }
        Ok(())
    }

    async fn owner_of(&self, thing: Thing) -> Result<Option<Owner>, StoreError> {
        let state = self.state();
        Ok(match thing {
            Thing::Session(id) => state.sessions.get(&id).map(|session| session.owner),
            Thing::Task(id) => state.tasks.get(&id).map(|entry| entry.task.owner),
            Thing::Call(id) => state.calls.get(&id).map(|call| call.owner),
        })
    }

    async fn create_session(&self, session: &Session) -> Result<(), StoreError> {
        let sessions = &mut self.state().sessions;
        if sessions.contains_key(&session.id) {
            return Err(StoreError::Exists("session"));
        }
        sessions.insert(session.id, session.clone());
        Ok(())
    }

    async fn session(&self, owner: Owner, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.state().sessions.get(&id).filter(|session| session.owner == owner).cloned())
    }

    async fn list_sessions(&self, owner: Owner, page: Page<SessionId>) -> Result<Vec<Session>, StoreError> {
        Ok(page_of(self.state().sessions.iter(), &page, |session| session.owner == owner))
    }

    async fn delete_session(&self, owner: Owner, id: SessionId) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.sessions.get(&id).is_none_or(|session| session.owner != owner) {
            return Ok(false);
        }
        state.sessions.remove(&id);
        for entry in state.tasks.values_mut().filter(|entry| entry.task.session == Some(id)) {
            entry.task.session = None;
        }
        Ok(true)
    }

    async fn create_tool(&self, tool: &Tool, audit: NewAudit) -> Result<Option<Tool>, StoreError> {
        self.state().create_tool(tool, audit)
    }

    async fn finish_tool(&self, id: ToolId, state: &ToolState) -> Result<bool, StoreError> {
        Ok(self.state().finish_tool(id, state))
    }

    async fn tool(&self, tenant: Option<TenantId>, id: ToolId) -> Result<Option<Tool>, StoreError> {
        let visible = |tool: &&Tool| tenant.is_none_or(|tenant| tool.owner.visible_to(tenant));
        Ok(self.state().tools.get(&id).filter(visible).cloned())
    }

    async fn list_tools(&self, tenant: TenantId, page: Page<ToolId>) -> Result<Vec<Tool>, StoreError> {
        Ok(page_of(self.state().tools.iter(), &page, |tool| tool.owner.visible_to(tenant)))
    }

    async fn pinnable_tools(&self, tenant: TenantId) -> Result<Vec<Tool>, StoreError> {
        Ok(self.state().pinnable_tools(tenant))
    }

    async fn compiling_tools(&self) -> Result<Vec<Tool>, StoreError> {
        Ok(self.state().tools.values().filter(|tool| tool.state == ToolState::Compiling).cloned().collect())
    }

    async fn components_of_tools(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let state = self.state();
        let has = |digest: &&Digest| state.tools.values().any(|tool| tool.digest == **digest);
        Ok(digests.iter().filter(has).copied().collect())
    }

    async fn tools_beside(&self, owner: ToolOwner, component: Digest) -> Result<Extent, StoreError> {
        let state = self.state();
        let beside = state.tools.values().filter(|tool| tool.owner == owner && tool.digest != component);
        Ok(beside
            .fold(Extent::default(), |sum, tool| Extent { bytes: sum.bytes + tool.size, entries: sum.entries + 1 }))
    }

    async fn delete_tool(&self, owner: ToolOwner, id: ToolId, audit: NewAudit) -> Result<bool, StoreError> {
        Ok(self.state().delete_tool(owner, id, audit))
    }

    async fn tool_set(&self, digest: Digest) -> Result<Option<ToolSet>, StoreError> {
        Ok(self.state().sets.get(&digest).cloned())
    }

    async fn create_task(
        &self,
        task: &Task,
        tools: &ToolSet,
        events: Vec<NewEvent>,
        audit: NewAudit,
    ) -> Result<Appended, StoreError> {
        self.state().create_task(task, tools, events, audit)
    }

    async fn task(&self, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError> {
        let state = self.state();
        let task = state.tasks.get(&id).map(|entry| &entry.task);
        Ok(task.filter(|task| task.owner == owner).cloned())
    }

    async fn list_tasks(
        &self,
        owner: Owner,
        session: Option<SessionId>,
        kept: bool,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        let wanted = |task: &Task| {
            task.owner == owner
                && (if kept { task.kept_until.is_some() } else { task.state != TaskState::Deleted })
                && session.is_none_or(|session| task.session == Some(session))
        };
        Ok(page_of(self.state().tasks.iter().map(|(id, entry)| (id, &entry.task)), &page, wanted))
    }

    async fn tasks_in_state(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
        let all = self.state();
        let tasks = all.tasks.values().map(|entry| &entry.task).filter(|task| task.state == state);
        Ok(tasks.take(limit as usize).cloned().collect())
    }

    async fn tasks_of(&self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        let state = self.state();
        Ok(ids.iter().filter_map(|id| state.tasks.get(id)).map(|entry| entry.task.clone()).collect())
    }

    async fn note_extent(&self, task: TaskId, extent: Extent) -> Result<(), StoreError> {
        self.state().note_extent(task, extent);
        Ok(())
    }

    async fn count_tasks(&self, tenant: TenantId, most: u64) -> Result<u64, StoreError> {
        let state = self.state();
        let of_tenant =
            |entry: &&state::Entry| entry.task.owner.tenant == tenant && entry.task.state != TaskState::Deleted;
        Ok((state.tasks.values().filter(of_tenant).count() as u64).min(most))
    }

    async fn task_extents(&self, owner: Owner) -> Result<Vec<HeldTask>, StoreError> {
        Ok(self.state().extents(owner))
    }

    async fn step_kept(
        &self,
        id: TaskId,
        step: KeptStep,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().step_kept(id, step, at, events, audit))
    }

    async fn note_active(&self, tasks: &[TaskId], times: Times) -> Result<(), StoreError> {
        self.state().note_active(tasks, times);
        Ok(())
    }

    async fn overdue_tasks(&self, times: Times, limit: u32) -> Result<Vec<(Task, Overdue)>, StoreError> {
        Ok(self.state().overdue(times, limit))
    }

    async fn move_task(
        &self,
        id: TaskId,
        to: TaskState,
        failure: Option<&str>,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().move_task(id, to, failure, at, events, audit))
    }

    async fn append_events(&self, task: TaskId, events: Vec<NewEvent>) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().append_events(task, events))
    }

    async fn events_after(
        &self,
        task: TaskId,
        after: Seq,
        max: u32,
        max_bytes: u64,
    ) -> Result<Option<EventPage>, StoreError> {
        Ok(self.state().events_after(task, after, max, max_bytes))
    }

    async fn accept_call(&self, accept: AcceptCall) -> Result<Accepted, StoreError> {
        self.state().accept_call(accept)
    }

    async fn start_call(
        &self,
        task: TaskId,
        call: CallId,
        at: Timestamp,
        grants: &Grants,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().start_call(task, call, at, grants, events))
    }

    async fn step_call(
        &self,
        task: TaskId,
        call: CallId,
        attempt: u32,
        step: Step,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().step_call(task, (call, attempt), &step, events))
    }

    async fn end_call(&self, end: EndCall) -> Result<Option<Appended>, StoreError> {
        Ok(self.state().end_call(end))
    }

    async fn call(&self, owner: Owner, id: CallId) -> Result<Option<Call>, StoreError> {
        Ok(self.state().calls.get(&id).filter(|call| call.owner == owner).cloned())
    }

    async fn list_calls(&self, task: TaskId, page: Page<CallId>) -> Result<Vec<ListedCall>, StoreError> {
        let calls = page_of(self.state().calls.iter(), &page, |call| call.task == task);
        Ok(calls.iter().map(ListedCall::from).collect())
    }

    async fn open_calls(&self) -> Result<Vec<Call>, StoreError> {
        Ok(self.state().calls.values().filter(|call| !call.state.is_ended()).cloned().collect())
    }

    async fn create_grant(&self, grant: &Grant, most: u32, audit: NewAudit) -> Result<bool, StoreError> {
        self.state().create_grant(grant, most, audit)
    }

    async fn list_grants(&self, task: TaskId, limit: u32) -> Result<Vec<Grant>, StoreError> {
        let state = self.state();
        let grants = state.grants.values().rev().filter(|grant| grant.task == task);
        Ok(grants.take(limit as usize).cloned().collect())
    }

    async fn use_grant(&self, id: GrantId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.state().use_grant(id, now))
    }

    async fn revoke_grant(
        &self,
        task: TaskId,
        id: GrantId,
        at: Timestamp,
        audit: NewAudit,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let grant = state.grants.get_mut(&id).filter(|grant| grant.task == task && grant.revoked_at.is_none());
        let revoked = grant.map(|grant| grant.revoked_at = Some(at)).is_some();
        if revoked {
            state.audit.append(audit);
        }
        Ok(revoked)
    }

    async fn keep_policy(&self, revision: &str, text: &str, _at: Timestamp, audit: NewAudit) -> Result<(), StoreError> {
        let mut state = self.state();
        state.policies.entry(revision.to_owned()).or_insert_with(|| text.to_owned());
        state.audit.append(audit);
        Ok(())
    }

    async fn policy(&self, revision: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().policies.get(revision).cloned())
    }

    async fn append_audit(&self, records: Vec<NewAudit>) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.audit_refused {
            return Err(StoreError::Unavailable("the audit log is closed".into()));
        }
        records.into_iter().for_each(|record| state.audit.append(record));
        Ok(())
    }

    async fn list_audit(
        &self,
        owner: Owner,
        filter: &AuditFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError> {
        Ok(self.state().audit.list(owner, filter, after, limit))
    }

    async fn audit_ahead(&self, owner: Owner, after: u64, records: u32) -> Result<Option<u64>, StoreError> {
        let all = self.state().audit.list(owner, &AuditFilter::default(), after, records);
        Ok(all.get(records.max(1) as usize - 1).map(|audit| audit.number))
    }

    async fn audit_chains(&self) -> Result<Vec<ChainState>, StoreError> {
        Ok(self.state().audit.states())
    }

    async fn chained_audit(&self, chain: &str, after: u64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        Ok(self.state().audit.stored(chain, after, limit))
    }

    async fn create_ticket(
        &self,
        ticket: &TicketRecord,
        most: u32,
        now: Timestamp,
        audit: NewAudit,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        state.tickets.retain(|known| known.expires_at > now);
        let room = state.tickets.iter().filter(|known| known.owner == ticket.owner).count() < most as usize;
        if room {
            state.tickets.push(ticket.clone());
            state.audit.append(audit);
        }
        Ok(room)
    }

    async fn take_ticket(
        &self,
        hash: Digest,
        task: TaskId,
        now: Timestamp,
    ) -> Result<Option<(Owner, Credential)>, StoreError> {
        let tickets = &mut self.state().tickets;
        let fits = |known: &TicketRecord| known.hash == hash && known.task == task && known.expires_at > now;
        let taken = tickets.iter().position(fits).map(|at| tickets.swap_remove(at));
        Ok(taken.map(|ticket| (ticket.owner, ticket.credential)))
    }

    async fn retain(&self, retention: Retention) -> Result<Retained, StoreError> {
        Ok(self.state().retain(retention))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_promises() {
        crate::contract::run(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
    }
}
