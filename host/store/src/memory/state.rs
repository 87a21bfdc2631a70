//! What the memory store holds, and what happens to tasks, calls and their log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bulkhead_core::audit::NewAudit;
use bulkhead_core::call::{Call, CallState, Step};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{Event, NewEvent, Seq};
use bulkhead_core::files::{Access, DeletedFile, HistoryEntry, Upload, entries_of};
use bulkhead_core::grants::{Grant, Grants};
use bulkhead_core::id::{AccessId, CallId, DeletedId, GrantId, SessionId, TaskId, ToolId, UploadId};
use bulkhead_core::key::KeyRecord;
use bulkhead_core::ports::store::{
    AcceptCall, Accepted, Appended, EndCall, EventPage, IDEMPOTENCY_TTL_MS, Idempotency, Page, StoreError,
};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::session::Session;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::ticket::TicketRecord;
use bulkhead_core::tool::{Tool, ToolSet};

use super::audit::Chains;

/// Everything.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) owners: Vec<Owner>,
    pub(super) keys: Vec<KeyRecord>,
    /// Whether the audit log takes nothing.
    pub(super) audit_refused: bool,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) tools: BTreeMap<ToolId, Tool>,
    pub(super) sets: HashMap<Digest, ToolSet>,
    pub(super) tasks: BTreeMap<TaskId, Entry>,
    pub(super) calls: BTreeMap<CallId, Call>,
    pub(super) grants: BTreeMap<GrantId, Grant>,
    pub(super) policies: HashMap<String, String>,
    pub(super) audit: Chains,
    pub(super) tickets: Vec<TicketRecord>,
    pub(super) deleted: BTreeMap<DeletedId, DeletedFile>,
    pub(super) uploads: BTreeMap<UploadId, Upload>,
    pub(super) accesses: BTreeMap<AccessId, Access>,
    pub(super) used: HashMap<(Owner, &'static str, String), Used>,
}

/// A task and its log.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: Task,
    pub(super) events: VecDeque<Event>,
    pub(super) bytes: u64,
    /// What its workspace takes.
    pub(super) extent: Extent,
    /// What happened to its files.
    pub(super) history: VecDeque<HistoryEntry>,
    /// When it was last used, other than by what is in its log.
    pub(super) active_at: Timestamp,
    /// From when its age counts, if not from its making.
    pub(super) aged_from: Timestamp,
}

/// A used idempotency key.
#[derive(Debug)]
pub(super) struct Used {
    body: Digest,
    call: CallId,
    pub(super) at: Timestamp,
}

impl Entry {
    pub(super) fn append(&mut self, events: Vec<NewEvent>) -> Appended {
        let first = self.task.last_seq + 1;
        for body in events {
            self.task.last_seq += 1;
            self.bytes += body.size();
            self.history.extend(entries_of(&body, self.task.last_seq));
            self.events.push_back(Event { seq: self.task.last_seq, body });
        }
        Appended { first, last: self.task.last_seq }
    }

    fn page(&self, after: Seq, max: u32, max_bytes: u64) -> EventPage {
        let mut bytes = 0;
        let mut events = Vec::new();
        for event in self.events.iter().filter(|event| event.seq > after) {
            bytes += event.body.size();
            if !events.is_empty() && (bytes > max_bytes || events.len() >= max as usize) {
                break;
            }
            events.push(event.clone());
        }
        let Task { first_seq, last_seq, state, .. } = self.task;
        EventPage { events, first_seq, last_seq, state }
    }
}

/// A page of things in order of their ids.
pub(super) fn page<'a, Id: Ord + Copy + 'a, T: Clone + 'a>(
    things: impl DoubleEndedIterator<Item = (&'a Id, &'a T)>,
    page: &Page<Id>,
    wanted: impl Fn(&T) -> bool,
) -> Vec<T> {
    things
        .rev()
        .filter(|(id, thing)| page.before.is_none_or(|before| **id < before) && wanted(thing))
        .take(page.limit as usize)
        .map(|(_, thing)| thing.clone())
        .collect()
}

impl State {
    pub(super) fn create_task(
        &mut self,
        task: &Task,
        tools: &ToolSet,
        events: Vec<NewEvent>,
        audit: NewAudit,
    ) -> Result<Appended, StoreError> {
        if self.tasks.contains_key(&task.id) {
            return Err(StoreError::Exists("task"));
        }
        self.sets.entry(tools.digest).or_insert_with(|| tools.clone());
        let task = Task { tool_set: tools.digest, last_seq: 0, first_seq: 1, ..task.clone() };
        let (active_at, aged_from) = Default::default();
        let (log, history, bytes, extent) = Default::default();
        let mut entry = Entry { task, events: log, bytes, extent, history, active_at, aged_from };
        let appended = entry.append(events);
        self.tasks.insert(entry.task.id, entry);
        self.audit.append(audit);
        Ok(appended)
    }

