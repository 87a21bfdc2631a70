//! Tasks: made and moved by grouped commands.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{SessionId, TaskId};
use bulkhead_core::ports::store::{Appended, Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::ToolSet;
use sqlx::query_as;

use super::command::{Row, json, text};
use super::rows::{Reading, TaskRow, all, maybe};
use super::{SqliteStore, read_failed};

/// Selects what `TaskRow` has; a condition follows.
macro_rules! select_task {
    ($condition:literal) => {
        concat!(
            "SELECT id, tenant_id, user_id, session_id, label, state, failure, source, tool_set, limits, grants,
                    created_at, updated_at, last_seq, first_seq
             FROM tasks WHERE ",
            $condition
        )
    };
}

pub(super) async fn create(
    store: &SqliteStore,
    task: &Task,
    tools: &ToolSet,
    events: Vec<NewEvent>,
) -> Result<Appended, StoreError> {
    let row = Row {
        tenant: text(task.owner.tenant),
        user: text(task.owner.user),
        state: Some(task.state.as_str()),
        since: Some(task.updated_at.as_millis()),
        limits: Some(json(&task.limits)),
        grants: Some(json(&task.grants)),
        session: task.session.and_then(text),
        label: text(&task.label),
        source: Some(json(&task.source)),
        tool_set: text(tools.digest),
        tools: Some(json(&tools.tools)),
        failure: task.failure.as_deref().and_then(text),
        ..Row::new("create", task.id, task.created_at.as_millis(), &events)
    };
    let name = task.id.to_string();
    let appended = store.command(row).await?.appended(events.len());
    Reading { table: "tasks", row: &name }.present("last_seq", appended)
}

pub(super) async fn move_to(
    store: &SqliteStore,
    id: TaskId,
    to: TaskState,
    failure: Option<&str>,
    at: Timestamp,
    events: Vec<NewEvent>,
) -> Result<Option<Appended>, StoreError> {
    let from: Vec<_> = to.reached_from().iter().map(|state| state.as_str()).collect();
    let row = Row {
        state: Some(to.as_str()),
        states: Some(json(&from)),
        failure: failure.and_then(text),
        ..Row::new("move", id, at.as_millis(), &events)
    };
    Ok(store.command(row).await?.appended(events.len()))
}

pub(super) async fn get(store: &SqliteStore, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError> {
    let row: Option<TaskRow> = query_as(select_task!("id = ? AND tenant_id = ? AND user_id = ?"))
        .bind(id.to_string())
        .bind(owner.tenant.to_string())
        .bind(owner.user.to_string())
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn list(
    store: &SqliteStore,
    owner: Owner,
    session: Option<SessionId>,
    page: Page<TaskId>,
) -> Result<Vec<Task>, StoreError> {
    // Two texts rather than one with an OR, so that each can use its index.
    let text = match session {
        Some(_) => select_task!(
            "tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND state <> 'deleted' AND session_id = ?5
             ORDER BY id DESC LIMIT ?4"
        ),
        None => {
            select_task!("tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND state <> 'deleted' ORDER BY id DESC LIMIT ?4")
        }
    };
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let mut query =
        query_as(text).bind(owner.tenant.to_string()).bind(owner.user.to_string()).bind(before).bind(page.limit);
    if let Some(session) = session {
        query = query.bind(session.to_string());
    }
    let rows: Vec<TaskRow> = query.fetch_all(&store.readers).await.map_err(read_failed)?;
    all(rows)
}

pub(super) async fn in_state(store: &SqliteStore, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
    let rows: Vec<TaskRow> = query_as(select_task!("state = ? ORDER BY id LIMIT ?"))
        .bind(state.as_str())
        .bind(limit)
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}
