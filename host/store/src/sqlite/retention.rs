//! Retention: removes what need not be kept, in transactions so small that the
//! writer's other work hardly waits. What is to go is looked for by readers;
//! each small write then looks again at what it removes.

use bulkhead_core::ports::store::{IDEMPOTENCY_TTL_MS, Retained, Retention, StoreError};
use rusqlite::{Connection, OptionalExtension as _, params};
use sqlx::query_scalar;

use super::{SqliteStore, read_failed};

/// Most rows that one transaction removes.
const CHUNK: i64 = 500;

/// Most bytes of events that one transaction removes: large ones take many pages.
const CHUNK_BYTES: i64 = 4 << 20;

/// Most payloads that one transaction removes: each is large.
const CHUNK_PAYLOADS: i64 = 8;

/// Most transactions of one run: the caller comes again, and decides when.
const RUN: usize = 64;

/// A run's budget of transactions.
struct Budget(usize);

impl Budget {
    fn take(&mut self) -> bool {
        let left = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        left
    }
}

pub(super) async fn retain(store: &SqliteStore, retention: Retention) -> Result<Retained, StoreError> {
    let mut retained = Retained::default();
    let mut budget = Budget(RUN);
    remove_keys(store, retention, &mut budget, &mut retained).await?;
    remove_audit(store, retention, &mut budget, &mut retained).await?;
    for task in deleted_tasks(store, retention).await? {
        remove_task(store, task, &mut budget, &mut retained).await?;
    }
    for task in long_logs(store, retention).await? {
        shorten_log(store, task, retention.into(), &mut budget, &mut retained).await?;
    }
    Ok(retained)
}

async fn remove_keys(
    store: &SqliteStore,
    retention: Retention,
    budget: &mut Budget,
    retained: &mut Retained,
) -> Result<(), StoreError> {
    let expired = retention.now.plus_millis(-IDEMPOTENCY_TTL_MS).as_millis();
    while budget.take() {
        let removed = store
            .write_alone("idempotency key", move |db| {
                db.prepare_cached(
                    "DELETE FROM idempotency_keys WHERE (tenant_id, user_id, operation, key) IN
                        (SELECT tenant_id, user_id, operation, key FROM idempotency_keys
                         WHERE created_at <= ? ORDER BY created_at LIMIT ?)",
                )?
                .execute([expired, CHUNK])
            })
            .await?;
        retained.idempotency_keys += removed as u64;
        if removed < CHUNK as usize {
            break;
        }
    }
    Ok(())
}

