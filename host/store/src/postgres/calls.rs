//! Calls: accepted, started, stepped and ended, each by one statement.

use std::collections::HashSet;

use bulkhead_core::call::{Call, CallState, ListedCall, Step};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::grants::Grants;
use bulkhead_core::id::{CallId, TaskId};
use bulkhead_core::outcome::INLINE_RESULT;
use bulkhead_core::ports::cluster::Orphan;
use bulkhead_core::ports::store::{
    AcceptCall, Accepted, Appended, EndCall, IDEMPOTENCY_TTL_MS, Idempotency, Page, StoreError,
};
use bulkhead_core::principal::Owner;
use sqlx::{FromRow as _, Row as _};

use super::PostgresStore;
use super::audit::recording;
use super::events::{Append, Texts, append_sql, appending};
use super::run::Failed;
use super::statement::{Answer, Statement, Work, unreadable};
use crate::rows::{CallRow, OUTCOME_END, Reading, json};

/// Selects what `CallRow` has; a condition follows.
macro_rules! select_call {
    ($condition:literal) => {
        concat!(
            "SELECT c.id, c.task_id, c.tenant_id, c.user_id, c.credential, c.state, c.attempts, c.created_at, c.started_at,
                    c.ended_at, c.tool_name, c.tool_id, c.tool_digest, c.grants, c.arguments, c.outcome,
                    coalesce(nullif(c.limits, ''), (SELECT limits FROM tasks WHERE id = c.task_id)) AS limits
             FROM calls c WHERE ",
            $condition
        )
    };
}

/// Without an idempotency key: the task's row says all.
const ACCEPT: Texts = append_sql!(
    "",
    "",
    " AND tenant_id = $10 AND user_id = $11 AND state = 'ready'",
    ", call AS (
         INSERT INTO calls (id, task_id, tenant_id, user_id, state, attempts, created_at, started_at,
                            tool_name, tool_id, tool_digest, limits, grants, arguments, credential)
         SELECT $9, $1, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22 FROM log
     )
     SELECT (SELECT last_seq FROM log) AS last_seq, NULL::text AS body, NULL::text AS call_id,
            (SELECT state FROM tasks WHERE id = $1 AND tenant_id = $10 AND user_id = $11) AS state"
);

/// With one, looked at first: a retry is answered with its call even if the task has
/// been archived since. The task's row is locked before the key is taken, so that a
/// key is never left without its call.
const ACCEPT_WITH_KEY: Texts = append_sql!(
    "known AS (
         SELECT body, call_id FROM idempotency_keys
         WHERE tenant_id = $10 AND user_id = $11 AND operation = $23 AND key = $24 AND created_at > $26
     ), task AS (
         SELECT state FROM tasks
         WHERE id = $1 AND tenant_id = $10 AND user_id = $11 AND NOT EXISTS (SELECT 1 FROM known)
             AND EXISTS (SELECT 1 FROM mine) FOR NO KEY UPDATE
     ), taken AS (
         INSERT INTO idempotency_keys AS k (tenant_id, user_id, operation, key, body, call_id, created_at)
         SELECT $10, $11, $23, $24, $25, $9, $14 FROM task WHERE state = 'ready'
         ON CONFLICT (tenant_id, user_id, operation, key) DO UPDATE
             SET body = excluded.body, call_id = excluded.call_id, created_at = excluded.created_at
             WHERE k.created_at <= $26
         RETURNING k.key
     ), ",
    "",
    " AND EXISTS (SELECT 1 FROM taken)",
    ", call AS (
         INSERT INTO calls (id, task_id, tenant_id, user_id, state, attempts, created_at, started_at,
                            tool_name, tool_id, tool_digest, limits, grants, arguments, credential)
         SELECT $9, $1, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22 FROM log
     )
     SELECT (SELECT last_seq FROM log) AS last_seq, (SELECT body FROM known) AS body,
            (SELECT call_id FROM known) AS call_id,
            (SELECT state FROM tasks WHERE id = $1 AND tenant_id = $10 AND user_id = $11) AS state"
);

/// How often a call is accepted anew when what one statement saw did not fit together,
/// because others were faster. A second look sees what they did.
const LOOKS: u32 = 4;

