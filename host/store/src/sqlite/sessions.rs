//! Sessions.

use bulkhead_core::id::SessionId;
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::session::Session;
use sqlx::{query, query_as};

use super::rows::{SessionRow, all, maybe};
use super::{SqliteStore, read_failed};

pub(super) async fn create(store: &SqliteStore, session: &Session) -> Result<(), StoreError> {
    let session = session.clone();
    store
        .write("session", move |connection| {
            Box::pin(async move {
                query("INSERT INTO sessions (id, tenant_id, user_id, label, created_at) VALUES (?, ?, ?, ?, ?)")
                    .bind(session.id.to_string())
                    .bind(session.owner.tenant.to_string())
                    .bind(session.owner.user.to_string())
                    .bind(session.label)
                    .bind(session.created_at.as_millis())
                    .execute(connection)
                    .await
                    .map(drop)
            })
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
    store
        .write("session", move |connection| {
            Box::pin(async move {
                let deleted = query("DELETE FROM sessions WHERE id = ? AND tenant_id = ? AND user_id = ?")
                    .bind(id.to_string())
                    .bind(owner.tenant.to_string())
                    .bind(owner.user.to_string())
                    .execute(&mut *connection)
                    .await?
                    .rows_affected();
                if deleted > 0 {
                    query("UPDATE tasks SET session_id = NULL WHERE session_id = ?")
                        .bind(id.to_string())
                        .execute(connection)
                        .await?;
                }
                Ok(deleted > 0)
            })
        })
        .await
}