async fn remove_audit(
    store: &SqliteStore,
    retention: Retention,
    budget: &mut Budget,
    retained: &mut Retained,
) -> Result<(), StoreError> {
    let before = retention.audit_before.as_millis();
    for chain in long_chains(store, before).await? {
        while budget.take() {
            let chain = chain.clone();
            let (removed, more) =
                store.write_alone("audit record", move |db| shorten_chain(db, &chain, before)).await?;
            retained.audit += removed;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

/// Chains whose oldest record is too old.
async fn long_chains(store: &SqliteStore, before: i64) -> Result<Vec<String>, StoreError> {
    query_scalar(
        "SELECT h.tenant_id FROM audit_heads h
         JOIN audit a ON a.place = h.chain << 40 | (h.kept_after + 1) WHERE a.at < ? LIMIT ?",
    )
    .bind(before)
    .bind(RUN as i64)
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)
}

/// Removes the oldest records of a chain that are too old, at most a chunk, and none
/// after one that is not: what is left begins at the link that is noted. How many, and
/// whether there may be more.
fn shorten_chain(db: &Connection, chain: &str, before: i64) -> rusqlite::Result<(u64, bool)> {
    let number = db
        .prepare_cached("SELECT chain FROM audit_heads WHERE tenant_id = ?")?
        .query_row([chain], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(number) = number else { return Ok((0, false)) };
    let mut oldest = db.prepare_cached(
        "SELECT place & 1099511627775, at, hash FROM audit
         WHERE place > ?1 << 40 AND place < (?1 + 1) << 40 ORDER BY place LIMIT ?2",
    )?;
    let oldest: Vec<(i64, i64, Vec<u8>)> =
        oldest.query_map(params![number, CHUNK], |row| row.try_into())?.collect::<Result<_, _>>()?;
    let old = oldest.iter().take_while(|(_, at, _)| *at < before).count();
    let Some((last, _, hash)) = oldest.get(..old).and_then(<[_]>::last) else { return Ok((0, false)) };
    db.prepare_cached("UPDATE audit_heads SET kept_after = ?, kept_hash = ? WHERE chain = ?")?
        .execute(params![last, hash, number])?;
    db.prepare_cached("DELETE FROM audit WHERE place > ?1 << 40 AND place <= ?1 << 40 | ?2")?
        .execute(params![number, last])?;
    Ok((old as u64, old as i64 == CHUNK))
}

async fn deleted_tasks(store: &SqliteStore, retention: Retention) -> Result<Vec<String>, StoreError> {
    query_scalar("SELECT id FROM tasks WHERE state = 'deleted' AND kept_until IS NULL AND updated_at < ? LIMIT ?")
        .bind(retention.deleted_before.as_millis())
        .bind(RUN as i64)
        .fetch_all(&store.readers)
        .await
        .map_err(read_failed)
}

/// Removes what belongs to a deleted task, a chunk at a time, then the task.
async fn remove_task(
    store: &SqliteStore,
    task: String,
    budget: &mut Budget,
    retained: &mut Retained,
) -> Result<(), StoreError> {
    let everything = Limits { bytes: 0, before: i64::MAX };
    if !shorten_log(store, task.clone(), everything, budget, retained).await? {
        return Ok(());
    }
    while budget.take() {
        let task = task.clone();
        let gone = store.write_alone("task", move |db| remove_chunk(db, &task)).await?;
        if gone {
            retained.tasks += 1;
            break;
        }
    }
    Ok(())
}

/// Removes the first that is there: grants, payloads, calls, at last the task with a
/// tool set that no other task pins. True once the task is gone.
fn remove_chunk(db: &Connection, task: &str) -> rusqlite::Result<bool> {
    const PARTS: [(&str, i64); 7] = [
        ("DELETE FROM deleted_files WHERE id IN (SELECT id FROM deleted_files WHERE task_id = ?1 LIMIT ?2)", CHUNK),
        ("DELETE FROM uploads WHERE id IN (SELECT id FROM uploads WHERE task_id = ?1 LIMIT ?2)", CHUNK),
        ("DELETE FROM file_accesses WHERE id IN (SELECT id FROM file_accesses WHERE task_id = ?1 LIMIT ?2)", CHUNK),
        ("DELETE FROM file_changes WHERE rowid IN (SELECT rowid FROM file_changes WHERE task_id = ?1 LIMIT ?2)", CHUNK),
        ("DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE task_id = ?1 LIMIT ?2)", CHUNK),
        ("DELETE FROM payloads WHERE id IN (SELECT id FROM payloads WHERE task_id = ?1 LIMIT ?2)", CHUNK_PAYLOADS),
        ("DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE task_id = ?1 LIMIT ?2)", CHUNK),
    ];
    for (text, most) in PARTS {
        let removed = db.prepare_cached(text)?.execute(params![task, most])?;
        if removed as i64 == most {
            return Ok(false);
        }
    }
    let tool_set: Option<String> = db
        .prepare_cached("DELETE FROM tasks WHERE id = ? RETURNING tool_set")?
        .query_row([task], |row| row.get(0))
        .optional()?;
    db.prepare_cached(
        "DELETE FROM tool_sets WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tool_set = ?1)",
    )?
    .execute([tool_set])?;
    Ok(true)
}

/// Tasks whose oldest event is too old, or whose log is too long.
async fn long_logs(store: &SqliteStore, retention: Retention) -> Result<Vec<String>, StoreError> {
    query_scalar(
        "SELECT t.id FROM logs l CROSS JOIN tasks t USING (number) LEFT JOIN events e ON e.place = l.number << 32 | l.first_seq
         WHERE l.first_seq <= l.last_seq AND (l.bytes > ? OR e.at < ?) LIMIT ?",
    )
    .bind(i64::try_from(retention.events_bytes_per_task).unwrap_or(i64::MAX))
    .bind(retention.events_before.as_millis())
    .bind(RUN as i64)
    .fetch_all(&store.readers)
    .await
    .map_err(read_failed)
}

/// What a log may keep.
#[derive(Clone, Copy)]
struct Limits {
    bytes: i64,
    before: i64,
}

impl From<Retention> for Limits {
    fn from(retention: Retention) -> Self {
        Self {
            bytes: i64::try_from(retention.events_bytes_per_task).unwrap_or(i64::MAX),
            before: retention.events_before.as_millis(),
        }
    }
}

/// Removes what is over the limits; false if the budget ran out before the end.
async fn shorten_log(
    store: &SqliteStore,
    task: String,
    limits: Limits,
    budget: &mut Budget,
    retained: &mut Retained,
) -> Result<bool, StoreError> {
    while budget.take() {
        let task = task.clone();
        let (removed, more) = store.write_alone("event", move |db| remove_oldest(db, &task, limits)).await?;
        retained.events += removed;
        if !more {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the oldest events of a log that are too old or too many, at most a
/// chunk: always from its beginning, so that what is left has no gap. How many
/// were removed, and whether there may be more.
fn remove_oldest(db: &Connection, task: &str, limits: Limits) -> rusqlite::Result<(u64, bool)> {
    let task: Option<(i64, i64)> = db
        .prepare_cached("SELECT number, bytes FROM tasks CROSS JOIN logs USING (number) WHERE id = ?")?
        .query_row([task], |row| row.try_into())
        .optional()?;
    let Some((number, kept)) = task else { return Ok((0, false)) };
    let mut oldest = db.prepare_cached(
        "SELECT place & 4294967295, at, size FROM events
         WHERE place > ?1 << 32 AND place < (?1 + 1) << 32 ORDER BY place LIMIT ?2",
    )?;
    let oldest: Vec<(i64, i64, i64)> =
        oldest.query_map(params![number, CHUNK], |row| row.try_into())?.collect::<Result<_, _>>()?;
    let (mut removed, mut bytes, mut last) = (0, 0, None);
    let mut more = oldest.len() as i64 == CHUNK;
    for (seq, at, size) in oldest {
        let over = kept - bytes > limits.bytes || at < limits.before;
        if !over || bytes > CHUNK_BYTES {
            more = over;
            break;
        }
        (removed, bytes, last) = (removed + 1, bytes + size, Some(seq));
    }
    let Some(last) = last else { return Ok((0, false)) };
    db.prepare_cached("DELETE FROM events WHERE place > ?1 << 32 AND place <= ?1 << 32 | ?2")?
        .execute(params![number, last])?;
    db.prepare_cached("UPDATE logs SET first_seq = ?2 + 1, bytes = ?3 WHERE number = ?1")?.execute(params![
        number,
        last,
        kept - bytes
    ])?;
    Ok((removed, more))
}
