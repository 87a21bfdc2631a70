//! Tasks.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{SessionId, TaskId};
use bulkhead_core::ports::store::{Appended, Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::ToolSet;
use sqlx::Row as _;

use super::PostgresStore;
use super::audit::recording;
use super::events::{Texts, append_sql, appending};
use super::run::Failed;
use super::statement::{Statement, Work, unreadable};
use crate::rows::{TaskRow, json, millis};

/// Selects what `TaskRow` has; a condition follows.
macro_rules! select_task {
    ($condition:literal) => {
        concat!(
            "SELECT id, tenant_id, user_id, session_id, label, state, failure, source, tool_set, limits, grants,
                    created_at, updated_at, last_seq, first_seq, kept_until, archive_idle_ms, delete_archived_ms, max_age_ms
             FROM tasks WHERE ",
            $condition
        )
    };
}
pub(super) use select_task;

/// A new task has its first events' numbers from the start. Its tool set is shared
/// with others; one that retention removes in this moment makes the statement fail,
/// and the next try stores it anew.
const CREATE: &str = "
    WITH tools AS (
        INSERT INTO tool_sets (digest, tools) VALUES ($9, $10) ON CONFLICT DO NOTHING RETURNING digest
    ), members AS (
        INSERT INTO tool_set_members (tool_id, digest) SELECT m.id, tools.digest FROM tools, unnest($11::text[]) AS m (id)
        ON CONFLICT DO NOTHING
    ), log AS (
        INSERT INTO tasks (id, tenant_id, user_id, session_id, label, state, failure, source, tool_set, limits, grants,
                           created_at, updated_at, last_seq, log_bytes, home, holder, archive_idle_ms, delete_archived_ms,
                           max_age_ms)
        VALUES ($1, $12, $13, $14, $15, $16, $17, $18, $9, $19, $20, $21, $22, cardinality($3::bigint[]), $8, $23, $24,
                $25, $26, $27)
        RETURNING tenant_id, user_id, last_seq
    ), appended AS (
        INSERT INTO events (task_id, seq, tenant_id, user_id, write_id, at, call_id, kind, data, size)
        SELECT $1, e.place, log.tenant_id, log.user_id, CASE WHEN e.place = 1 THEN $2 END, e.at, e.call_id, e.kind,
               e.data, e.size
        FROM log, unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])
            WITH ORDINALITY AS e (at, call_id, kind, data, size, place)
    ), recorded AS MATERIALIZED (
        SELECT audit_append($28, $29, $30) AS number FROM log
    )
    SELECT last_seq, (SELECT number FROM recorded) AS recorded FROM log";

/// How often a task is stored anew because its tool set went.
const LOOKS: u32 = 4;

pub(super) async fn create(
    store: &PostgresStore,
    task: &Task,
    tools: &ToolSet,
    events: &[NewEvent],
    record: &NewAudit,
) -> Result<Appended, StoreError> {
    let (append, statement) = appending(store, [CREATE; 2], task.id, events);
    let plain = |text: &str| text.replace('\0', "\u{fffd}");
    let statement = statement
        .bind_id(tools.digest)
        .bind(json(&tools.tools).to_string())
        .bind(tools.tools.iter().map(|tool| tool.id.to_string()).collect::<Vec<_>>())
        .bind_id(task.owner.tenant)
        .bind_id(task.owner.user)
        .bind(task.session.map(|session| session.to_string()))
        .bind_text(&task.label)
        .bind(task.state.as_str())
        .bind(task.failure.as_deref().map(plain))
        .bind(json(&task.source).to_string())
        .bind(json(&task.limits).to_string())
        .bind(json(&task.ceiling).to_string())
        .bind(task.created_at.as_millis())
        .bind(task.updated_at.as_millis())
        .bind(store.shared.host.get().map_or("", |host| &*host.volume).to_owned())
        .bind(store.holder())
        .bind(millis(task.lifetimes.archive_idle_ms))
        .bind(millis(task.lifetimes.delete_archived_ms))
        .bind(millis(task.lifetimes.max_age_ms));
    let work = Work::write("task", recording(statement, record)).recording(record);
    let mut done = store.write_in_turn(task.id, work.clone()).await;
    for _ in 1..LOOKS {
        let unpinned = |failed: &Failed| matches!(&failed.error, StoreError::Corrupt { reason, .. } if reason.contains("tasks_pin_a_tool_set"));
        if !done.as_ref().is_err_and(unpinned) {
            break;
        }
        done = store.write_in_turn(task.id, work.clone()).await;
    }
    if store.holder().is_some() && done.is_ok() {
        store.shared.held.add(task.id);
    }
    match done {
        Ok(_) => Ok(append.numbers(events.len() as i64)),
        // An earlier try of this very write, whose answer was lost, has stored it.
        Err(Failed { error: StoreError::Exists(_), maybe_second: true }) => Ok(append.numbers(events.len() as i64)),
        Err(failed) => Err(failed.error),
    }
}

