//! Tickets for streams.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::{Credential, Owner};
use bulkhead_core::ticket::TicketRecord;
use rusqlite::{OptionalExtension as _, params};
use sqlx::query_scalar;

use super::audit::Link;
use super::write::Transaction;
use super::{SqliteStore, read_failed};
use crate::rows::Reading;

pub(super) async fn create(
    store: &SqliteStore,
    ticket: &TicketRecord,
    most: u32,
    now: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    let (ticket, now, link) = (ticket.clone(), now.as_millis(), Link::from(&record));
    let create = move |db: &Transaction<'_>| {
        // What nobody used goes here: there is never more than a minute's.
        db.prepare_cached("DELETE FROM tickets WHERE expires_at <= ?")?.execute([now])?;
        let (tenant, user) = (ticket.owner.tenant.to_string(), ticket.owner.user.to_string());
        let stored = db
            .prepare_cached(
                "INSERT INTO tickets (hash, tenant_id, user_id, task_id, expires_at, credential) SELECT ?1, ?2, ?3, ?4, ?5, ?7
                 WHERE (SELECT count(*) FROM tickets WHERE tenant_id = ?2 AND user_id = ?3) < ?6",
            )?
            .execute(params![
                ticket.hash.to_string(),
                tenant,
                user,
                ticket.task.to_string(),
                ticket.expires_at.as_millis(),
                most,
                ticket.credential.to_string()
            ])?;
        if stored > 0 {
            link.append(db)?;
        }
        Ok(stored > 0)
    };
    store.write("ticket", create).await
}

pub(super) async fn take(
    store: &SqliteStore,
    hash: Digest,
    task: TaskId,
    now: Timestamp,
) -> Result<Option<(Owner, Credential)>, StoreError> {
    let (hash, task, now) = (hash.to_string(), task.to_string(), now.as_millis());
    // Strangers show what they like: what is no ticket costs the writer nothing.
    let known: Option<i64> = query_scalar("SELECT 1 FROM tickets WHERE hash = ? AND task_id = ? AND expires_at > ?")
        .bind(&hash)
        .bind(&task)
        .bind(now)
        .fetch_optional(&store.readers)
        .await
        .map_err(read_failed)?;
    if known.is_none() {
        return Ok(None);
    }
    let name = hash.clone();
    let take = move |db: &Transaction<'_>| {
        db.prepare_cached(
            "DELETE FROM tickets WHERE hash = ? AND task_id = ? AND expires_at > ? RETURNING tenant_id, user_id, credential",
        )?
        .query_row(params![hash, task, now], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
    };
    let taken: Option<(String, String, String)> = store.write("ticket", take).await?;
    let reading = Reading { table: "tickets", row: &name };
    let read = |(tenant, user, credential): (String, String, String)| {
        Ok((reading.owner(&tenant, &user)?, reading.parse("credential", &credential)?))
    };
    taken.map(read).transpose()
}
