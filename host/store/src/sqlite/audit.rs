//! The audit log: where a record gets its place in its chain, and reading it.

use std::collections::BTreeMap;

use bulkhead_core::audit::chain::{ChainState, Columns, Place, Stored};
use bulkhead_core::audit::{Audit, AuditFilter, NewAudit};
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;
use rusqlite::{Connection, OptionalExtension as _, params};
use sqlx::{QueryBuilder, query_as, query_scalar};

use super::write::Transaction;
use super::{SqliteStore, read_failed};
use crate::rows::{AuditRow, ChainRow, all};

/// A record on its way to the writer: its columns and their digest are made before
/// it is its turn.
pub(super) struct Link {
    columns: Columns,
    leaf: Digest,
}

impl From<&NewAudit> for Link {
    fn from(record: &NewAudit) -> Self {
        let columns = Columns::from(record);
        let leaf = columns.leaf();
        Self { columns, leaf }
    }
}

impl Link {
    /// Appends it to its chain within a write.
    pub(super) fn append(&self, db: &Transaction<'_>) -> rusqlite::Result<()> {
        let Columns { at, chain, user, task, call, kind, data } = &self.columns;
        let mut heads = db.heads.borrow_mut();
        let head = match heads.get(chain) {
            Some(head) => *head,
            None => stored_head(db, chain)?,
        };
        let place = head.next(&self.leaf);
        db.prepare_cached(
            "INSERT INTO audit (tenant_id, number, at, user_id, task_id, call_id, kind, data, hash)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![chain, number(&place), at, user, task, call, kind, data, place.hash.as_bytes()])?;
        match heads.get_mut(chain) {
            Some(head) => *head = place,
            None => drop(heads.insert(chain.clone(), place)),
        }
        Ok(())
    }
}

/// Where a chain ended when the transaction began.
fn stored_head(db: &Connection, chain: &str) -> rusqlite::Result<Place> {
    let head = db
        .prepare_cached("SELECT number, hash FROM audit_heads WHERE tenant_id = ?")?
        .query_row([chain], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?)))
        .optional()?;
    Ok(head
        .map_or(Place::START, |(number, hash)| Place { number: number.unsigned_abs(), hash: Digest::from_bytes(hash) }))
}

/// Stores where the chains end that a transaction has appended to.
pub(super) fn store_heads(db: &Connection, heads: &BTreeMap<String, Place>) -> rusqlite::Result<()> {
    for (chain, head) in heads {
        let moved = db
            .prepare_cached("UPDATE audit_heads SET number = ?, hash = ? WHERE tenant_id = ?")?
            .execute(params![number(head), head.hash.as_bytes(), chain])?;
        if moved == 0 {
            db.prepare_cached("INSERT INTO audit_heads (tenant_id, number, hash) VALUES (?, ?, ?)")?
                .execute(params![chain, number(head), head.hash.as_bytes()])?;
        }
    }
    Ok(())
}

fn number(place: &Place) -> i64 {
    i64::try_from(place.number).unwrap_or(i64::MAX)
}

pub(super) async fn append(store: &SqliteStore, records: Vec<NewAudit>) -> Result<(), StoreError> {
    let links: Vec<Link> = records.iter().map(Link::from).collect();
    store.write("audit record", move |db| links.iter().try_for_each(|link| link.append(db))).await
}

/// Records that were left by a version without chains, that one transaction takes over.
const TAKEN_OVER: i64 = 500;

/// Whether there is something of a version without chains.
pub(super) fn is_to_be_taken_over(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM audit_unchained)", [], |row| row.get(0))
}

/// Makes links of the oldest of it.
pub(super) fn take_over(db: &Connection) -> rusqlite::Result<()> {
    let mut select = db.prepare_cached(
        "SELECT number, at, tenant_id, user_id, task_id, call_id, kind, data FROM audit_unchained
         ORDER BY number LIMIT ?",
    )?;
    let old = select.query_map([TAKEN_OVER], |row| {
        let columns = Columns {
            at: row.get(1)?,
            chain: row.get(2)?,
            user: row.get(3)?,
            task: row.get(4)?,
            call: row.get(5)?,
            kind: row.get(6)?,
            data: row.get(7)?,
        };
        Ok((row.get::<_, i64>(0)?, columns))
    })?;
    let old = old.collect::<rusqlite::Result<Vec<_>>>()?;
    let last = old.last().map(|(number, _)| *number);
    let links = Transaction::of(db);
    for (_, columns) in old {
        Link { leaf: columns.leaf(), columns }.append(&links)?;
    }
    links.finish()?;
    db.prepare_cached("DELETE FROM audit_unchained WHERE number <= ?")?.execute([last]).map(drop)
}

pub(super) async fn list(
    store: &SqliteStore,
    owner: Owner,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<Vec<Audit>, StoreError> {
    let mut select = QueryBuilder::new(
        "SELECT tenant_id, number, at, user_id, task_id, call_id, kind, data, hash FROM audit WHERE tenant_id = ",
    );
    select.push_bind(owner.tenant.to_string()).push(" AND user_id = ").push_bind(owner.user.to_string());
    select.push(" AND number > ").push_bind(i64::try_from(after).unwrap_or(i64::MAX));
    if let Some(task) = filter.task {
        select.push(" AND task_id = ").push_bind(task.to_string());
    }
    if filter.but_ends {
        // As the index says it.
        select.push(" AND kind <> 'call.ended'");
    }
    if let Some(kind) = &filter.kind {
        select.push(" AND kind = ").push_bind(kind.clone());
    }
    if let Some(since) = filter.since {
        select.push(" AND at >= ").push_bind(since.as_millis());
    }
    if let Some(until) = filter.until {
        select.push(" AND at < ").push_bind(until.as_millis());
    }
    if let Some(up_to) = filter.up_to {
        select.push(" AND number <= ").push_bind(i64::try_from(up_to).unwrap_or(i64::MAX));
    }
    select.push(" ORDER BY number LIMIT ").push_bind(limit);
    let rows: Vec<AuditRow> = select.build_query_as().fetch_all(&store.readers).await.map_err(read_failed)?;
    all(rows)
}

pub(super) async fn ahead(
    store: &SqliteStore,
    owner: Owner,
    after: u64,
    records: u32,
) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = query_scalar(
        "SELECT number FROM audit WHERE tenant_id = ? AND user_id = ? AND number > ?
         ORDER BY number LIMIT 1 OFFSET ?",
    )
    .bind(owner.tenant.to_string())
    .bind(owner.user.to_string())
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(records.saturating_sub(1))
    .fetch_optional(&store.readers)
    .await
    .map_err(read_failed)?;
    Ok(number.map(i64::unsigned_abs))
}

pub(super) async fn chains(store: &SqliteStore) -> Result<Vec<ChainState>, StoreError> {
    let rows: Vec<ChainRow> =
        query_as("SELECT tenant_id, number, hash, kept_after, kept_hash FROM audit_heads ORDER BY tenant_id")
            .fetch_all(&store.readers)
            .await
            .map_err(read_failed)?;
    all(rows)
}

pub(super) async fn chained(
    store: &SqliteStore,
    chain: &str,
    after: u64,
    limit: u32,
) -> Result<Vec<Stored>, StoreError> {
    let rows: Vec<AuditRow> = query_as(
        "SELECT tenant_id, number, at, user_id, task_id, call_id, kind, data, hash FROM audit
         WHERE tenant_id = ? AND number > ? ORDER BY number LIMIT ?",
    )
    .bind(chain)
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)?;
    all(rows)
}
