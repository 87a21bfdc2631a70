//! Grants that owners gave, and policies.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::grants::Grant;
use bulkhead_core::id::{GrantId, TaskId};
use bulkhead_core::ports::store::StoreError;
use rusqlite::params;
use sqlx::{query_as, query_scalar};

use super::audit::Link;
use super::{SqliteStore, read_failed};
use crate::rows::{GrantRow, all, json};

/// Whether a grant can be used; `?1` is the time.
macro_rules! live {
    () => {
        "revoked_at IS NULL AND (uses_left IS NULL OR uses_left > 0) AND (expires_at IS NULL OR expires_at > ?1)"
    };
}

pub(super) async fn create(
    store: &SqliteStore,
    grant: &Grant,
    most: u32,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (grant, capability, link) = (grant.clone(), json(&grant.capability), Link::from(&record));
    store
        .write("grant", move |db| {
            let made = db
                .prepare_cached(concat!(
                    "INSERT INTO grants (id, task_id, tenant_id, user_id, capability, expires_at, uses_left, created_at)
                     SELECT ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?1
                     WHERE (SELECT count(*) FROM grants WHERE task_id = ?3 AND ",
                    live!(),
                    ") < ?9"
                ))?
                .execute(params![
                    grant.created_at.as_millis(),
                    grant.id.to_string(),
                    grant.task.to_string(),
                    grant.owner.tenant.to_string(),
                    grant.owner.user.to_string(),
                    capability,
                    grant.expires_at.map(Timestamp::as_millis),
                    grant.uses_left,
                    most,
                ])?;
            if made > 0 {
                link.append(db)?;
            }
            Ok(made > 0)
        })
        .await
}

pub(super) async fn list(store: &SqliteStore, task: TaskId, limit: u32) -> Result<Vec<Grant>, StoreError> {
    let rows: Vec<GrantRow> = query_as(
        "SELECT id, task_id, tenant_id, user_id, capability, expires_at, uses_left, created_at, revoked_at
         FROM grants WHERE task_id = ? ORDER BY id DESC LIMIT ?",
    )
    .bind(task.to_string())
    .bind(limit)
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn take_use(store: &SqliteStore, id: GrantId, now: Timestamp) -> Result<bool, StoreError> {
    let (id, now) = (id.to_string(), now.as_millis());
    store
        .write("grant", move |db| {
            db.prepare_cached(concat!("UPDATE grants SET uses_left = uses_left - 1 WHERE id = ?2 AND ", live!()))?
                .execute(params![now, id])
        })
        .await
        .map(|used| used > 0)
}

pub(super) async fn revoke(
    store: &SqliteStore,
    task: TaskId,
    id: GrantId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (task, id, at, link) = (task.to_string(), id.to_string(), at.as_millis(), Link::from(&record));
    store
        .write("grant", move |db| {
            let revoked = db
                .prepare_cached("UPDATE grants SET revoked_at = ? WHERE id = ? AND task_id = ? AND revoked_at IS NULL")?
                .execute(params![at, id, task])?;
            if revoked > 0 {
                link.append(db)?;
            }
            Ok(revoked > 0)
        })
        .await
}

pub(super) async fn keep_policy(
    store: &SqliteStore,
    revision: &str,
    text: &str,
    at: Timestamp,
    record: NewAudit,
) -> Result<(), StoreError> {
    let (revision, text, at, link) = (revision.to_owned(), text.to_owned(), at.as_millis(), Link::from(&record));
    store
        .write("policy", move |db| {
            db.prepare_cached("INSERT OR IGNORE INTO policies (revision, body, created_at) VALUES (?, ?, ?)")?
                .execute(params![revision, text, at])?;
            link.append(db)
        })
        .await
}

pub(super) async fn policy(store: &SqliteStore, revision: &str) -> Result<Option<String>, StoreError> {
    query_scalar("SELECT body FROM policies WHERE revision = ?")
        .bind(revision)
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)
}
