//! The audit log.
//!
//! Its numbers come from a sequence, which several hosts may take and commit in
//! different orders; a reader who asks for what is after a number would then miss a
//! record that comes later with a smaller one. So who appends records of an owner
//! holds a lock for that owner from before the number is taken until the commit.

use bulkhead_core::audit::{Audit, NewAudit};
use bulkhead_core::id::{GrantId, TaskId};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;

use super::PostgresStore;
use super::statement::{Statement, Work};
use crate::rows::AuditRow;

/// Inserts `$1` to `$7`; a further condition follows.
macro_rules! insert {
    ($if:literal) => {
        concat!(
            "WITH records AS (
                 SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
                     WITH ORDINALITY AS r (at, tenant_id, user_id, task_id, call_id, kind, data, place)
             ), locked AS MATERIALIZED (
                 SELECT count(pg_advisory_xact_lock(o.lock)) AS owners
                 FROM (SELECT DISTINCT hashtextextended(tenant_id || user_id, 0) AS lock FROM records ORDER BY 1) o
             )
             INSERT INTO audit (at, tenant_id, user_id, task_id, call_id, kind, data)
             SELECT r.at, r.tenant_id, r.user_id, r.task_id, r.call_id, r.kind, r.data
             FROM records r WHERE (SELECT owners FROM locked) > 0",
            $if,
            " ORDER BY r.place"
        )
    };
}

/// Appends records.
fn inserting(text: &'static str, records: &[NewAudit]) -> Statement {
    let all = |text: &dyn Fn(&NewAudit) -> String| records.iter().map(text).collect::<Vec<_>>();
    Statement::new(text)
        .bind(records.iter().map(|record| record.at.as_millis()).collect::<Vec<_>>())
        .bind(all(&|record| record.owner.tenant.to_string()))
        .bind(all(&|record| record.owner.user.to_string()))
        .bind(all(&|record| record.task.to_string()))
        .bind(records.iter().map(|record| record.call.map(|call| call.to_string())).collect::<Vec<_>>())
        .bind(all(&|record| record.kind.to_string()))
        .bind(all(&|record| record.data.to_string()))
}

/// Appends a record, if there is the grant that it is about.
pub(super) fn with_grant(record: &NewAudit, grant: GrantId) -> Statement {
    inserting(insert!(" AND EXISTS (SELECT 1 FROM grants WHERE id = $8)"), std::slice::from_ref(record)).bind_id(grant)
}

pub(super) async fn append(store: &PostgresStore, records: Vec<NewAudit>) -> Result<(), StoreError> {
    store.write(Work::once("audit record", inserting(insert!(""), &records))).await?;
    Ok(())
}

pub(super) async fn list(
    store: &PostgresStore,
    owner: Owner,
    task: Option<TaskId>,
    after: u64,
    limit: u32,
) -> Result<Vec<Audit>, StoreError> {
    let text = match task {
        Some(_) => {
            "SELECT number, at, tenant_id, user_id, task_id, call_id, kind, data FROM audit
             WHERE tenant_id = $1 AND user_id = $2 AND number > $3 AND task_id = $5 ORDER BY number LIMIT $4"
        }
        None => {
            "SELECT number, at, tenant_id, user_id, task_id, call_id, kind, data FROM audit
             WHERE tenant_id = $1 AND user_id = $2 AND number > $3 ORDER BY number LIMIT $4"
        }
    };
    let mut select = Statement::new(text)
        .bind_id(owner.tenant)
        .bind_id(owner.user)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit));
    if let Some(task) = task {
        select = select.bind_id(task);
    }
    store.read(select).await?.all::<AuditRow, _>()
}
