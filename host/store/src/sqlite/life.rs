//! The life of tasks: those that are deleted and kept, use, and whose time is over.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::NewEvent;
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::store::{Appended, HeldTask, StoreError, Times};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{KeptStep, Overdue, Task};
use rusqlite::params;
use sqlx::{query_as, query_scalar};

use super::audit::Link;
use super::tasks::select_task;
use super::write::Transaction;
use super::{SqliteStore, log, read_failed};
use crate::rows::{KeptRow, Reading, TaskRow, all, json, overdue as paired};

pub(super) async fn count(store: &SqliteStore, tenant: TenantId, most: u64) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM (SELECT 1 FROM tasks WHERE tenant_id = ? AND state <> 'deleted' LIMIT ?)";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let counted: i64 =
        query_scalar(text).bind(tenant.to_string()).bind(most).fetch_one(&store.readers).await.map_err(read_failed)?;
    Ok(u64::try_from(counted).unwrap_or(0))
}

pub(super) async fn extents(store: &SqliteStore, owner: Owner) -> Result<Vec<HeldTask>, StoreError> {
    let rows: Vec<(String, i64, i64, bool)> = query_as(
        "SELECT id, used_bytes, used_entries, kept_until IS NOT NULL FROM tasks
         WHERE tenant_id = ? AND user_id = ? AND (state <> 'deleted' OR kept_until IS NOT NULL)",
    )
    .bind(owner.tenant.to_string())
    .bind(owner.user.to_string())
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)?;
    let held = |(id, bytes, entries, kept): (String, i64, i64, bool)| {
        let reading = Reading { table: "tasks", row: &id };
        let extent =
            Extent { bytes: reading.number("used_bytes", bytes)?, entries: reading.number("used_entries", entries)? };
        Ok(HeldTask { task: reading.parse("id", &id)?, extent, kept })
    };
    rows.into_iter().map(held).collect()
}

pub(super) async fn step_kept(
    store: &SqliteStore,
    id: TaskId,
    step: KeptStep,
    at: Timestamp,
    events: Vec<NewEvent>,
    record: Option<NewAudit>,
) -> Result<Option<Appended>, StoreError> {
    let (id, link, row) = (id.to_string(), record.as_ref().map(Link::from), KeptRow::of(step));
    let step = move |db: &Transaction<'_>| {
        let moved = db
            .prepare_cached(
                "UPDATE tasks SET state = ?1, kept_until = ?2, updated_at = ?3,
                                  aged_from = CASE WHEN ?4 THEN ?3 ELSE aged_from END
                 WHERE id = ?5 AND state IN (SELECT value FROM json_each(?6)) AND (kept_until IS NOT NULL) = ?7",
            )?
            .execute(params![row.to, row.until, at.as_millis(), row.renews, id, json(&row.from), row.kept])?;
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

fn names(tasks: &[TaskId]) -> Vec<String> {
    tasks.iter().map(ToString::to_string).collect()
}

pub(super) async fn note_active(store: &SqliteStore, tasks: &[TaskId], times: Times) -> Result<(), StoreError> {
    let (tasks, now, [idle, ..]) = (json(&names(tasks)), times.now.as_millis(), times.configured());
    let update = move |db: &Transaction<'_>| {
        db.prepare_cached(
            "UPDATE tasks SET active_at = ?1 WHERE id IN (SELECT value FROM json_each(?2))
                AND max(active_at, updated_at) < ?1 - min(coalesce(archive_idle_ms, ?3), ?3) / 10",
        )?
        .execute(params![now, tasks, idle])
    };
    store.write("task", update).await.map(drop)
}

const OVERDUE: &str = "
    SELECT id, 'deleted_long' AS why FROM tasks WHERE kept_until <= ?1
    UNION ALL
    SELECT t.id, CASE WHEN max(t.created_at, t.aged_from) < ?1 - min(coalesce(t.max_age_ms, ?4), ?4) THEN 'age'
                      WHEN t.state = 'ready' THEN 'idle' ELSE 'archived_long' END
    FROM tasks t CROSS JOIN logs USING (number) LEFT JOIN events e ON e.place = t.number << 32 | last_seq
    WHERE t.state IN ('ready', 'archived', 'failed') AND (
        max(t.created_at, t.aged_from) < ?1 - min(coalesce(t.max_age_ms, ?4), ?4)
        OR (t.state <> 'ready' AND t.updated_at < ?1 - min(coalesce(t.delete_archived_ms, ?3), ?3))
        OR (t.state = 'ready'
            AND max(t.updated_at, t.active_at, coalesce(e.at, 0)) < ?1 - min(coalesce(t.archive_idle_ms, ?2), ?2)))
    LIMIT ?5";

pub(super) async fn overdue(store: &SqliteStore, times: Times, limit: u32) -> Result<Vec<(Task, Overdue)>, StoreError> {
    let [idle, archived, age] = times.configured();
    let found: Vec<(String, String)> = query_as(OVERDUE)
        .bind(times.now.as_millis())
        .bind(idle)
        .bind(archived)
        .bind(age)
        .bind(limit)
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = found.iter().map(|(id, _)| id.as_str()).collect();
    paired(named(store, json(&ids).to_string()).await?, found)
}

pub(super) async fn of(store: &SqliteStore, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
    named(store, json(&names(ids)).to_string()).await
}

/// The tasks whose ids are in an array.
async fn named(store: &SqliteStore, ids: String) -> Result<Vec<Task>, StoreError> {
    let select = query_as(select_task!("id IN (SELECT value FROM json_each(?)) ORDER BY id")).bind(ids);
    let rows: Vec<TaskRow> = select.fetch_all(&store.readers).await.map_err(read_failed)?;
    all(rows)
}