    pub(super) fn move_task(
        &mut self,
        id: TaskId,
        to: TaskState,
        failure: Option<&str>,
        at: Timestamp,
        events: Vec<NewEvent>,
        audit: Option<NewAudit>,
    ) -> Option<Appended> {
        let entry = self.tasks.get_mut(&id)?;
        if !to.reached_from().contains(&entry.task.state) {
            return None;
        }
        entry.task.state = to;
        entry.task.updated_at = at;
        if let Some(failure) = failure {
            entry.task.failure = Some(failure.to_owned());
        }
        if let Some(audit) = audit {
            self.audit.append(audit);
        }
        Some(entry.append(events))
    }

    pub(super) fn note_extent(&mut self, task: TaskId, extent: Extent) {
        if let Some(entry) = self.tasks.get_mut(&task) {
            entry.extent = extent;
        }
    }

    pub(super) fn append_events(&mut self, task: TaskId, events: Vec<NewEvent>) -> Option<Appended> {
        Some(self.tasks.get_mut(&task)?.append(events))
    }

    pub(super) fn events_after(&self, task: TaskId, after: Seq, max: u32, max_bytes: u64) -> Option<EventPage> {
        Some(self.tasks.get(&task)?.page(after, max, max_bytes))
    }

    pub(super) fn accept_call(&mut self, accept: AcceptCall) -> Result<Accepted, StoreError> {
        let AcceptCall { call, idempotency, events, .. } = accept;
        if let Some(answer) = idempotency.as_ref().and_then(|wanted| self.used_before(&call, wanted)) {
            return Ok(answer);
        }
        let entry = self.tasks.get_mut(&call.task).filter(|entry| entry.task.owner == call.owner);
        let state = entry.as_ref().map(|entry| entry.task.state);
        let (Some(entry), Some(TaskState::Ready)) = (entry, state) else {
            return Ok(Accepted::TaskNotReady(state));
        };
        if self.calls.contains_key(&call.id) {
            return Err(StoreError::Exists("call"));
        }
        if !matches!(call.state, CallState::Queued | CallState::Running { .. }) {
            let reason = format!("a new call can't be {}", call.state.name());
            return Err(StoreError::Corrupt { table: "calls", row: call.id.to_string(), reason });
        }
        if let Some(Idempotency { key, operation, body }) = idempotency {
            let used = Used { body, call: call.id, at: call.created_at };
            self.used.insert((call.owner, operation, key), used);
        }
        let appended = entry.append(events);
        self.calls.insert(call.id, Arc::unwrap_or_clone(call));
        Ok(Accepted::New(appended))
    }

    fn used_before(&self, call: &Call, wanted: &Idempotency) -> Option<Accepted> {
        let used = self.used.get(&(call.owner, wanted.operation, wanted.key.clone()))?;
        if used.at <= call.created_at.plus_millis(-IDEMPOTENCY_TTL_MS) {
            return None;
        }
        Some(if used.body == wanted.body { Accepted::Replayed(used.call) } else { Accepted::KeyReused })
    }

    pub(super) fn start_call(
        &mut self,
        task: TaskId,
        call: CallId,
        at: Timestamp,
        grants: &Grants,
        events: Vec<NewEvent>,
    ) -> Option<Appended> {
        let call = self.step(task, call, &Step::Start, at)?;
        call.attempts += 1;
        call.grants = grants.clone();
        self.append_events(task, events)
    }

    pub(super) fn step_call(
        &mut self,
        task: TaskId,
        (call, attempt): (CallId, u32),
        step: &Step,
        events: Vec<NewEvent>,
    ) -> Option<Appended> {
        let ready = || self.tasks.get(&task).is_some_and(|entry| entry.task.state == TaskState::Ready);
        let may = match step {
            Step::Pause | Step::Resume => true,
            Step::Requeue => ready(),
            Step::Start | Step::End(_) => false,
        };
        if !may || self.calls.get(&call)?.attempts != attempt {
            return None;
        }
        self.step(task, call, step, Timestamp::default())?;
        self.append_events(task, events)
    }

    pub(super) fn end_call(&mut self, end: EndCall) -> Option<Appended> {
        self.step(end.task, end.call, &Step::End(end.outcome), end.at)?;
        if let Some(extent) = end.extent {
            self.note_extent(end.task, extent);
        }
        self.audit.append(end.audit);
        self.append_events(end.task, end.events)
    }

    fn step(&mut self, task: TaskId, call: CallId, step: &Step, at: Timestamp) -> Option<&mut Call> {
        let call = self.calls.get_mut(&call).filter(|call| call.task == task)?;
        call.state = call.state.next(step, at).ok()?;
        Some(call)
    }
}