pub(super) async fn accept(store: &PostgresStore, accept: AcceptCall) -> Result<Accepted, StoreError> {
    let call = &accept.call;
    if !matches!(call.state, CallState::Queued | CallState::Running { .. }) {
        let reason = format!("a new call can't be {}", call.state.name());
        return Err(StoreError::Corrupt { table: "calls", row: call.id.to_string(), reason });
    }
    let (append, statement) = accepting(store, &accept);
    let work = Work::write("call", statement);
    let mut maybe_second = false;
    for _ in 0..LOOKS {
        let mut done = store.write_in_turn(call.task, work.clone()).await;
        match &mut done {
            Ok(Answer { maybe_second: maybe, .. }) | Err(Failed { maybe_second: maybe, .. }) => {
                *maybe |= maybe_second;
                maybe_second = *maybe;
            }
        }
        if let Some(accepted) = accepted(store, &accept, &append, done).await? {
            return Ok(accepted);
        }
    }
    Err(StoreError::Unavailable("others were faster each time; retry later".into()))
}

fn accepting(store: &PostgresStore, accept: &AcceptCall) -> (Append, Statement) {
    let call = &accept.call;
    let text = if accept.idempotency.is_some() { ACCEPT_WITH_KEY } else { ACCEPT };
    let (append, statement) = appending(store, text, call.task, &accept.events);
    let statement = statement
        .bind_id(call.id)
        .bind_id(call.owner.tenant)
        .bind_id(call.owner.user)
        .bind(call.state.name())
        .bind(i64::from(call.attempts))
        .bind(call.created_at.as_millis())
        .bind(call.state.since().map(Timestamp::as_millis))
        .bind_text(&call.tool_name)
        .bind_id(call.tool)
        .bind_id(call.tool_digest)
        .bind(if accept.own_limits { json(&call.limits).to_string() } else { String::new() })
        .bind(json(&call.grants).to_string())
        .bind_text(&call.arguments)
        .bind(call.by.0.as_deref().map(str::to_owned));
    match &accept.idempotency {
        None => (append, statement),
        Some(Idempotency { key, operation, body }) => {
            let expired = call.created_at.as_millis().saturating_sub(IDEMPOTENCY_TTL_MS);
            (append, statement.bind(*operation).bind_text(key).bind_id(body).bind(expired))
        }
    }
}

/// What became of it; nothing if it must be looked at again.
async fn accepted(
    store: &PostgresStore,
    accept: &AcceptCall,
    append: &Append,
    done: Result<Answer, Failed>,
) -> Result<Option<Accepted>, StoreError> {
    let answer = match done {
        Ok(answer) => answer,
        // The call is there: if an earlier try of this very write put it there, that is the answer.
        Err(Failed { error: StoreError::Exists(what), maybe_second: true }) => {
            let stored = append.receipt(store).await?.ok_or(StoreError::Exists(what))?;
            return Ok(Some(Accepted::New(stored)));
        }
        Err(failed) => return Err(failed.error),
    };
    if let Some(last) = answer.get::<Option<i64>>("last_seq")?.flatten() {
        return Ok(Some(Accepted::New(append.numbers(last))));
    }
    if let (Some(body), Some(first)) =
        (answer.get::<Option<String>>("body")?.flatten(), answer.get::<Option<String>>("call_id")?.flatten())
    {
        let first: CallId = Reading { table: "idempotency_keys", row: &first }.parse("call_id", &first)?;
        if first == accept.call.id && answer.maybe_second {
            return Ok(append.receipt(store).await?.map(Accepted::New));
        }
        let same = accept.idempotency.as_ref().is_some_and(|key| key.body.to_string() == body);
        return Ok(Some(if same { Accepted::Replayed(first) } else { Accepted::KeyReused }));
    }
    match answer.get::<Option<String>>("state")?.flatten().as_deref() {
        // It was not ready when the row was locked, and is now; or the key was taken
        // meanwhile; or another host held the task, and this one does now.
        Some("ready") => append.taken_back(store).await.map(|_| None),
        Some(state) => {
            let name = accept.call.task.to_string();
            let state = Reading { table: "tasks", row: &name }.parse("state", state)?;
            Ok(Some(Accepted::TaskNotReady(Some(state))))
        }
        None => Ok(Some(Accepted::TaskNotReady(None))),
    }
}

