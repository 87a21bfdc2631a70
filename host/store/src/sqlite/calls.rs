//! Calls: accepted, started and ended by grouped commands; read with their
//! arguments and outcome, wherever those are kept.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{CallId, TaskId};
use bulkhead_core::ports::store::{AcceptCall, Accepted, Appended, EndCall, IDEMPOTENCY_TTL_MS, Page, StoreError};
use bulkhead_core::principal::Owner;
use sqlx::query_as;

use super::command::{Done, Row, json, text};
use super::rows::{CallRow, Reading, all, maybe};
use super::{SqliteStore, read_failed};

/// Selects what `CallRow` has; a condition follows.
macro_rules! select_call {
    ($condition:literal) => {
        concat!(
            "SELECT c.id, c.task_id, c.tenant_id, c.user_id, c.state, c.attempts, c.created_at, c.started_at,
                    c.ended_at, c.tool_name, c.tool_id, c.tool_digest, c.limits, c.grants,
                    coalesce(c.arguments, (SELECT body FROM payloads WHERE id = c.arguments_ref)) AS arguments,
                    coalesce(c.outcome, (SELECT body FROM payloads WHERE id = c.outcome_ref)) AS outcome
             FROM calls c WHERE ",
            $condition
        )
    };
}

pub(super) async fn accept(store: &SqliteStore, accept: AcceptCall) -> Result<Accepted, StoreError> {
    let AcceptCall { call, idempotency, events } = accept;
    if !matches!(call.state, CallState::Queued | CallState::Running { .. }) {
        let reason = format!("a new call can't be {}", call.state.name());
        return Err(StoreError::Corrupt { table: "calls", row: call.id.to_string(), reason });
    }
    let count = events.len();
    let created_at = call.created_at.as_millis();
    let mut row = Row {
        call: text(call.id),
        tenant: text(call.owner.tenant),
        user: text(call.owner.user),
        state: Some(call.state.name()),
        since: call.state.since().map(Timestamp::as_millis),
        limits: Some(json(&call.limits)),
        grants: Some(json(&call.grants)),
        tool_name: text(&call.tool_name),
        tool: text(call.tool),
        tool_digest: text(call.tool_digest),
        attempts: Some(i64::from(call.attempts)),
        ..Row::new("accept", call.task, created_at, &events)
    }
    .with_body(call.arguments.clone());
    if let Some(idempotency) = idempotency {
        row.operation = Some(idempotency.operation);
        row.key = text(idempotency.key);
        row.key_body = text(idempotency.body);
        row.key_expired = Some(created_at.saturating_sub(IDEMPOTENCY_TTL_MS));
    }
    accepted(&store.command(row).await?, call.task, count)
}

fn accepted(done: &Done, task: TaskId, count: usize) -> Result<Accepted, StoreError> {
    let name = task.to_string();
    let reading = Reading { table: "tasks", row: &name };
    match (done.tag.as_deref(), done.detail.as_deref()) {
        (Some("done"), _) => Ok(Accepted::New(reading.present("last_seq", done.appended(count))?)),
        (Some("replayed"), Some(call)) => {
            Ok(Accepted::Replayed(Reading { table: "idempotency_keys", row: call }.parse("call_id", call)?))
        }
        (Some("reused"), _) => Ok(Accepted::KeyReused),
        (Some("not_ready"), state) => {
            Ok(Accepted::TaskNotReady(state.map(|state| reading.parse("state", state)).transpose()?))
        }
        (tag, _) => Err(reading.corrupt("result", format_args!("{tag:?} is no answer to `accept`"))),
    }
}

pub(super) async fn start(
    store: &SqliteStore,
    task: TaskId,
    call: CallId,
    at: Timestamp,
    events: Vec<NewEvent>,
) -> Result<Option<Appended>, StoreError> {
    let row = Row { call: text(call), ..Row::new("start", task, at.as_millis(), &events) };
    Ok(store.command(row).await?.appended(events.len()))
}

pub(super) async fn end(store: &SqliteStore, end: EndCall) -> Result<Option<Appended>, StoreError> {
    let body: Arc<str> = json(&*end.outcome);
    let row = Row {
        call: text(end.call),
        state: Some(end.outcome.ending.state()),
        ..Row::new("end", end.task, end.at.as_millis(), &end.events)
    }
    .with_body(body);
    Ok(store.command(row).await?.appended(end.events.len()))
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

pub(super) async fn list(store: &SqliteStore, task: TaskId, page: Page<CallId>) -> Result<Vec<Call>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let rows: Vec<CallRow> = query_as(select_call!("c.task_id = ? AND c.id < ? ORDER BY c.id DESC LIMIT ?"))
        .bind(task.to_string())
        .bind(before)
        .bind(page.limit)
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn open(store: &SqliteStore) -> Result<Vec<Call>, StoreError> {
    let rows: Vec<CallRow> = query_as(select_call!("c.ended_at IS NULL ORDER BY c.id"))
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}
