//! The audit log.
//!
//! A record takes its place from its chain's head, by an UPDATE that waits for whoever
//! else has that row, and holds the row until its commit: so places have no gap, are
//! committed in their order, and a reader who asks for what is after a number misses
//! nothing. The head is the last row that a statement locks (after a task, its call and
//! an idempotency key), so nobody waits for another row while it holds one.
//!
//! Those who wait for a head wait here, in the order of their arrival ([`super::run`]),
//! and not in the server, where each would hold a connection.

use bulkhead_core::audit::chain::{ChainState, Columns, Stored};
use bulkhead_core::audit::{Audit, AuditFilter, NewAudit};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;

use super::PostgresStore;
use super::statement::{Statement, Work};
use crate::rows::{AuditRow, ChainRow};

/// Selects what `AuditRow` has; a condition follows.
macro_rules! select_audit {
    ($condition:literal) => {
        concat!(
            "SELECT tenant_id, number, at, user_id, task_id, call_id, kind, data, hash FROM audit WHERE ",
            $condition
        )
    };
}

/// Binds the three arguments of `audit_append`: time, texts, leaf.
pub(super) fn recording(statement: Statement, record: &NewAudit) -> Statement {
    let columns = Columns::from(record);
    let leaf = columns.leaf().as_bytes().to_vec();
    statement.bind(columns.at).bind(texts(columns).to_vec()).bind(leaf)
}

fn texts(columns: Columns) -> [Option<String>; 6] {
    let Columns { chain, user, task, call, kind, data, .. } = columns;
    [Some(chain), user, task, call, Some(kind), Some(data.to_string())]
}

pub(super) async fn append(store: &PostgresStore, records: Vec<NewAudit>) -> Result<(), StoreError> {
    const TEXT: &str = "SELECT audit_append(($1::bigint[])[i], ($2::text[])[6 * i - 5 : 6 * i], ($3::bytea[])[i])
                        FROM generate_series(1, cardinality($1::bigint[])) AS i";
    for records in records.chunk_by(|a, b| a.chain == b.chain) {
        let columns: Vec<Columns> = records.iter().map(Columns::from).collect();
        let leaves: Vec<Vec<u8>> = columns.iter().map(|columns| columns.leaf().as_bytes().to_vec()).collect();
        let statement = Statement::new(TEXT)
            .bind(columns.iter().map(|columns| columns.at).collect::<Vec<_>>())
            .bind(columns.into_iter().flat_map(texts).collect::<Vec<_>>())
            .bind(leaves);
        let work = Work::once("audit record", statement);
        store.write(records.iter().fold(work, Work::recording)).await?;
    }
    Ok(())
}

pub(super) async fn list(
    store: &PostgresStore,
    owner: Owner,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<Vec<Audit>, StoreError> {
    // Texts of their own rather than one, so that each can use its index.
    let text = match (filter.task, filter.but_ends) {
        (Some(_), true) => select_audit!(
            "tenant_id = $1 AND user_id = $2 AND number > $3 AND ($5::text IS NULL OR kind = $5)
             AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL OR at < $7) AND ($8::bigint IS NULL OR number <= $8) AND task_id = $9
             AND kind <> 'call.ended' ORDER BY number LIMIT $4"
        ),
        (Some(_), false) => select_audit!(
            "tenant_id = $1 AND user_id = $2 AND number > $3 AND ($5::text IS NULL OR kind = $5)
             AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL OR at < $7) AND ($8::bigint IS NULL OR number <= $8) AND task_id = $9
             ORDER BY number LIMIT $4"
        ),
        (None, true) => select_audit!(
            "tenant_id = $1 AND user_id = $2 AND number > $3 AND ($5::text IS NULL OR kind = $5)
             AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL OR at < $7) AND ($8::bigint IS NULL OR number <= $8)
             AND kind <> 'call.ended' ORDER BY number LIMIT $4"
        ),
        (None, false) => select_audit!(
            "tenant_id = $1 AND user_id = $2 AND number > $3 AND ($5::text IS NULL OR kind = $5)
             AND ($6::bigint IS NULL OR at >= $6) AND ($7::bigint IS NULL OR at < $7) AND ($8::bigint IS NULL OR number <= $8)
             ORDER BY number LIMIT $4"
        ),
    };
    let mut select = Statement::new(text)
        .bind_id(owner.tenant)
        .bind_id(owner.user)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .bind(filter.kind.as_ref().map(|kind| kind.replace('\0', "\u{fffd}")))
        .bind(filter.since.map(|at| at.as_millis()))
        .bind(filter.until.map(|at| at.as_millis()))
        .bind(filter.up_to.map(|number| i64::try_from(number).unwrap_or(i64::MAX)));
    if let Some(task) = filter.task {
        select = select.bind_id(task);
    }
    store.read(select).await?.all::<AuditRow, _>()
}

pub(super) async fn ahead(
    store: &PostgresStore,
    owner: Owner,
    after: u64,
    records: u32,
) -> Result<Option<u64>, StoreError> {
    let select = Statement::new(
        "SELECT number FROM audit WHERE tenant_id = $1 AND user_id = $2 AND number > $3
         ORDER BY number LIMIT 1 OFFSET $4",
    )
    .bind_id(owner.tenant)
    .bind_id(owner.user)
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(i64::from(records.saturating_sub(1)));
    let number = store.read(select).await?.get::<i64>("number")?;
    Ok(number.map(i64::unsigned_abs))
}

pub(super) async fn chains(store: &PostgresStore) -> Result<Vec<ChainState>, StoreError> {
    let select =
        Statement::new("SELECT tenant_id, number, hash, kept_after, kept_hash FROM audit_heads ORDER BY tenant_id");
    store.read(select).await?.all::<ChainRow, _>()
}

pub(super) async fn chained(
    store: &PostgresStore,
    chain: &str,
    after: u64,
    limit: u32,
) -> Result<Vec<Stored>, StoreError> {
    let select = Statement::new(select_audit!("tenant_id = $1 AND number > $2 ORDER BY number LIMIT $3"))
        .bind(chain.replace('\0', "\u{fffd}"))
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(limit));
    store.read(select).await?.all::<AuditRow, _>()
}