pub(super) async fn start(
    store: &PostgresStore,
    task: TaskId,
    call: CallId,
    at: Timestamp,
    grants: &Grants,
    events: &[NewEvent],
) -> Result<Option<Appended>, StoreError> {
    const TEXT: Texts = append_sql!(
        "moved AS (
             UPDATE calls SET state = 'running', started_at = $10, grants = $11, attempts = attempts + 1
             WHERE id = $9 AND task_id = $1 AND state = 'queued'
                 AND EXISTS (SELECT 1 FROM mine) RETURNING 1
         ), ",
        "",
        " AND EXISTS (SELECT 1 FROM moved)",
        "SELECT last_seq FROM log"
    );
    let (append, statement) = appending(store, TEXT, task, events);
    let statement = statement.bind_id(call).bind(at.as_millis()).bind(json(grants).to_string());
    append.run(store, Work::write("call", statement)).await
}

pub(super) async fn step(
    store: &PostgresStore,
    task: TaskId,
    (call, attempt): (CallId, u32),
    step: &Step,
    events: &[NewEvent],
) -> Result<Option<Appended>, StoreError> {
    const MOVE: Texts = append_sql!(
        "moved AS (
             UPDATE calls SET state = $12 WHERE id = $9 AND task_id = $1 AND attempts = $10 AND state = $11
                 AND EXISTS (SELECT 1 FROM mine) RETURNING 1
         ), ",
        "",
        " AND EXISTS (SELECT 1 FROM moved)",
        "SELECT last_seq FROM log"
    );
    const REQUEUE: Texts = append_sql!(
        "moved AS (
             UPDATE calls SET state = 'queued', started_at = NULL
             WHERE id = $9 AND task_id = $1 AND attempts = $10 AND state IN ('running', 'waiting')
                 AND EXISTS (SELECT 1 FROM mine WHERE state = 'ready') RETURNING 1
         ), ",
        "",
        " AND EXISTS (SELECT 1 FROM moved)",
        "SELECT last_seq FROM log"
    );
    let (text, states) = match step {
        Step::Pause => (MOVE, Some(("running", "waiting"))),
        Step::Resume => (MOVE, Some(("waiting", "running"))),
        Step::Requeue => (REQUEUE, None),
        Step::Start | Step::End(_) => return Ok(None),
    };
    let (append, statement) = appending(store, text, task, events);
    let mut statement = statement.bind_id(call).bind(i64::from(attempt));
    if let Some((from, to)) = states {
        statement = statement.bind(from).bind(to);
    }
    append.run(store, Work::write("call", statement)).await
}

pub(super) async fn end(store: &PostgresStore, end: EndCall) -> Result<Option<Appended>, StoreError> {
    const TEXT: Texts = append_sql!(
        "ended AS (
             UPDATE calls SET state = $10, ended_at = $11, outcome = $12
             WHERE id = $9 AND task_id = $1 AND ended_at IS NULL
                 AND EXISTS (SELECT 1 FROM mine) RETURNING 1
         ), ",
        ", used_bytes = coalesce($13, used_bytes), used_entries = coalesce($14, used_entries)",
        " AND EXISTS (SELECT 1 FROM ended)",
        ", recorded AS MATERIALIZED (
             SELECT audit_append($15, $16, $17) AS number FROM log
         )
         SELECT last_seq, (SELECT number FROM recorded) AS recorded FROM log"
    );
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (append, statement) = appending(store, TEXT, end.task, &end.events);
    let statement = statement
        .bind_id(end.call)
        .bind(end.outcome.ending.state())
        .bind(end.at.as_millis())
        .bind(json(&*end.outcome).to_string())
        .bind(end.extent.map(|extent| number(extent.bytes)))
        .bind(end.extent.map(|extent| number(extent.entries)));
    let statement = recording(statement, &end.audit);
    append.run(store, Work::write("call", statement).recording(&end.audit)).await
}

