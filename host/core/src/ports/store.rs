//! The port to durable storage. Everything that is acknowledged has been
//! committed; events get their numbers inside the transaction that stores them.

use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::audit::chain::{ChainState, Stored};
use crate::audit::{Audit, AuditFilter, NewAudit};
use crate::call::{Call, ListedCall, Step};
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::event::{Event, NewEvent, Seq};
use crate::grants::{Grant, Grants};
use crate::id::{CallId, GrantId, SessionId, TaskId, TenantId, ToolId};
use crate::key::{KeyId, KeyRecord};
use crate::outcome::Outcome;
use crate::ports::files::FileRecords;
use crate::principal::{Credential, Owner};
use crate::quota::Extent;
use crate::session::Session;
use crate::task::{KeptStep, Lifetimes, Overdue, Task, TaskState};
use crate::ticket::TicketRecord;
use crate::tool::{Tool, ToolOwner, ToolSet, ToolState};

/// Why the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It can't be reached, or timed out: the same command may work later.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its disk is full, so nothing was stored: the same command works once there is room.
    #[error("the disk of the database is full")]
    DiskFull,
    /// It did not answer, and whether it did what it was asked is not known. What can
    /// be asked twice without harm is asked again; else somebody must look.
    #[error("the store did not answer, so it is not known what was stored: {0}")]
    Unsure(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row is not what it must be.
    #[error("the store has an inconsistent row in `{table}` ({row}): {reason}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
        /// What is wrong.
        reason: String,
    },
    /// Another host holds the task: nothing was stored. Who asks again finds that one.
    #[error("the task {0} is held by another host now")]
    NotHeld(TaskId),
    /// The row to be inserted is there already.
    #[error("`{0}` exists already")]
    Exists(&'static str),
}

impl StoreError {
    /// Whether the same command may work later, as it is.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::DiskFull | Self::Unsure(_))
    }
}

/// The numbers of events that one commit appended; empty if `first > last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

/// What identifies a request that must not be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, 1 to 255 bytes.
    pub key: String,
    /// The operation it was sent to.
    pub operation: &'static str,
    /// Digest of the request's body (and of the path it was sent to).
    pub body: Digest,
}

/// For how long an idempotency key is remembered, in milliseconds.
pub const IDEMPOTENCY_TTL_MS: i64 = 24 * 3_600_000;

/// A call to be stored. Its state is `Queued`, or `Running` if a slot is free:
/// accepting and starting then share one commit.
#[derive(Clone, Debug)]
pub struct AcceptCall {
    /// The call.
    pub call: Arc<Call>,
    /// The client's idempotency key.
    pub idempotency: Option<Idempotency>,
    /// Whether its limits may differ from its task's, which are frozen: else a
    /// store need not keep them once more for each call.
    pub own_limits: bool,
    /// Events to append with it.
    pub events: Vec<NewEvent>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// Stored.
    New(Appended),
    /// The key was used before with the same body: this is that call. Nothing was stored.
    Replayed(CallId),
    /// The key was used before with another body. Nothing was stored.
    KeyReused,
    /// The task is not ready (or no longer there, `None`). Nothing was stored.
    TaskNotReady(Option<TaskState>),
}

/// The end of a call: compare-and-set from any state that is not terminal.
#[derive(Clone, Debug)]
pub struct EndCall {
    /// The task.
    pub task: TaskId,
    /// The call.
    pub call: CallId,
    /// When.
    pub at: Timestamp,
    /// How.
    pub outcome: Arc<Outcome>,
    /// Events to append with it, the `call.ended` last.
    pub events: Vec<NewEvent>,
    /// What the task's workspace takes now, if the call changed that.
    pub extent: Option<Extent>,
    /// The record of it, stored if and only if the end is.
    pub audit: NewAudit,
}

/// A page of a list, newest first: those older than `before`.
#[derive(Clone, Debug)]
pub struct Page<Id> {
    /// Only things made before this one.
    pub before: Option<Id>,
    /// At most this many.
    pub limit: u32,
}

/// A page of events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// Events, by number, without gaps.
    pub events: Vec<Event>,
    /// The oldest that is kept.
    pub first_seq: Seq,
    /// The newest there is.
    pub last_seq: Seq,
    /// The task's state.
    pub state: TaskState,
}

