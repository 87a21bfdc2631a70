//! Calls: accepted, started and ended by the writer; read with their arguments
//! and outcome, wherever those are kept.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState, ListedCall, Step};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::grants::Grants;
use bulkhead_core::id::{CallId, TaskId};
use bulkhead_core::outcome::INLINE_RESULT;
use bulkhead_core::ports::store::{
    AcceptCall, Accepted, Appended, EndCall, IDEMPOTENCY_TTL_MS, Idempotency, Page, StoreError,
};
use bulkhead_core::principal::Owner;
use rusqlite::{Connection, OptionalExtension as _, params};
use sqlx::{query_as, query_scalar};

use super::audit::Link;
use super::log::{self, Log};
use super::write::Transaction;
use super::{SqliteStore, read_failed};
use crate::rows::{CallRow, OUTCOME_END, Reading, all, json, maybe};

/// Texts over this many bytes are stored in `payloads`.
pub(super) const LARGE: usize = 4096;

/// Selects what `CallRow` has; a condition follows.
macro_rules! select_call {
    ($condition:literal) => {
        concat!(
            "SELECT c.id, c.task_id, c.tenant_id, c.user_id, c.credential, c.state, c.attempts, c.created_at, c.started_at,
                    c.ended_at, c.tool_name, c.tool_id, c.tool_digest, c.grants,
                    coalesce(nullif(c.limits, ''), (SELECT limits FROM tasks WHERE id = c.task_id)) AS limits,
                    coalesce(c.arguments, (SELECT body FROM payloads WHERE id = c.arguments_ref)) AS arguments,
                    coalesce(c.outcome, (SELECT body FROM payloads WHERE id = c.outcome_ref)) AS outcome
             FROM calls c WHERE ",
            $condition
        )
    };
}

pub(super) async fn accept(store: &SqliteStore, accept: AcceptCall) -> Result<Accepted, StoreError> {
    let call = &accept.call;
    if !matches!(call.state, CallState::Queued | CallState::Running { .. }) {
        let reason = format!("a new call can't be {}", call.state.name());
        return Err(StoreError::Corrupt { table: "calls", row: call.id.to_string(), reason });
    }
    let name = call.task.to_string();
    let new = NewCall::new(accept);
    let stored = store.write("call", move |db| new.insert(db)).await?;
    let reading = Reading { table: "tasks", row: &name };
    match stored {
        Stored::New(appended) => Ok(Accepted::New(appended)),
        Stored::Replayed(call) => {
            let reading = Reading { table: "idempotency_keys", row: &call };
            Ok(Accepted::Replayed(reading.parse("call_id", &call)?))
        }
        Stored::KeyReused => Ok(Accepted::KeyReused),
        Stored::NotReady(state) => {
            Ok(Accepted::TaskNotReady(state.map(|state| reading.parse("state", &state)).transpose()?))
        }
    }
}

/// What became of a new call: as `Accepted`, in the words of the database.
enum Stored {
    New(Appended),
    Replayed(String),
    KeyReused,
    NotReady(Option<String>),
}

/// A call to be stored, its texts made before it is the writer's turn.
struct NewCall {
    accept: AcceptCall,
    id: String,
    task: String,
    tenant: String,
    user: String,
    /// Empty: those of its task, which never change.
    limits: Arc<str>,
    grants: Arc<str>,
}

impl NewCall {
    fn new(accept: AcceptCall) -> Self {
        let call = &accept.call;
        Self {
            id: call.id.to_string(),
            task: call.task.to_string(),
            tenant: call.owner.tenant.to_string(),
            user: call.owner.user.to_string(),
            limits: if accept.own_limits { json(&call.limits) } else { "".into() },
            grants: json(&call.grants),
            accept,
        }
    }

    fn insert(&self, db: &Connection) -> rusqlite::Result<Stored> {
        let key = self.accept.idempotency.as_ref();
        // The key is looked at first: a retry is answered with its call even if
        // the task has been archived since.
        if let Some(key) = key
            && let Some((body, call)) = self.known(db, key)?
        {
            return Ok(if body == key.body.to_string() { Stored::Replayed(call) } else { Stored::KeyReused });
        }
        let log = Log::of(db, &self.task)?.filter(|log| log.is_of(&self.tenant, &self.user));
        let Some(log) = log else { return Ok(Stored::NotReady(None)) };
        if log.state != "ready" {
            return Ok(Stored::NotReady(Some(log.state)));
        }
        if let Some(key) = key {
            self.remember(db, key)?;
        }
        self.insert_row(db)?;
        Ok(Stored::New(log.append(db, &self.task, &self.accept.events, 1)?))
    }