pub(super) async fn move_to(
    store: &PostgresStore,
    id: TaskId,
    to: TaskState,
    failure: Option<&str>,
    at: Timestamp,
    events: &[NewEvent],
    record: Option<&NewAudit>,
) -> Result<Option<Appended>, StoreError> {
    const TEXT: Texts = append_sql!(
        "",
        ", state = $9, failure = coalesce($10, failure), updated_at = $11",
        " AND state = ANY($12)",
        "SELECT last_seq FROM log"
    );
    const RECORDED: Texts = append_sql!(
        "",
        ", state = $9, failure = coalesce($10, failure), updated_at = $11",
        " AND state = ANY($12)",
        ", recorded AS MATERIALIZED (
             SELECT audit_append($13, $14, $15) AS number FROM log
         )
         SELECT last_seq, (SELECT number FROM recorded) AS recorded FROM log"
    );
    let from: Vec<_> = to.reached_from().iter().map(|state| state.as_str()).collect();
    let text = if record.is_some() { RECORDED } else { TEXT };
    let (append, statement) = appending(store, text, id, events);
    let statement = statement
        .bind(to.as_str())
        .bind(failure.map(|text| text.replace('\0', "\u{fffd}")))
        .bind(at.as_millis())
        .bind(from);
    let work = match record {
        Some(record) => Work::write("task", recording(statement, record)).recording(record),
        None => Work::write("task", statement),
    };
    let moved = append.run(store, work).await?;
    if to == TaskState::Deleted {
        store.shared.held.remove(id);
    }
    Ok(moved)
}

pub(super) async fn get(store: &PostgresStore, owner: Owner, id: TaskId) -> Result<Option<Task>, StoreError> {
    let select = Statement::new(select_task!("id = $1 AND tenant_id = $2 AND user_id = $3"));
    let select = select.bind_id(id).bind_id(owner.tenant).bind_id(owner.user);
    store.read(select).await?.maybe::<TaskRow, _>()
}

pub(super) async fn list(
    store: &PostgresStore,
    owner: Owner,
    session: Option<SessionId>,
    kept: bool,
    page: Page<TaskId>,
) -> Result<Vec<Task>, StoreError> {
    // Four texts rather than one with ORs, so that each can use its index.
    let text = match (session, kept) {
        (Some(_), false) => select_task!(
            "tenant_id = $1 AND user_id = $2 AND id < $3 AND state <> 'deleted' AND session_id = $5
             ORDER BY id DESC LIMIT $4"
        ),
        (None, false) => {
            select_task!("tenant_id = $1 AND user_id = $2 AND id < $3 AND state <> 'deleted' ORDER BY id DESC LIMIT $4")
        }
        (Some(_), true) => select_task!(
            "tenant_id = $1 AND user_id = $2 AND id < $3 AND kept_until IS NOT NULL AND session_id = $5
             ORDER BY id DESC LIMIT $4"
        ),
        (None, true) => select_task!(
            "tenant_id = $1 AND user_id = $2 AND id < $3 AND kept_until IS NOT NULL ORDER BY id DESC LIMIT $4"
        ),
    };
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let select = Statement::new(text).bind_id(owner.tenant).bind_id(owner.user).bind(before);
    let mut select = select.bind(i64::from(page.limit));
    if let Some(session) = session {
        select = select.bind_id(session);
    }
    store.read(select).await?.all::<TaskRow, _>()
}

pub(super) async fn in_state(store: &PostgresStore, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
    let select = Statement::new(select_task!("state = $1 ORDER BY id LIMIT $2"));
    store.read(select.bind(state.as_str()).bind(i64::from(limit))).await?.all::<TaskRow, _>()
}

/// Holds here, and gives, tasks in a state that nobody holds who lives.
pub(super) async fn take_over(store: &PostgresStore, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
    const TEXT: &str = "
        WITH me AS (
            SELECT token, volume FROM hosts WHERE token = $1 AND ended_at IS NULL
        ), lost AS (
            SELECT t.id, t.holder FROM me, tasks t LEFT JOIN hosts h ON h.token = t.holder
            WHERE t.state = $2 AND t.home = me.volume AND t.holder IS DISTINCT FROM $1
                AND (h.token IS NULL OR h.ended_at IS NOT NULL OR h.volume <> t.home)
            ORDER BY t.id LIMIT $3
        )
        UPDATE tasks t SET holder = $1 FROM lost WHERE t.id = lost.id AND t.holder IS NOT DISTINCT FROM lost.holder
        RETURNING t.id";
    let statement = Statement::new(TEXT).bind(store.token()).bind(state.as_str()).bind(i64::from(limit));
    let answer = store.write(Work::write("holder", statement)).await?;
    let ids = answer.rows.iter().map(|row| row.try_get("id").map_err(unreadable));
    let ids: Vec<String> = ids.collect::<Result<_, _>>()?;
    let select = Statement::new(select_task!("id = ANY($1) AND state = $2 ORDER BY id"));
    store.read(select.bind(ids).bind(state.as_str())).await?.all::<TaskRow, _>()
}

/// Those of these tasks that are there.
pub(super) async fn named(store: &PostgresStore, ids: Vec<String>) -> Result<Vec<Task>, StoreError> {
    let select = Statement::new(select_task!("id = ANY($1) ORDER BY id"));
    store.read(select.bind(ids)).await?.all::<TaskRow, _>()
}

pub(super) async fn note_extent(store: &PostgresStore, task: TaskId, extent: Extent) -> Result<(), StoreError> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let update = Statement::new(
        "UPDATE tasks SET used_bytes = $2, used_entries = $3 WHERE id = $1 AND (holder IS NULL OR holder = $4)",
    );
    let update = update.bind_id(task).bind(number(extent.bytes)).bind(number(extent.entries)).bind(store.token());
    store.write_in_turn(task, Work::write("task", update)).await?;
    Ok(())
}
