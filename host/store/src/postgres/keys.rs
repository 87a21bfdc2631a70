//! Tenants, users and API keys.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::key::{KeyId, KeyRecord};
use bulkhead_core::ports::store::{StoreError, Thing};
use bulkhead_core::principal::Owner;

use super::PostgresStore;
use super::audit::recording;
use super::run::Failed;
use super::statement::{Statement, Work};
use crate::rows::{KeyRow, OwnerRow};

/// Selects what `KeyRow` has; a condition follows.
macro_rules! select_key {
    ($condition:literal) => {
        concat!(
            "SELECT id, tenant_id, user_id, hash, scopes, label, created_at, expires_at, revoked_at, last_used_at
             FROM api_keys ",
            $condition
        )
    };
}

pub(super) async fn ensure_owner(store: &PostgresStore, owner: Owner, at: Timestamp) -> Result<(), StoreError> {
    let insert = Statement::new(
        "WITH tenant AS (INSERT INTO tenants (id, created_at) VALUES ($1, $3) ON CONFLICT DO NOTHING)
         INSERT INTO users (id, tenant_id, created_at) VALUES ($2, $1, $3) ON CONFLICT DO NOTHING",
    );
    let insert = insert.bind_id(owner.tenant).bind_id(owner.user).bind(at.as_millis());
    store.write(Work::write("owner", insert)).await?;
    Ok(())
}

pub(super) async fn first_owner(store: &PostgresStore) -> Result<Option<Owner>, StoreError> {
    let select = Statement::new("SELECT id, tenant_id FROM users ORDER BY number LIMIT 1");
    store.read(select).await?.maybe::<OwnerRow, _>()
}

pub(super) async fn owner_of(store: &PostgresStore, thing: Thing) -> Result<Option<Owner>, StoreError> {
    let select = Statement::new(match thing {
        Thing::Session(_) => "SELECT user_id AS id, tenant_id FROM sessions WHERE id = $1",
        Thing::Task(_) => "SELECT user_id AS id, tenant_id FROM tasks WHERE id = $1",
        Thing::Call(_) => "SELECT user_id AS id, tenant_id FROM calls WHERE id = $1",
    });
    store.read(select.bind(thing.id())).await?.maybe::<OwnerRow, _>()
}

pub(super) async fn create(store: &PostgresStore, key: &KeyRecord, record: NewAudit) -> Result<(), StoreError> {
    let insert = Statement::new(
        "WITH made AS (
             INSERT INTO api_keys (id, tenant_id, user_id, hash, scopes, label, created_at, expires_at, revoked_at,
                                   last_used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
         )
         SELECT audit_append($11, $12, $13) FROM made",
    );
    let insert = insert
        .bind(key.id.as_str().to_owned())
        .bind_id(key.owner.tenant)
        .bind_id(key.owner.user)
        .bind_id(key.hash)
        .bind_id(key.scopes)
        .bind_text(&key.label)
        .bind(key.created_at.as_millis())
        .bind(key.expires_at.map(Timestamp::as_millis))
        .bind(key.revoked_at.map(Timestamp::as_millis))
        .bind(key.last_used_at.map(Timestamp::as_millis));
    let work = Work::write("key", recording(insert, &record)).recording(&record);
    inserted(store.write(work).await.map(drop))
}

/// What is there already after an answer was lost is what was to be inserted.
pub(super) fn inserted(done: Result<(), Failed>) -> Result<(), StoreError> {
    match done {
        Err(Failed { error: StoreError::Exists(_), maybe_second: true }) => Ok(()),
        done => Ok(done?),
    }
}

pub(super) async fn get(store: &PostgresStore, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
    let select = Statement::new(select_key!("WHERE id = $1")).bind(id.as_str().to_owned());
    store.read(select).await?.maybe::<KeyRow, _>()
}

pub(super) async fn list(store: &PostgresStore) -> Result<Vec<KeyRecord>, StoreError> {
    let select = Statement::new(select_key!("ORDER BY created_at DESC, number DESC"));
    store.read(select).await?.all::<KeyRow, _>()
}

pub(super) async fn revoke(
    store: &PostgresStore,
    id: &KeyId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let update = Statement::new(
        "WITH revoked AS (UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id)
         SELECT audit_append($3, $4, $5) FROM revoked",
    );
    let update = recording(update.bind(id.as_str().to_owned()).bind(at.as_millis()), &record);
    Ok(!store.write(Work::once("key", update).recording(&record)).await?.rows.is_empty())
}

pub(super) async fn expire(
    store: &PostgresStore,
    id: &KeyId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    // `least` passes over NULL.
    let update = Statement::new(
        "WITH expires AS (
             UPDATE api_keys SET expires_at = least(expires_at, $2) WHERE id = $1 AND revoked_at IS NULL RETURNING id
         )
         SELECT audit_append($3, $4, $5) FROM expires",
    );
    let update = recording(update.bind(id.as_str().to_owned()).bind(at.as_millis()), &record);
    Ok(!store.write(Work::once("key", update).recording(&record)).await?.rows.is_empty())
}

pub(super) async fn touch(store: &PostgresStore, id: &KeyId, at: Timestamp) -> Result<(), StoreError> {
    // Notes may arrive out of order: the latest stays.
    let update = Statement::new("UPDATE api_keys SET last_used_at = greatest(last_used_at, $2) WHERE id = $1");
    store.write(Work::write("key", update.bind(id.as_str().to_owned()).bind(at.as_millis()))).await?;
    Ok(())
}
