//! Tickets for streams.

use bulkhead_core::audit::NewAudit;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::{Credential, Owner};
use bulkhead_core::ticket::TicketRecord;

use super::PostgresStore;
use super::audit::recording;
use super::statement::{Statement, Work};
use crate::rows::Reading;

pub(super) async fn create(
    store: &PostgresStore,
    ticket: &TicketRecord,
    most: u32,
    now: Timestamp,
    record: NewAudit,
) -> Result<bool, StoreError> {
    // What nobody used goes here: there is never more than a minute's. Hosts that
    // count at the same moment may pass the most by one each.
    let insert = Statement::new(
        "WITH gone AS (DELETE FROM tickets WHERE expires_at <= $1), given AS (
             INSERT INTO tickets (hash, tenant_id, user_id, task_id, expires_at, credential)
             SELECT $2, $3, $4, $5, $6, $8
             WHERE (SELECT count(*) FROM tickets WHERE tenant_id = $3 AND user_id = $4 AND expires_at > $1) < $7
             RETURNING hash
         )
         SELECT audit_append($9, $10, $11) FROM given",
    );
    let insert = insert
        .bind(now.as_millis())
        .bind_id(ticket.hash)
        .bind_id(ticket.owner.tenant)
        .bind_id(ticket.owner.user)
        .bind_id(ticket.task)
        .bind(ticket.expires_at.as_millis())
        .bind(i64::from(most))
        .bind(ticket.credential.to_string());
    let work = Work::once("ticket", recording(insert, &record)).recording(&record);
    Ok(!store.write(work).await?.rows.is_empty())
}

/// Not sent again if its answer is lost: the ticket would be gone, and whoever
/// shows it asks for another.
pub(super) async fn take(
    store: &PostgresStore,
    hash: Digest,
    task: TaskId,
    now: Timestamp,
) -> Result<Option<(Owner, Credential)>, StoreError> {
    // Strangers show what they like: what is no ticket waits for no place among the writes.
    let known = Statement::new("SELECT 1 AS one FROM tickets WHERE hash = $1 AND task_id = $2 AND expires_at > $3");
    let known = known.bind_id(hash).bind_id(task).bind(now.as_millis());
    if store.read(known).await?.rows.is_empty() {
        return Ok(None);
    }
    let delete = Statement::new(
        "DELETE FROM tickets WHERE hash = $1 AND task_id = $2 AND expires_at > $3 RETURNING tenant_id, user_id, credential",
    );
    let delete = delete.bind_id(hash).bind_id(task).bind(now.as_millis());
    let taken = store.write(Work::once("ticket", delete)).await?;
    let name = hash.to_string();
    let reading = Reading { table: "tickets", row: &name };
    let text = |name| taken.get::<String>(name);
    match (text("tenant_id")?, text("user_id")?, text("credential")?) {
        (Some(tenant), Some(user), Some(credential)) => {
            Ok(Some((reading.owner(&tenant, &user)?, reading.parse("credential", &credential)?)))
        }
        _ => Ok(None),
    }
}