/// How long events and ended things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events older than this go; idempotency keys have their own time.
    pub events_before: Timestamp,
    /// A task keeps at most about this many bytes of events, the newest.
    pub events_bytes_per_task: u64,
    /// Records of deleted tasks, with their calls and events, go if they were deleted before this.
    pub deleted_before: Timestamp,
    /// Audit records older than this go, from the beginning of each chain; the link of the last that
    /// went stays.
    pub audit_before: Timestamp,
    /// The time now, for idempotency keys.
    pub now: Timestamp,
}

/// What retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Events removed.
    pub events: u64,
    /// Idempotency keys removed.
    pub idempotency_keys: u64,
    /// Deleted tasks removed.
    pub tasks: u64,
    /// Audit records removed.
    pub audit: u64,
}

/// What a task takes of its owner's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldTask {
    /// Which.
    pub task: TaskId,
    /// What its workspace takes, or its archive.
    pub extent: Extent,
    /// Whether it is deleted and kept.
    pub kept: bool,
}

/// A time that is never over, in milliseconds: some ten million years.
pub const NEVER_MS: i64 = 1 << 58;

/// When tasks' times are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The time now.
    pub now: Timestamp,
    /// What the operator configured; a task's own narrow it.
    pub lifetimes: Lifetimes,
}

impl Times {
    /// What was configured, in milliseconds: idle, archived, age.
    pub fn configured(&self) -> [i64; 3] {
        let Lifetimes { archive_idle_ms, delete_archived_ms, max_age_ms } = self.lifetimes;
        [archive_idle_ms, delete_archived_ms, max_age_ms]
            .map(|time| time.and_then(|time| i64::try_from(time).ok()).map_or(NEVER_MS, |time| time.min(NEVER_MS)))
    }
}

/// A thing that has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A session.
    Session(SessionId),
    /// A task.
    Task(TaskId),
    /// A call.
    Call(CallId),
}

impl Thing {
    /// What it is: `task`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Session(_) => "session",
            Self::Task(_) => "task",
            Self::Call(_) => "call",
        }
    }

    /// Its id.
    pub fn id(self) -> String {
        match self {
            Self::Session(id) => id.to_string(),
            Self::Task(id) => id.to_string(),
            Self::Call(id) => id.to_string(),
        }
    }
}

/// Durable storage.
///
/// Where an operation takes an audit record, that is stored in its transaction, and
/// only if it does something.
#[async_trait]
pub trait Store: FileRecords {
    // ---- tenants and keys

    /// Stores a tenant and a user unless they are there.
    async fn ensure_owner(&self, owner: Owner, at: Timestamp) -> Result<(), StoreError>;
    /// The first tenant and user that were stored, if any.
    async fn first_owner(&self) -> Result<Option<Owner>, StoreError>;
    /// Stores a key.
    async fn create_key(&self, key: &KeyRecord, audit: NewAudit) -> Result<(), StoreError>;
    /// The key with this public id.
    async fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError>;
    /// Every key, newest first.
    async fn list_keys(&self) -> Result<Vec<KeyRecord>, StoreError>;
    /// Revokes a key. False if there is none or it was revoked already.
    async fn revoke_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError>;
    /// Lets a key end at `at`, unless it ends sooner, because another is in its place.
    /// False if there is none, or it was revoked.
    async fn expire_key(&self, id: &KeyId, at: Timestamp, audit: NewAudit) -> Result<bool, StoreError>;
    /// Notes that a key was used.
    async fn touch_key(&self, id: &KeyId, at: Timestamp) -> Result<(), StoreError>;

    /// Whose a thing is, whoever asks. Only for administrators, who are asked why.
    async fn owner_of(&self, thing: Thing) -> Result<Option<Owner>, StoreError>;

    // ---- sessions

    /// Stores a session.
    async fn create_session(&self, session: &Session) -> Result<(), StoreError>;
    /// The owner's session with this id.
    async fn session(&self, owner: Owner, id: SessionId) -> Result<Option<Session>, StoreError>;
    /// The owner's sessions.
    async fn list_sessions(&self, owner: Owner, page: Page<SessionId>) -> Result<Vec<Session>, StoreError>;
    /// Deletes the owner's session; its tasks stay, without it. False if there is none.
    async fn delete_session(&self, owner: Owner, id: SessionId) -> Result<bool, StoreError>;

    // ---- tools

