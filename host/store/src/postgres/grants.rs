//! Grants that owners gave, and policies.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::grants::Grant;
use bulkhead_core::id::{GrantId, TaskId};
use bulkhead_core::ports::store::StoreError;

use super::audit::recording;
use super::run::Failed;
use super::statement::{Again, Statement, Work};
use super::{PostgresStore, hosts};
use crate::rows::{GrantRow, json};

/// Whether a grant can be used; `$1` is the time.
macro_rules! live {
    () => {
        "revoked_at IS NULL AND (uses_left IS NULL OR uses_left > 0) AND (expires_at IS NULL OR expires_at > $1)"
    };
}

/// Three statements in a transaction: grants are counted after the task's row is
/// locked, by a statement that sees what was committed until then.
pub(super) async fn create(
    store: &PostgresStore,
    grant: &Grant,
    most: u32,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let lock = Statement::new("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE").bind_id(grant.task);
    let insert = Statement::new(concat!(
        "INSERT INTO grants (id, task_id, tenant_id, user_id, capability, expires_at, uses_left, created_at)
         SELECT $2, $3, $4, $5, $6, $7, $8, $1
         WHERE (SELECT count(*) FROM grants WHERE task_id = $3 AND ",
        live!(),
        ") < $9 AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = $3 AND (t.holder IS NULL OR t.holder = $10))
         RETURNING id"
    ));
    let insert = insert
        .bind(grant.created_at.as_millis())
        .bind_id(grant.id)
        .bind_id(grant.task)
        .bind_id(grant.owner.tenant)
        .bind_id(grant.owner.user)
        .bind(json(&grant.capability).to_string())
        .bind(grant.expires_at.map(Timestamp::as_millis))
        .bind(grant.uses_left.map(i64::from))
        .bind(i64::from(most))
        .bind(store.holder());
    let given = Statement::new("SELECT audit_append($2, $3, $4) FROM grants WHERE id = $1").bind_id(grant.id);
    let statements = vec![lock, insert, recording(given, &record)];
    let work = Work { statements, what: "grant", again: Again::Harmless, chain: Some(record.chain) };
    match store.write_in_turn(grant.task, work).await {
        Ok(answer) => given_here(store, grant.task, !answer.rows.is_empty()).await,
        // An earlier try of this very write, whose answer was lost, has stored it.
        Err(Failed { error: StoreError::Exists(_), maybe_second: true }) => Ok(true),
        Err(failed) => Err(failed.error),
    }
}

pub(super) async fn list(store: &PostgresStore, task: TaskId, limit: u32) -> Result<Vec<Grant>, StoreError> {
    let select = Statement::new(
        "SELECT id, task_id, tenant_id, user_id, capability, expires_at, uses_left, created_at, revoked_at
         FROM grants WHERE task_id = $1 ORDER BY id DESC LIMIT $2",
    );
    store.read(select.bind_id(task).bind(i64::from(limit))).await?.all::<GrantRow, _>()
}

pub(super) async fn take_use(store: &PostgresStore, id: GrantId, now: Timestamp) -> Result<bool, StoreError> {
    // Of a task that another host has taken over, the calls of that one take them.
    let update = Statement::new(concat!(
        "UPDATE grants SET uses_left = uses_left - 1 WHERE id = $2 AND ",
        live!(),
        " AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = task_id AND (t.holder IS NULL OR t.holder = $3))"
    ));
    let update = update.bind(now.as_millis()).bind_id(id).bind(store.holder());
    Ok(store.write(Work::once("grant", update)).await?.affected > 0)
}

pub(super) async fn revoke(
    store: &PostgresStore,
    task: TaskId,
    id: GrantId,
    at: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let update = Statement::new(
        "WITH revoked AS (
             UPDATE grants SET revoked_at = $1 WHERE id = $2 AND task_id = $3 AND revoked_at IS NULL
                AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = $3 AND (t.holder IS NULL OR t.holder = $4))
             RETURNING id
         )
         SELECT audit_append($5, $6, $7) FROM revoked",
    );
    let update = update.bind(at.as_millis()).bind_id(id).bind_id(task).bind(store.holder());
    let update = recording(update, &record);
    let done = store.write(Work::once("grant", update).recording(&record)).await?;
    given_here(store, task, !done.rows.is_empty()).await
}

/// What was done to a task's grants; refused if nothing was because another host holds it.
async fn given_here(store: &PostgresStore, task: TaskId, done: bool) -> Result<bool, StoreError> {
    if !done && store.holder().is_some() && hosts::is_fenced(store, task).await? {
        return Err(StoreError::NotHeld(task));
    }
    Ok(done)
}

pub(super) async fn keep_policy(
    store: &PostgresStore,
    revision: &str,
    text: &str,
    at: Timestamp,
    record: NewAudit,
) -> Result<(), StoreError> {
    let insert = Statement::new(
        "WITH kept AS (
             INSERT INTO policies (revision, body, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
         )
         SELECT audit_append($4, $5, $6)",
    );
    let insert = recording(insert.bind(revision.to_owned()).bind_text(text).bind(at.as_millis()), &record);
    store.write(Work::once("policy", insert).recording(&record)).await?;
    Ok(())
}

pub(super) async fn policy(store: &PostgresStore, revision: &str) -> Result<Option<String>, StoreError> {
    let select = Statement::new("SELECT body FROM policies WHERE revision = $1").bind(revision.to_owned());
    store.read(select).await?.get("body")
}