    fn known(&self, db: &Connection, key: &Idempotency) -> rusqlite::Result<Option<(String, String)>> {
        let expired = self.accept.call.created_at.as_millis().saturating_sub(IDEMPOTENCY_TTL_MS);
        db.prepare_cached(
            "SELECT body, call_id FROM idempotency_keys
             WHERE tenant_id = ? AND user_id = ? AND operation = ? AND key = ? AND created_at > ?",
        )?
        .query_row(params![self.tenant, self.user, key.operation, key.key, expired], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
    }

    fn remember(&self, db: &Connection, key: &Idempotency) -> rusqlite::Result<()> {
        let at = self.accept.call.created_at.as_millis();
        db.prepare_cached(
            "INSERT OR REPLACE INTO idempotency_keys (tenant_id, user_id, operation, key, body, call_id, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![self.tenant, self.user, key.operation, key.key, key.body.to_string(), self.id, at])
        .map(drop)
    }

    fn insert_row(&self, db: &Connection) -> rusqlite::Result<()> {
        let call = &*self.accept.call;
        let large = call.arguments.len() > LARGE;
        let reference = large.then(|| format!("{}/arguments", self.id));
        if let Some(reference) = &reference {
            store_payload(db, reference, &self.task, &call.arguments)?;
        }
        db.prepare_cached(
            "INSERT INTO calls (id, task_id, tenant_id, user_id, credential, state, attempts, created_at, started_at,
                                tool_name, tool_id, tool_digest, limits, grants, arguments, arguments_ref)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            self.id,
            self.task,
            self.tenant,
            self.user,
            call.by.0.as_deref(),
            call.state.name(),
            call.attempts,
            call.created_at.as_millis(),
            call.state.since().map(Timestamp::as_millis),
            call.tool_name,
            call.tool.to_string(),
            call.tool_digest.to_string(),
            self.limits,
            self.grants,
            (!large).then_some(&*call.arguments),
            reference,
        ])
        .map(drop)
    }
}

/// Stores a text beside its row.
fn store_payload(db: &Connection, reference: &str, task: &str, body: &str) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO payloads (id, tenant_id, task_id, body) SELECT ?, tenant_id, id, ? FROM tasks WHERE id = ?",
    )?
    .execute(params![reference, body, task])
    .map(drop)
}

pub(super) async fn start(
    store: &SqliteStore,
    task: TaskId,
    call: CallId,
    at: Timestamp,
    grants: &Grants,
    events: Vec<NewEvent>,
) -> Result<Option<Appended>, StoreError> {
    let (task, call, at, grants) = (task.to_string(), call.to_string(), at.as_millis(), json(grants));
    let start = move |db: &Transaction<'_>| {
        let started = db
            .prepare_cached(
                "UPDATE calls SET state = 'running', started_at = ?, grants = ?, attempts = attempts + 1
                 WHERE id = ? AND task_id = ? AND state = 'queued'",
            )?
            .execute(params![at, grants, call, task])?;
        if started == 0 { Ok(None) } else { log::append(db, &task, &events) }
    };
    store.write("call", start).await
}

pub(super) async fn step(
    store: &SqliteStore,
    task: TaskId,
    (call, attempt): (CallId, u32),
    step: &Step,
    events: Vec<NewEvent>,
) -> Result<Option<Appended>, StoreError> {
    let text = match step {
        Step::Pause => {
            "UPDATE calls SET state = 'waiting' WHERE id = ? AND task_id = ? AND attempts = ? AND state = 'running'"
        }
        Step::Resume => {
            "UPDATE calls SET state = 'running' WHERE id = ? AND task_id = ? AND attempts = ? AND state = 'waiting'"
        }
        Step::Requeue => {
            "UPDATE calls SET state = 'queued', started_at = NULL
             WHERE id = ? AND task_id = ? AND attempts = ? AND (state = 'running' OR state = 'waiting')
                 AND EXISTS (SELECT 1 FROM tasks WHERE id = task_id AND state = 'ready')"
        }
        Step::Start | Step::End(_) => return Ok(None),
    };
    let (task, call) = (task.to_string(), call.to_string());
    let step = move |db: &Transaction<'_>| {
        let moved = db.prepare_cached(text)?.execute(params![call, task, attempt])?;
        if moved == 0 { Ok(None) } else { log::append(db, &task, &events) }
    };
    store.write("call", step).await
}