pub(super) async fn get(store: &PostgresStore, owner: Owner, id: CallId) -> Result<Option<Call>, StoreError> {
    let select = Statement::new(select_call!("c.id = $1 AND c.tenant_id = $2 AND c.user_id = $3"));
    let select = select.bind_id(id).bind_id(owner.tenant).bind_id(owner.user);
    store.read(select).await?.maybe::<CallRow, _>()
}

/// Selects what lists show. The length of a long text is known without reading it; of
/// one of a result its end is sent. (No function of JSON: they fail at a guest's `\u0000`.)
const SELECT_LISTED: &str = "
    SELECT c.id, c.task_id, c.tenant_id, c.user_id, c.state, c.attempts, c.created_at, c.started_at,
           c.ended_at, c.tool_name, c.tool_id, c.tool_digest, c.grants, NULL::text AS arguments,
           coalesce(nullif(c.limits, ''), (SELECT limits FROM tasks WHERE id = c.task_id)) AS limits,
           CASE WHEN octet_length(c.outcome) <= $1 THEN c.outcome END AS outcome,
           CASE WHEN c.state = 'succeeded' AND octet_length(c.outcome) > $1
               THEN right(c.outcome, $2::integer) END AS outcome_end
    FROM calls c WHERE c.task_id = $3 AND c.id < $4 ORDER BY c.id DESC LIMIT $5";

pub(super) async fn list(
    store: &PostgresStore,
    task: TaskId,
    page: Page<CallId>,
) -> Result<Vec<ListedCall>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let select = Statement::new(SELECT_LISTED)
        .bind(i64::try_from(INLINE_RESULT).unwrap_or(i64::MAX))
        .bind(OUTCOME_END)
        .bind_id(task)
        .bind(before)
        .bind(i64::from(page.limit));
    let rows = store.read(select).await?.rows;
    let mut calls = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut row = CallRow::from_row(row).map_err(unreadable)?;
        // One at a time: together they may be a hundred megabytes.
        if row.lacks_fault() {
            let select = Statement::new("SELECT outcome FROM calls WHERE id = $1").bind_id(row.id());
            let outcome = store.read(select).await?;
            // Its task was purged a moment ago.
            let Some(text) = outcome.get::<Option<&str>>("outcome")? else { continue };
            text.map(|text| row.set_fault(text)).transpose()?;
        }
        calls.push(row.try_into()?);
    }
    Ok(calls)
}

/// Of these tasks.
pub(super) async fn open_of(store: &PostgresStore, tasks: Vec<String>) -> Result<Vec<Call>, StoreError> {
    let select = Statement::new(select_call!("c.ended_at IS NULL AND c.task_id = ANY($1) ORDER BY c.id"));
    store.read(select.bind(tasks)).await?.all::<CallRow, _>()
}

/// Of the tasks that this host holds, and whether their workspaces are on its volume.
pub(super) async fn open_held(store: &PostgresStore) -> Result<Vec<Orphan>, StoreError> {
    let select = Statement::new(select_call!(
        "c.ended_at IS NULL AND (SELECT holder FROM tasks WHERE id = c.task_id) = $1 ORDER BY c.id"
    ));
    let calls: Vec<Call> = store.read(select.bind(store.token())).await?.all::<CallRow, _>()?;
    let tasks: Vec<_> = calls.iter().map(|call| call.task.to_string()).collect();
    let here = Statement::new(
        "SELECT t.id FROM tasks t JOIN hosts h ON h.token = $1 AND h.volume = t.home WHERE t.id = ANY($2)",
    );
    let mut reachable = HashSet::new();
    for row in &store.read(here.bind(store.token()).bind(tasks)).await?.rows {
        let id: String = row.try_get("id").map_err(unreadable)?;
        reachable.insert(Reading { table: "tasks", row: &id }.parse::<TaskId>("id", &id)?);
    }
    Ok(calls.into_iter().map(|call| Orphan { reachable: reachable.contains(&call.task), call }).collect())
}

pub(super) async fn open(store: &PostgresStore) -> Result<Vec<Call>, StoreError> {
    let select = Statement::new(select_call!("c.ended_at IS NULL ORDER BY c.id"));
    store.read(select).await?.all::<CallRow, _>()
}
