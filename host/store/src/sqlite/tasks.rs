//! Tasks: made and moved by the writer.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{SessionId, TaskId};
use bulkhead_core::ports::store::{Appended, Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::ToolSet;
use rusqlite::{Connection, params};
use sqlx::query_as;

use super::audit::Link;
use super::log;
use super::write::Transaction;
use super::{SqliteStore, read_failed};
use crate::rows::{Reading, TaskRow, all, json, maybe, millis};

/// Selects what `TaskRow` has; a condition follows.
macro_rules! select_task {
    ($condition:literal) => {
        concat!(
            "SELECT id, tenant_id, user_id, session_id, label, state, failure, source, tool_set, limits, grants,
                    created_at, updated_at, last_seq, first_seq, kept_until, archive_idle_ms, delete_archived_ms, max_age_ms
             FROM tasks CROSS JOIN logs USING (number) WHERE ",
            $condition
        )
    };
}
pub(super) use select_task;

pub(super) async fn create(
    store: &SqliteStore,
    task: &Task,
    tools: &ToolSet,
    events: Vec<NewEvent>,
    record: NewAudit,
) -> Result<Appended, StoreError> {
    let name = task.id.to_string();
    let (task, tools, link) = (task.clone(), tools.clone(), Link::from(&record));
    let insert = move |db: &Transaction<'_>| {
        let appended = insert(db, &task, &tools, &events)?;
        link.append(db)?;
        Ok(appended)
    };
    let appended = store.write("task", insert).await?;
    Reading { table: "tasks", row: &name }.present("last_seq", appended)
}

fn insert(
    db: &Transaction<'_>,
    task: &Task,
    tools: &ToolSet,
    events: &[NewEvent],
) -> rusqlite::Result<Option<Appended>> {
    let (id, tool_set) = (task.id.to_string(), tools.digest.to_string());
    let new = db
        .prepare_cached("INSERT OR IGNORE INTO tool_sets (digest, tools) VALUES (?, ?)")?
        .execute(params![tool_set, json(&tools.tools)])?;
    if new > 0 {
        let mut insert = db.prepare_cached("INSERT OR IGNORE INTO tool_set_members (tool_id, digest) VALUES (?, ?)")?;
        for tool in &tools.tools {
            insert.execute(params![tool.id.to_string(), tool_set])?;
        }
    }
    db.prepare_cached(
        "INSERT INTO tasks (id, tenant_id, user_id, session_id, label, state, failure, source, tool_set,
                            limits, grants, created_at, updated_at, archive_idle_ms, delete_archived_ms, max_age_ms,
                            number)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(number), 0) + 1 FROM tasks))",
    )?
    .execute(params![
        id,
        task.owner.tenant.to_string(),
        task.owner.user.to_string(),
        task.session.map(|session| session.to_string()),
        task.label,
        task.state.as_str(),
        task.failure,
        json(&task.source),
        tool_set,
        json(&task.limits),
        json(&task.ceiling),
        task.created_at.as_millis(),
        task.updated_at.as_millis(),
        millis(task.lifetimes.archive_idle_ms),
        millis(task.lifetimes.delete_archived_ms),
        millis(task.lifetimes.max_age_ms),
    ])?;
    db.prepare_cached("INSERT INTO logs (number) SELECT number FROM tasks WHERE id = ?")?.execute([&id])?;
    log::append(db, &id, events)
}

pub(super) async fn move_to(
    store: &SqliteStore,
    id: TaskId,
    to: TaskState,
    failure: Option<&str>,
    at: Timestamp,
    events: Vec<NewEvent>,
    record: Option<NewAudit>,
) -> Result<Option<Appended>, StoreError> {
    let (id, failure, link) = (id.to_string(), failure.map(str::to_owned), record.as_ref().map(Link::from));
    let from = json(&to.reached_from().iter().map(|state| state.as_str()).collect::<Vec<_>>());
    let step = move |db: &Transaction<'_>| {
        let moved = db
            .prepare_cached(
                "UPDATE tasks SET state = ?, failure = coalesce(?, failure), updated_at = ?
                 WHERE id = ? AND state IN (SELECT value FROM json_each(?))",
            )?
            .execute(params![to.as_str(), failure, at.as_millis(), id, from])?;
        if moved == 0 {
            return Ok(None);
        }
        if let Some(link) = &link {
            link.append(db)?;
        }
        log::append(db, &id, &events)
    };
    store.write("task", step).await
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
    kept: bool,
    page: Page<TaskId>,
) -> Result<Vec<Task>, StoreError> {
    // Four texts rather than one with ORs, so that each can use its index.
    let text = match (session, kept) {
        (Some(_), false) => select_task!(
            "tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND state <> 'deleted' AND session_id = ?5
             ORDER BY id DESC LIMIT ?4"
        ),
        (None, false) => {
            select_task!("tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND state <> 'deleted' ORDER BY id DESC LIMIT ?4")
        }
        (Some(_), true) => select_task!(
            "tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND kept_until IS NOT NULL AND session_id = ?5
             ORDER BY id DESC LIMIT ?4"
        ),
        (None, true) => select_task!(
            "tenant_id = ?1 AND user_id = ?2 AND id < ?3 AND kept_until IS NOT NULL ORDER BY id DESC LIMIT ?4"
        ),
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

/// Notes within a write what a workspace takes.
pub(super) fn set_extent(db: &Connection, task: &str, extent: Extent) -> rusqlite::Result<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    db.prepare_cached("UPDATE tasks SET used_bytes = ?, used_entries = ? WHERE id = ?")?
        .execute(params![number(extent.bytes), number(extent.entries), task])
        .map(drop)
}

pub(super) async fn note_extent(store: &SqliteStore, task: TaskId, extent: Extent) -> Result<(), StoreError> {
    let task = task.to_string();
    store.write("task", move |db| set_extent(db, &task, extent)).await
}