pub(super) async fn end(store: &SqliteStore, end: EndCall) -> Result<Option<Appended>, StoreError> {
    let (task, call, body) = (end.task.to_string(), end.call.to_string(), json(&*end.outcome));
    let (link, rows) = (Link::from(&end.audit), log::rows_of(&end.events));
    let end = move |db: &Transaction<'_>| {
        let large = body.len() > LARGE;
        let reference = large.then(|| format!("{call}/outcome"));
        let ended = db
            .prepare_cached(
                "UPDATE calls SET state = ?, ended_at = ?, outcome = ?, outcome_ref = ?
                 WHERE id = ? AND task_id = ? AND ended_at IS NULL",
            )?
            .execute(params![
                end.outcome.ending.state(),
                end.at.as_millis(),
                (!large).then_some(&*body),
                reference,
                call,
                task
            ])?;
        if ended == 0 {
            return Ok(None);
        }
        if let Some(reference) = reference {
            store_payload(db, &reference, &task, &body)?;
        }
        if let Some(extent) = end.extent {
            super::tasks::set_extent(db, &task, extent)?;
        }
        link.append(db)?;
        log::append_end(db, &task, &end.events)
    };
    store.write_rows("call", rows, end).await
}

pub(super) async fn get(store: &SqliteStore, owner: Owner, id: CallId) -> Result<Option<Call>, StoreError> {
    let row: Option<CallRow> = query_as(select_call!("c.id = ? AND c.tenant_id = ? AND c.user_id = ?"))
        .bind(id.to_string())
        .bind(owner.tenant.to_string())
        .bind(owner.user.to_string())
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    maybe(row)
}

/// Selects what lists show. A text in `payloads` that is longer is looked at for its
/// length alone, which is in its row, and one of a result for its end.
const SELECT_LISTED: &str = "
    SELECT c.id, c.task_id, c.tenant_id, c.user_id, c.state, c.attempts, c.created_at, c.started_at,
           c.ended_at, c.tool_name, c.tool_id, c.tool_digest, c.grants, NULL AS arguments,
           coalesce(nullif(c.limits, ''), (SELECT limits FROM tasks WHERE id = c.task_id)) AS limits,
           coalesce(c.outcome, CASE WHEN octet_length(p.body) <= ?1 THEN p.body END) AS outcome,
           CASE WHEN c.state = 'succeeded' AND octet_length(p.body) > ?1 THEN substr(p.body, -?2) END AS outcome_end
    FROM calls c LEFT JOIN payloads p ON p.id = c.outcome_ref
    WHERE c.task_id = ?3 AND c.id < ?4 ORDER BY c.id DESC LIMIT ?5";

pub(super) async fn list(store: &SqliteStore, task: TaskId, page: Page<CallId>) -> Result<Vec<ListedCall>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let rows: Vec<CallRow> = query_as(SELECT_LISTED)
        .bind(i64::try_from(INLINE_RESULT).unwrap_or(i64::MAX))
        .bind(OUTCOME_END)
        .bind(task.to_string())
        .bind(before)
        .bind(page.limit)
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    let mut calls = Vec::with_capacity(rows.len());
    for mut row in rows {
        // One at a time: together they may be a hundred megabytes.
        if row.lacks_fault() {
            let text = "SELECT p.body FROM calls c LEFT JOIN payloads p ON p.id = c.outcome_ref WHERE c.id = ?";
            let text: Option<Option<String>> =
                query_scalar(text).bind(row.id()).fetch_optional(&store.readers).await.map_err(read_failed)?;
            // Its task was purged a moment ago.
            let Some(text) = text else { continue };
            text.map(|text| row.set_fault(&text)).transpose()?;
        }
        calls.push(row.try_into()?);
    }
    Ok(calls)
}

pub(super) async fn open(store: &SqliteStore) -> Result<Vec<Call>, StoreError> {
    let text = select_call!(
        "c.ended_at IS NULL
             AND c.task_id IN (SELECT id FROM logs CROSS JOIN tasks USING (number) WHERE open_calls > 0) ORDER BY c.id"
    );
    let rows: Vec<CallRow> = query_as(text).fetch_all(&store.readers).await.map_err(read_failed)?;
    all(rows)
}