    /// Stores a tool, unless its owner has one with the same digest that is
    /// not rejected: then that one is returned and nothing is stored. A
    /// rejected one is replaced.
    async fn create_tool(&self, tool: &Tool, audit: NewAudit) -> Result<Option<Tool>, StoreError>;
    /// Sets the state of a tool that is compiling. False if it no longer is.
    async fn finish_tool(&self, id: ToolId, state: &ToolState) -> Result<bool, StoreError>;
    /// The tool with this id, if the tenant may see it (`None`: any tenant).
    async fn tool(&self, tenant: Option<TenantId>, id: ToolId) -> Result<Option<Tool>, StoreError>;
    /// The tools that a tenant may see, newest first: operator's and its own.
    async fn list_tools(&self, tenant: TenantId, page: Page<ToolId>) -> Result<Vec<Tool>, StoreError>;
    /// Every tool that a tenant may pin: ready, the newest of each name, a
    /// tenant's own before the operator's.
    async fn pinnable_tools(&self, tenant: TenantId) -> Result<Vec<Tool>, StoreError>;
    /// Tools that were left compiling, oldest first.
    async fn compiling_tools(&self) -> Result<Vec<Tool>, StoreError>;
    /// Those of these components that a tool has, in any state (for the sweep).
    async fn components_of_tools(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError>;
    /// How many other tools an owner has than of this component, in any state, and what
    /// their components take.
    async fn tools_beside(&self, owner: ToolOwner, component: Digest) -> Result<Extent, StoreError>;
    /// Deletes a tool of this owner that no task pins. False if there is none or it is pinned.
    async fn delete_tool(&self, owner: ToolOwner, id: ToolId, audit: NewAudit) -> Result<bool, StoreError>;
    /// The set with this digest.
    async fn tool_set(&self, digest: Digest) -> Result<Option<ToolSet>, StoreError>;

    // ---- tasks and events

    /// Stores a task with its tool set and first events.
    async fn create_task(
        &self,
        task: &Task,
        tools: &ToolSet,
        events: Vec<NewEvent>,
        audit: NewAudit,
    ) -> Result<Appended, StoreError>;
    /// The owner's task with this id.
    async fn task(&self, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// The owner's tasks; of one session, if given. Those deleted are left out, or, if
    /// they are `kept`, they alone are there.
    async fn list_tasks(
        &self,
        owner: Owner,
        session: Option<SessionId>,
        kept: bool,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, StoreError>;
    /// Tasks of any owner in a state, oldest first (for recovery).
    async fn tasks_in_state(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError>;
    /// Tasks of any owner by their ids; those that are not there are left out (for the sweep).
    async fn tasks_of(&self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError>;
    /// Notes what a task's workspace takes.
    async fn note_extent(&self, task: TaskId, extent: Extent) -> Result<(), StoreError>;
    /// How many tasks a tenant has that are not deleted, counted up to `most`.
    async fn count_tasks(&self, tenant: TenantId, most: u64) -> Result<u64, StoreError>;
    /// What an owner's tasks take, those left out that are deleted and not kept.
    async fn task_extents(&self, owner: Owner) -> Result<Vec<HeldTask>, StoreError>;
    /// A step of a task that is deleted and kept; `None` if it is in another state.
    /// Appends the events.
    async fn step_kept(
        &self,
        id: TaskId,
        step: KeptStep,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Result<Option<Appended>, StoreError>;
    /// Notes that tasks are used now, other than by what is in their logs. Seldom more
    /// than ten times in the time after which they would be idle.
    async fn note_active(&self, tasks: &[TaskId], times: Times) -> Result<(), StoreError>;
    /// Up to `limit` tasks whose time is over, and why, of those that this host holds or
    /// nobody does who lives.
    async fn overdue_tasks(&self, times: Times, limit: u32) -> Result<Vec<(Task, Overdue)>, StoreError>;
    /// Moves a task to `to`, if its state is one of those `to` is reached from;
    /// `None` if it is not. Appends the events.
    async fn move_task(
        &self,
        id: TaskId,
        to: TaskState,
        failure: Option<&str>,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Result<Option<Appended>, StoreError>;
    /// Appends events to a task's log; `None` if there is no such task.
    async fn append_events(&self, task: TaskId, events: Vec<NewEvent>) -> Result<Option<Appended>, StoreError>;
    /// Events after a number: at most `max` and about `max_bytes`, but at least one if there is one.
    async fn events_after(
        &self,
        task: TaskId,
        after: Seq,
        max: u32,
        max_bytes: u64,
    ) -> Result<Option<EventPage>, StoreError>;

    // ---- calls

    /// Stores a call.
    async fn accept_call(&self, accept: AcceptCall) -> Result<Accepted, StoreError>;
    /// Moves a queued call to running with what it is granted now, counting the
    /// attempt; `None` if it is not queued.
    async fn start_call(
        &self,
        task: TaskId,
        call: CallId,
        at: Timestamp,
        grants: &Grants,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError>;
    /// Moves a call that is in its attempt number `attempt`: one that runs to waiting
    /// (`Step::Pause`), one that waits to running (`Step::Resume`), or either to queued
    /// (`Step::Requeue`), if its task is ready. `None` if it is not so, or the step is
    /// another one: what is late for its attempt does nothing.
    async fn step_call(
        &self,
        task: TaskId,
        call: CallId,
        attempt: u32,
        step: Step,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError>;
    /// Ends a call; `None` if it had ended already (then nothing is appended).
    async fn end_call(&self, end: EndCall) -> Result<Option<Appended>, StoreError>;
    /// The owner's call with this id.
    async fn call(&self, owner: Owner, id: CallId) -> Result<Option<Call>, StoreError>;
    /// Calls of a task, newest first, each as lists show it: what is long is left out,
    /// and not read where that can be avoided.
    async fn list_calls(&self, task: TaskId, page: Page<CallId>) -> Result<Vec<ListedCall>, StoreError>;
    /// Calls of any owner that have not ended, oldest first (for recovery).
    async fn open_calls(&self) -> Result<Vec<Call>, StoreError>;

    // ---- grants, policies and audit

    /// Stores a grant with its audit record, unless the task holds `most` live ones already: then
    /// nothing is stored and the answer is false.
    async fn create_grant(&self, grant: &Grant, most: u32, audit: NewAudit) -> Result<bool, StoreError>;
    /// The newest grants of a task, newest first, those that ended included.
    async fn list_grants(&self, task: TaskId, limit: u32) -> Result<Vec<Grant>, StoreError>;
    /// Takes one use of a grant. False if it is not live at `now`.
    async fn use_grant(&self, id: GrantId, now: Timestamp) -> Result<bool, StoreError>;
    /// Takes a grant back. False if the task has none such, or it was taken back already.
    async fn revoke_grant(&self, task: TaskId, id: GrantId, at: Timestamp, audit: NewAudit)
    -> Result<bool, StoreError>;
    /// Keeps the text of a policy by its revision, if it is not there, and records that it is
    /// put in force.
    async fn keep_policy(&self, revision: &str, text: &str, at: Timestamp, audit: NewAudit) -> Result<(), StoreError>;
    /// The text of a policy that was in force once.
    async fn policy(&self, revision: &str) -> Result<Option<String>, StoreError>;
    /// Appends records to the audit log, in this order; those of one chain are stored together
    /// or not at all.
    async fn append_audit(&self, records: Vec<NewAudit>) -> Result<(), StoreError>;
    /// Records of an owner, in order, after a number.
    async fn list_audit(
        &self,
        owner: Owner,
        filter: &AuditFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError>;
    /// The number of an owner's record that is so many (one at least) after a number; none
    /// if there are fewer.
    async fn audit_ahead(&self, owner: Owner, after: u64, records: u32) -> Result<Option<u64>, StoreError>;
    /// Every chain of the audit log, by name.
    async fn audit_chains(&self) -> Result<Vec<ChainState>, StoreError>;
    /// Records of a chain as they are stored, in order, after a number.
    async fn chained_audit(&self, chain: &str, after: u64, limit: u32) -> Result<Vec<Stored>, StoreError>;

    // ---- tickets for streams

    /// Stores a ticket, unless its owner has `most` that can still be used:
    /// then nothing is stored and the answer is false. Removes those that expired.
    async fn create_ticket(
        &self,
        ticket: &TicketRecord,
        most: u32,
        now: Timestamp,
        audit: NewAudit,
    ) -> Result<bool, StoreError>;
    /// Takes a ticket for a task away, and says whose it was and by what; `None` if there
    /// is none that can be used at `now`. Of many who try one has it.
    async fn take_ticket(
        &self,
        hash: Digest,
        task: TaskId,
        now: Timestamp,
    ) -> Result<Option<(Owner, Credential)>, StoreError>;

    // ---- upkeep

    /// Removes what need not be kept any longer, a bounded amount at a time.
    async fn retain(&self, retention: Retention) -> Result<Retained, StoreError>;
    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
    /// What time it is by the database's own clock; none if it has the host's.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }
    /// Finishes what is under way and closes.
    async fn close(&self);
}
