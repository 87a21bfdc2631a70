//! The port, method by method: each is one function of the module that has
//! the SQL of its table.

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

use super::statement::Statement;
use super::{PostgresStore, audit, calls, events, grants, keys, life, retention, sessions, tasks, tickets, tools};

#[async_trait]
impl Store for PostgresStore {
    async fn ensure_owner(&self, owner: Owner, at: Timestamp) -> Result<(), StoreError> {
        keys::ensure_owner(self, owner, at).await
    }

    async fn first_owner(&self) -> Result<Option<Owner>, StoreError> {
        keys::first_owner(self).await
    }

    async fn create_key(&self, key: &KeyRecord, audit: NewAudit) -> Result<(), StoreError> {
        keys::create(self, key, audit).await
    }

    async fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        keys::get(self, id).await
    }

    async fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        keys::list(self).await
    }

    async fn revoke_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError> {
        keys::revoke(self, id, at, audit).await
    }

    async fn expire_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError> {
        keys::expire(self, id, at, audit).await
    }

    async fn touch_key(&self, id: &KeyId, at: Timestamp) -> Result<(), StoreError> {
        keys::touch(self, id, at).await
    }

    async fn owner_of(&self, thing: Thing) -> Result<Option<Owner>, StoreError> {
        keys::owner_of(self, thing).await
    }

    async fn create_session(&self, session: &Session) -> Result<(), StoreError> {
        sessions::create(self, session).await
    }

    async fn session(&self, owner: Owner, id: SessionId) -> Result<Option<Session>, StoreError> {
        sessions::get(self, owner, id).await
    }

    async fn list_sessions(&self, owner: Owner, page: Page<SessionId>) -> Result<Vec<Session>, StoreError> {
        sessions::list(self, owner, page).await
    }

    async fn delete_session(&self, owner: Owner, id: SessionId) -> Result<bool, StoreError> {
        sessions::delete(self, owner, id).await
    }

    async fn create_tool(&self, tool: &Tool, audit: NewAudit) -> Result<Option<Tool>, StoreError> {
        tools::create(self, tool, audit).await
    }

    async fn finish_tool(&self, id: ToolId, state: &ToolState) -> Result<bool, StoreError> {
        tools::finish(self, id, state).await
    }

    async fn tool(&self, tenant: Option<TenantId>, id: ToolId) -> Result<Option<Tool>, StoreError> {
        tools::get(self, tenant, id).await
    }

    async fn list_tools(&self, tenant: TenantId, page: Page<ToolId>) -> Result<Vec<Tool>, StoreError> {
        tools::list(self, tenant, page).await
    }

    async fn pinnable_tools(&self, tenant: TenantId) -> Result<Vec<Tool>, StoreError> {
        tools::pinnable(self, tenant).await
    }

    async fn compiling_tools(&self) -> Result<Vec<Tool>, StoreError> {
        tools::compiling(self).await
    }

    async fn components_of_tools(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        tools::components_of(self, digests).await
    }

    async fn tools_beside(&self, owner: ToolOwner, component: Digest) -> Result<Extent, StoreError> {
        tools::beside(self, owner, component).await
    }

    async fn delete_tool(&self, owner: ToolOwner, id: ToolId, audit: NewAudit) -> Result<bool, StoreError> {
        tools::delete(self, owner, id, audit).await
    }

    async fn tool_set(&self, digest: Digest) -> Result<Option<ToolSet>, StoreError> {
        tools::set(self, digest).await
    }

    async fn create_task(
        &self,
        task: &Task,
        tools: &ToolSet,
        events: Vec<NewEvent>,
        audit: NewAudit,
    ) -> Result<Appended, StoreError> {
        tasks::create(self, task, tools, &events, &audit).await
    }

    async fn task(&self, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError> {
        tasks::get(self, owner, id).await
    }

    async fn list_tasks(
        &self,
        owner: Owner,
        session: Option<SessionId>,
        kept: bool,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError> {
        tasks::list(self, owner, session, kept, page).await
    }

    async fn tasks_in_state(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
        tasks::in_state(self, state, limit).await
    }

    async fn tasks_of(&self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        life::of(self, ids).await
    }

    async fn note_extent(&self, task: TaskId, extent: Extent) -> Result<(), StoreError> {
        tasks::note_extent(self, task, extent).await
    }

    async fn count_tasks(&self, tenant: TenantId, most: u64) -> Result<u64, StoreError> {
        life::count(self, tenant, most).await
    }

    async fn task_extents(&self, owner: Owner) -> Result<Vec<HeldTask>, StoreError> {
        life::extents(self, owner).await
    }

    async fn step_kept(
        &self,
        id: TaskId,
        step: KeptStep,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Result<Option<Appended>, StoreError> {
        life::step_kept(self, id, step, at, &events, audit.as_ref()).await
    }

    async fn note_active(&self, tasks: &[TaskId], times: Times) -> Result<(), StoreError> {
        life::note_active(self, tasks, times).await
    }

    async fn overdue_tasks(&self, times: Times, limit: u32) -> Result<Vec<(Task, Overdue)>, StoreError> {
        life::overdue(self, times, limit).await
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
        tasks::move_to(self, id, to, failure, at, &events, audit.as_ref()).await
    }

    async fn append_events(&self, task: TaskId, events: Vec<NewEvent>) -> Result<Option<Appended>, StoreError> {
        events::append(self, task, &events).await
    }

    async fn events_after(
        &self,
        task: TaskId,
        after: Seq,
        max: u32,
        max_bytes: u64,
    ) -> Result<Option<EventPage>, StoreError> {
        events::after(self, task, after, max, max_bytes).await
    }

    async fn accept_call(&self, accept: AcceptCall) -> Result<Accepted, StoreError> {
        calls::accept(self, accept).await
    }

    async fn start_call(
        &self,
        task: TaskId,
        call: CallId,
        at: Timestamp,
        grants: &Grants,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        calls::start(self, task, call, at, grants, &events).await
    }

    async fn step_call(
        &self,
        task: TaskId,
        call: CallId,
        attempt: u32,
        step: Step,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        calls::step(self, task, (call, attempt), &step, &events).await
    }

    async fn end_call(&self, end: EndCall) -> Result<Option<Appended>, StoreError> {
        calls::end(self, end).await
    }

    async fn call(&self, owner: Owner, id: CallId) -> Result<Option<Call>, StoreError> {
        calls::get(self, owner, id).await
    }

    async fn list_calls(&self, task: TaskId, page: Page<CallId>) -> Result<Vec<ListedCall>, StoreError> {
        calls::list(self, task, page).await
    }

    async fn open_calls(&self) -> Result<Vec<Call>, StoreError> {
        calls::open(self).await
    }

    async fn create_grant(&self, grant: &Grant, most: u32, audit: NewAudit) -> Result<bool, StoreError> {
        grants::create(self, grant, most, audit).await
    }

    async fn list_grants(&self, task: TaskId, limit: u32) -> Result<Vec<Grant>, StoreError> {
        grants::list(self, task, limit).await
    }

    async fn use_grant(&self, id: GrantId, now: Timestamp) -> Result<bool, StoreError> {
        grants::take_use(self, id, now).await
    }

    async fn revoke_grant(
        &self,
        task: TaskId,
        id: GrantId,
        at: Timestamp,
        audit: NewAudit,
    ) -> Result<bool, StoreError> {
        grants::revoke(self, task, id, at, audit).await
    }

    async fn keep_policy(&self, revision: &str, text: &str, at: Timestamp, audit: NewAudit) -> Result<(), StoreError> {
        grants::keep_policy(self, revision, text, at, audit).await
    }

    async fn policy(&self, revision: &str) -> Result<Option<String>, StoreError> {
        grants::policy(self, revision).await
    }

    async fn append_audit(&self, records: Vec<NewAudit>) -> Result<(), StoreError> {
        audit::append(self, records).await
    }

    async fn list_audit(
        &self,
        owner: Owner,
        filter: &AuditFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError> {
        audit::list(self, owner, filter, after, limit).await
    }

    async fn audit_ahead(&self, owner: Owner, after: u64, records: u32) -> Result<Option<u64>, StoreError> {
        audit::ahead(self, owner, after, records).await
    }

    async fn audit_chains(&self) -> Result<Vec<ChainState>, StoreError> {
        audit::chains(self).await
    }

    async fn chained_audit(&self, chain: &str, after: u64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        audit::chained(self, chain, after, limit).await
    }

    async fn create_ticket(
        &self,
        ticket: &TicketRecord,
        most: u32,
        now: Timestamp,
        audit: NewAudit,
    ) -> Result<bool, StoreError> {
        tickets::create(self, ticket, most, now, audit).await
    }

    async fn take_ticket(
        &self,
        hash: Digest,
        task: TaskId,
        now: Timestamp,
    ) -> Result<Option<(Owner, Credential)>, StoreError> {
        tickets::take(self, hash, task, now).await
    }

    async fn retain(&self, retention: Retention) -> Result<Retained, StoreError> {
        retention::retain(self, retention).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(Statement::new("SELECT 1")).await.map(drop)
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        retention::clock(self).await.map(Some)
    }

    async fn close(&self) {
        PostgresStore::close(self).await;
    }
}
