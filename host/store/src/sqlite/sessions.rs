//! Sessions.

use bulkhead_core::id::SessionId;
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::session::Session;
use rusqlite::params;
use sqlx::query_as;

use super::{SqliteStore, read_failed};
use crate::rows::{SessionRow, all, maybe};

pub(super) async fn create(store: &SqliteStore, session: &Session) -> Result<(), StoreError> {
    let session = session.clone();
    store
        .write("session", move |db| {
            db.prepare_cached(
                "INSERT INTO sessions (id, tenant_id, user_id, label, created_at) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                session.id.to_string(),
                session.owner.tenant.to_string(),
                session.owner.user.to_string(),
                session.label,
                session.created_at.as_millis(),
            ])
            .map(drop)
        })
        .await
}

pub(super) async fn get(store: &SqliteStore, owner: Owner, id: SessionId) -> Result<Option<Session>, StoreError> {
    let row: Option<SessionRow> = query_as(
        "SELECT id, tenant_id, user_id, label, created_at FROM sessions
         WHERE id = ? AND tenant_id = ? AND user_id = ?",
    )
    .bind(id.to_string())
    .bind(owner.tenant.to_string())
    .bind(owner.user.to_string())
    .fetch_optional(&store.readers)
    .await
    .map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn list(store: &SqliteStore, owner: Owner, page: Page<SessionId>) -> Result<Vec<Session>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let rows: Vec<SessionRow> = query_as(
        "SELECT id, tenant_id, user_id, label, created_at FROM sessions
         WHERE tenant_id = ? AND user_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
    )
    .bind(owner.tenant.to_string())
    .bind(owner.user.to_string())
    .bind(before)
    .bind(page.limit)
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn delete(store: &SqliteStore, owner: Owner, id: SessionId) -> Result<bool, StoreError> {
    let (id, tenant, user) = (id.to_string(), owner.tenant.to_string(), owner.user.to_string());
    store
        .write("session", move |db| {
            let deleted = db
                .prepare_cached("DELETE FROM sessions WHERE id = ? AND tenant_id = ? AND user_id = ?")?
                .execute(params![id, tenant, user])?;
            if deleted > 0 {
                db.prepare_cached("UPDATE tasks SET session_id = NULL WHERE session_id = ?")?.execute([&id])?;
            }
            Ok(deleted > 0)
        })
        .await
}
