//! The audit log: where a record gets its place in its chain, and reading it.
//!
//! The key of a record, its `place` in the file, is the number of its chain and, in the
//! lowest 40 bits, its own: an expression in the statements, `chain << 40 | number`.

use std::collections::BTreeMap;

use bulkhead_core::audit::chain::{ChainState, Columns, Place, Stored};
use bulkhead_core::audit::{Audit, AuditFilter, NewAudit};
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, QueryBuilder, query_as, query_scalar};

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
        let place = head.place.next(&self.leaf);
        db.prepare_cached(
            "INSERT INTO audit (place, at, user_id, task_id, call_id, kind, data, hash)
             VALUES (? << 40 | ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            head.chain,
            number(&place),
            at,
            user,
            task,
            call,
            kind,
            data,
            place.hash.as_bytes()
        ])?;
        match heads.get_mut(chain) {
            Some(head) => head.place = place,
            None => drop(heads.insert(chain.clone(), Head { place, ..head })),
        }
        Ok(())
    }
}

/// A chain within a transaction: its number in the file, and where it ends.
#[derive(Clone, Copy)]
pub(super) struct Head {
    chain: i64,
    place: Place,
}

/// A chain as it was when the transaction began. One that is not there yet begins.
fn stored_head(db: &Connection, chain: &str) -> rusqlite::Result<Head> {
    let of = |row: &Row<'_>| {
        let (chain, number, hash) = (row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?);
        Ok(Head { chain, place: Place { number: number.unsigned_abs(), hash: Digest::from_bytes(hash) } })
    };
    let known = db
        .prepare_cached("SELECT chain, number, hash FROM audit_heads WHERE tenant_id = ?")?
        .query_row([chain], of)
        .optional()?;
    match known {
        Some(head) => Ok(head),
        None => db
            .prepare_cached(
                "INSERT INTO audit_heads (tenant_id, chain, number, hash)
                 VALUES (?, (SELECT coalesce(max(chain), 0) + 1 FROM audit_heads), 0, zeroblob(32))
                 RETURNING chain, number, hash",
            )?
            .query_row([chain], of),
    }
}

/// Stores where the chains end that a transaction has appended to.
pub(super) fn store_heads(db: &Connection, heads: &BTreeMap<String, Head>) -> rusqlite::Result<()> {
    for (chain, Head { place, .. }) in heads {
        db.prepare_cached("UPDATE audit_heads SET number = ?, hash = ? WHERE tenant_id = ?")?.execute(params![
            number(place),
            place.hash.as_bytes(),
            chain
        ])?;
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

/// Selects what `AuditRow` has: after a number, up to one, of a chain. No other bounds may
/// follow: SQLite goes by one of each kind and compares by the others, row for row.
macro_rules! audit_of {
    ($more:literal) => {
        concat!(
            "SELECT h.tenant_id, a.place & 1099511627775 AS number, a.at, a.user_id, a.task_id, a.call_id, a.kind,
                    a.data, a.hash
             FROM audit_heads h JOIN audit a ON a.place > h.chain << 40 | ? AND a.place <= h.chain << 40 | ?
             WHERE h.tenant_id = ?",
            $more
        )
    };
}

/// No record has a higher number.
const LAST: u64 = (1 << 40) - 1;

/// A record's number as a statement takes it.
fn numbered(number: u64) -> i64 {
    number.min(LAST).cast_signed()
}

pub(super) async fn list(
    store: &SqliteStore,
    owner: Owner,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<Vec<Audit>, StoreError> {
    let (after, up_to) = (numbered(after), numbered(filter.up_to.unwrap_or(LAST)));
    let mut bound = SqliteArguments::default();
    let done = bound.add(after).and_then(|()| bound.add(up_to)).and_then(|()| bound.add(owner.tenant.to_string()));
    done.map_err(|error| read_failed(sqlx::Error::Encode(error)))?;
    let mut select = QueryBuilder::with_arguments(audit_of!(""), bound);
    select.push(" AND a.user_id = ").push_bind(owner.user.to_string());
    if let Some(task) = filter.task {
        select.push(" AND a.task_id = ").push_bind(task.to_string());
    }
    if filter.but_ends {
        // As the index says it.
        select.push(" AND a.kind <> 'call.ended'");
    }
    if let Some(kind) = &filter.kind {
        select.push(" AND a.kind = ").push_bind(kind.clone());
    }
    if let Some(since) = filter.since {
        select.push(" AND a.at >= ").push_bind(since.as_millis());
    }
    if let Some(until) = filter.until {
        select.push(" AND a.at < ").push_bind(until.as_millis());
    }
    select.push(" ORDER BY a.place LIMIT ").push_bind(limit);
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
        "SELECT a.place & 1099511627775 FROM audit_heads h
         JOIN audit a ON a.place > h.chain << 40 | ?3 AND a.place < (h.chain + 1) << 40
         WHERE h.tenant_id = ?1 AND a.user_id = ?2 ORDER BY a.place LIMIT 1 OFFSET ?4",
    )
    .bind(owner.tenant.to_string())
    .bind(owner.user.to_string())
    .bind(numbered(after))
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
    let select = query_as(audit_of!(" ORDER BY a.place LIMIT ?"));
    let select = select.bind(numbered(after)).bind(numbered(LAST)).bind(chain).bind(limit);
    let rows: Vec<AuditRow> = select.fetch_all(&store.readers).await.map_err(read_failed)?;
    all(rows)
}
