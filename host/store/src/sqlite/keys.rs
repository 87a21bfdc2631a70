//! Tenants, users and API keys.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::key::{KeyId, KeyRecord};
use bulkhead_core::ports::store::{StoreError, Thing};
use bulkhead_core::principal::Owner;
use rusqlite::params;
use sqlx::query_as;

use super::audit::Link;
use super::{SqliteStore, read_failed};
use crate::rows::{KeyRow, OwnerRow, all, maybe};

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

pub(super) async fn ensure_owner(store: &SqliteStore, owner: Owner, at: Timestamp) -> Result<(), StoreError> {
    let (tenant, user, at) = (owner.tenant.to_string(), owner.user.to_string(), at.as_millis());
    store
        .write("owner", move |db| {
            db.prepare_cached("INSERT INTO tenants (id, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING")?
                .execute(params![tenant, at])?;
            db.prepare_cached("INSERT INTO users (id, tenant_id, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?
                .execute(params![user, tenant, at])
                .map(drop)
        })
        .await
}

pub(super) async fn first_owner(store: &SqliteStore) -> Result<Option<Owner>, StoreError> {
    let row: Option<OwnerRow> = query_as("SELECT id, tenant_id FROM users ORDER BY rowid LIMIT 1")
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn owner_of(store: &SqliteStore, thing: Thing) -> Result<Option<Owner>, StoreError> {
    let select = match thing {
        Thing::Session(_) => "SELECT user_id AS id, tenant_id FROM sessions WHERE id = ?",
        Thing::Task(_) => "SELECT user_id AS id, tenant_id FROM tasks WHERE id = ?",
        Thing::Call(_) => "SELECT user_id AS id, tenant_id FROM calls WHERE id = ?",
    };
    let row: Option<OwnerRow> =
        query_as(select).bind(thing.id()).fetch_optional(&store.readers).await.map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn create(store: &SqliteStore, key: &KeyRecord, record: NewAudit) -> Result<(), StoreError> {
    let (key, link) = (key.clone(), Link::from(&record));
    store
        .write("key", move |db| {
            db.prepare_cached(
                "INSERT INTO api_keys (id, tenant_id, user_id, hash, scopes, label, created_at, expires_at,
                                       revoked_at, last_used_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                key.id.as_str(),
                key.owner.tenant.to_string(),
                key.owner.user.to_string(),
                key.hash.to_string(),
                key.scopes.to_string(),
                key.label,
                key.created_at.as_millis(),
                key.expires_at.map(Timestamp::as_millis),
                key.revoked_at.map(Timestamp::as_millis),
                key.last_used_at.map(Timestamp::as_millis),
            ])?;
            link.append(db)
        })
        .await
}

pub(super) async fn get(store: &SqliteStore, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
    let row: Option<KeyRow> = query_as(select_key!("WHERE id = ?"))
        .bind(id.as_str())
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    maybe(row)
}

pub(super) async fn list(store: &SqliteStore) -> Result<Vec<KeyRecord>, StoreError> {
    let rows: Vec<KeyRow> = query_as(select_key!("ORDER BY created_at DESC, rowid DESC"))
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn revoke(
    store: &SqliteStore,
    id: &KeyId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (id, link) = (id.as_str().to_owned(), Link::from(&record));
    store
        .write("key", move |db| {
            let revoked = db
                .prepare_cached("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL")?
                .execute(params![at.as_millis(), id])?;
            if revoked > 0 {
                link.append(db)?;
            }
            Ok(revoked > 0)
        })
        .await
}

pub(super) async fn expire(
    store: &SqliteStore,
    id: &KeyId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (id, link) = (id.as_str().to_owned(), Link::from(&record));
    store
        .write("key", move |db| {
            let update = "UPDATE api_keys SET expires_at = min(coalesce(expires_at, ?1), ?1)
                          WHERE id = ?2 AND revoked_at IS NULL";
            let expires = db.prepare_cached(update)?.execute(params![at.as_millis(), id])? > 0;
            if expires {
                link.append(db)?;
            }
            Ok(expires)
        })
        .await
}

pub(super) async fn touch(store: &SqliteStore, id: &KeyId, at: Timestamp) -> Result<(), StoreError> {
    let id = id.as_str().to_owned();
    store
        .write("key", move |db| {
            // Notes may arrive out of order: the latest stays.
            db.prepare_cached("UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, ?1), ?1) WHERE id = ?2")?
                .execute(params![at.as_millis(), id])
                .map(drop)
        })
        .await
}
