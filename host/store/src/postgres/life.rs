//! The life of tasks: those that are deleted and kept, use, and whose time is over.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::store::{Appended, HeldTask, StoreError, Times};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{KeptStep, Overdue, Task};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::audit::recording;
use super::events::{Texts, append_sql, appending};
use super::statement::{Statement, Work, unreadable};
use super::tasks::select_task;
use crate::rows::{KeptRow, Reading, TaskRow, overdue as paired};

pub(super) async fn count(store: &PostgresStore, tenant: TenantId, most: u64) -> Result<u64, StoreError> {
    let select = Statement::new(
        "SELECT count(*) AS counted FROM (
             SELECT 1 FROM tasks WHERE tenant_id = $1 AND state <> 'deleted' LIMIT $2
         ) AS live",
    );
    let answer = store.read(select.bind_id(tenant).bind(i64::try_from(most).unwrap_or(i64::MAX))).await?;
    Ok(answer.get::<i64>("counted")?.and_then(|counted| u64::try_from(counted).ok()).unwrap_or(0))
}

pub(super) async fn extents(store: &PostgresStore, owner: Owner) -> Result<Vec<HeldTask>, StoreError> {
    let select = Statement::new(
        "SELECT id, used_bytes, used_entries, kept_until IS NOT NULL AS kept FROM tasks
         WHERE tenant_id = $1 AND user_id = $2 AND (state <> 'deleted' OR kept_until IS NOT NULL)",
    );
    let answer = store.read(select.bind_id(owner.tenant).bind_id(owner.user)).await?;
    let held = |row: &PgRow| {
        let id: &str = row.try_get("id").map_err(unreadable)?;
        let reading = Reading { table: "tasks", row: id };
        let number = |column| reading.number(column, row.try_get(column).map_err(unreadable)?);
        let extent = Extent { bytes: number("used_bytes")?, entries: number("used_entries")? };
        Ok(HeldTask { task: reading.parse("id", id)?, extent, kept: row.try_get("kept").map_err(unreadable)? })
    };
    answer.rows.iter().map(held).collect()
}

pub(super) async fn step_kept(
    store: &PostgresStore,
    id: TaskId,
    step: KeptStep,
    at: Timestamp,
    events: &[NewEvent],
    record: Option<&NewAudit>,
) -> Result<Option<Appended>, StoreError> {
    const TEXT: Texts = append_sql!(
        "",
        ", state = $9, kept_until = $10, updated_at = $11, aged_from = CASE WHEN $12 THEN $11 ELSE aged_from END",
        " AND state = ANY($13) AND (kept_until IS NOT NULL) = $14",
        "SELECT last_seq FROM log"
    );
    const RECORDED: Texts = append_sql!(
        "",
        ", state = $9, kept_until = $10, updated_at = $11, aged_from = CASE WHEN $12 THEN $11 ELSE aged_from END",
        " AND state = ANY($13) AND (kept_until IS NOT NULL) = $14",
        ", recorded AS MATERIALIZED (
             SELECT audit_append($15, $16, $17) AS number FROM log
         )
         SELECT last_seq, (SELECT number FROM recorded) AS recorded FROM log"
    );
    let row = KeptRow::of(step);
    let (append, statement) = appending(store, if record.is_some() { RECORDED } else { TEXT }, id, events);
    let statement = statement
        .bind(row.to)
        .bind(row.until)
        .bind(at.as_millis())
        .bind(row.renews)
        .bind(row.from.to_vec())
        .bind(row.kept);
    let work = match record {
        Some(record) => Work::write("task", recording(statement, record)).recording(record),
        None => Work::write("task", statement),
    };
    let stepped = append.run(store, work).await?;
    if step == KeptStep::Purge {
        store.shared.held.remove(id);
    }
    Ok(stepped)
}

/// Not fenced: it says nothing of the log, and a stream is followed on any host.
pub(super) async fn note_active(store: &PostgresStore, tasks: &[TaskId], times: Times) -> Result<(), StoreError> {
    let [idle, ..] = times.configured();
    // In one order, so that two hosts don't wait for each other.
    let update = Statement::new(
        "WITH used AS (
             SELECT id FROM tasks WHERE id = ANY($1)
                AND greatest(active_at, updated_at) < $2 - least(coalesce(archive_idle_ms, $3), $3) / 10
             ORDER BY id FOR NO KEY UPDATE
         )
         UPDATE tasks SET active_at = $2 FROM used WHERE tasks.id = used.id",
    );
    let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
    store.write(Work::write("task", update.bind(ids).bind(times.now.as_millis()).bind(idle))).await?;
    Ok(())
}

/// `$6` is this host's token, `$7` its volume.
const OVERDUE: &str = "
    WITH found AS (
        SELECT id, 'deleted_long' AS why, holder, home FROM tasks WHERE kept_until <= $1
        UNION ALL
        SELECT t.id, CASE WHEN greatest(t.created_at, t.aged_from) < $1 - least(coalesce(t.max_age_ms, $4), $4) THEN 'age'
                          WHEN t.state = 'ready' THEN 'idle' ELSE 'archived_long' END, t.holder, t.home
        FROM tasks t LEFT JOIN events e ON e.task_id = t.id AND e.seq = t.last_seq
        WHERE t.state IN ('ready', 'archived', 'failed') AND (
            greatest(t.created_at, t.aged_from) < $1 - least(coalesce(t.max_age_ms, $4), $4)
            OR (t.state <> 'ready' AND t.updated_at < $1 - least(coalesce(t.delete_archived_ms, $3), $3))
            OR (t.state = 'ready' AND greatest(t.updated_at, t.active_at, coalesce(e.at, 0))
                                      < $1 - least(coalesce(t.archive_idle_ms, $2), $2)))
    )
    SELECT id, why FROM found f WHERE f.home = $7 AND (f.holder IS NULL OR f.holder = $6
        OR NOT EXISTS (SELECT 1 FROM hosts h WHERE h.token = f.holder AND h.ended_at IS NULL AND h.volume = f.home))
    LIMIT $5";

pub(super) async fn overdue(
    store: &PostgresStore,
    times: Times,
    limit: u32,
) -> Result<Vec<(Task, Overdue)>, StoreError> {
    let [idle, archived, age] = times.configured();
    let select = Statement::new(OVERDUE)
        .bind(times.now.as_millis())
        .bind(idle)
        .bind(archived)
        .bind(age)
        .bind(i64::from(limit))
        .bind(store.token())
        .bind(store.shared.host.get().map_or("", |host| &*host.volume).to_owned());
    let answer = store.read(select).await?;
    let text = |row: &PgRow, column| row.try_get::<String, _>(column).map_err(unreadable);
    let found: Vec<_> =
        answer.rows.iter().map(|row| Ok((text(row, "id")?, text(row, "why")?))).collect::<Result<_, StoreError>>()?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = found.iter().map(|(id, _)| id.clone()).collect();
    paired(named(store, ids).await?, found)
}

pub(super) async fn of(store: &PostgresStore, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
    named(store, ids.iter().map(ToString::to_string).collect()).await
}

async fn named(store: &PostgresStore, ids: Vec<String>) -> Result<Vec<Task>, StoreError> {
    store.read(Statement::new(select_task!("id = ANY($1) ORDER BY id")).bind(ids)).await?.all::<TaskRow, _>()
}
