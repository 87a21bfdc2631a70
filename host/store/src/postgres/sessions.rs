//! Sessions.

use bulkhead_core::id::SessionId;
use bulkhead_core::ports::store::{Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::session::Session;

use super::PostgresStore;
use super::keys::inserted;
use super::statement::{Statement, Work};
use crate::rows::SessionRow;

pub(super) async fn create(store: &PostgresStore, session: &Session) -> Result<(), StoreError> {
    let insert =
        Statement::new("INSERT INTO sessions (id, tenant_id, user_id, label, created_at) VALUES ($1, $2, $3, $4, $5)");
    let insert = insert
        .bind_id(session.id)
        .bind_id(session.owner.tenant)
        .bind_id(session.owner.user)
        .bind_text(&session.label)
        .bind(session.created_at.as_millis());
    inserted(store.write(Work::write("session", insert)).await.map(drop))
}

pub(super) async fn get(store: &PostgresStore, owner: Owner, id: SessionId) -> Result<Option<Session>, StoreError> {
    let select = Statement::new(
        "SELECT id, tenant_id, user_id, label, created_at FROM sessions
         WHERE id = $1 AND tenant_id = $2 AND user_id = $3",
    );
    let select = select.bind_id(id).bind_id(owner.tenant).bind_id(owner.user);
    store.read(select).await?.maybe::<SessionRow, _>()
}

pub(super) async fn list(
    store: &PostgresStore,
    owner: Owner,
    page: Page<SessionId>,
) -> Result<Vec<Session>, StoreError> {
    // `~` sorts after every id.
    let before = page.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let select = Statement::new(
        "SELECT id, tenant_id, user_id, label, created_at FROM sessions
         WHERE tenant_id = $1 AND user_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4",
    );
    let select = select.bind_id(owner.tenant).bind_id(owner.user).bind(before).bind(i64::from(page.limit));
    store.read(select).await?.all::<SessionRow, _>()
}

pub(super) async fn delete(store: &PostgresStore, owner: Owner, id: SessionId) -> Result<bool, StoreError> {
    let delete = Statement::new(
        "WITH gone AS (
             DELETE FROM sessions WHERE id = $1 AND tenant_id = $2 AND user_id = $3 RETURNING id
         ), left_over AS (
             UPDATE tasks SET session_id = NULL FROM gone WHERE tasks.session_id = gone.id
         )
         SELECT id FROM gone",
    );
    let delete = delete.bind_id(id).bind_id(owner.tenant).bind_id(owner.user);
    Ok(!store.write(Work::once("session", delete)).await?.rows.is_empty())
}
