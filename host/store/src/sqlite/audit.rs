//! The audit log.

use bulkhead_core::audit::{Audit, NewAudit};
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;
use rusqlite::{Connection, params};
use sqlx::query_as;

use super::{SqliteStore, read_failed};
use crate::rows::{AuditRow, all};

/// Appends records within a write.
pub(super) fn insert(db: &Connection, records: &[NewAudit]) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT INTO audit (at, tenant_id, user_id, task_id, call_id, kind, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    for record in records {
        insert.execute(params![
            record.at.as_millis(),
            record.owner.tenant.to_string(),
            record.owner.user.to_string(),
            record.task.to_string(),
            record.call.map(|call| call.to_string()),
            record.kind,
            record.data,
        ])?;
    }
    Ok(())
}

pub(super) async fn append(store: &SqliteStore, records: Vec<NewAudit>) -> Result<(), StoreError> {
    store.write("audit record", move |db| insert(db, &records)).await
}

pub(super) async fn list(
    store: &SqliteStore,
    owner: Owner,
    task: Option<TaskId>,
    after: u64,
    limit: u32,
) -> Result<Vec<Audit>, StoreError> {
    let select = match task {
        Some(_) => {
            "SELECT number, at, tenant_id, user_id, task_id, call_id, kind, data FROM audit
             WHERE tenant_id = ?1 AND user_id = ?2 AND number > ?3 AND task_id = ?5 ORDER BY number LIMIT ?4"
        }
        None => {
            "SELECT number, at, tenant_id, user_id, task_id, call_id, kind, data FROM audit
             WHERE tenant_id = ?1 AND user_id = ?2 AND number > ?3 ORDER BY number LIMIT ?4"
        }
    };
    let rows: Vec<AuditRow> = query_as(select)
        .bind(owner.tenant.to_string())
        .bind(owner.user.to_string())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(limit)
        .bind(task.map(|task| task.to_string()))
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}
