//! Retention: removes what need not be kept, in statements so small that others
//! hardly wait. Each looks for what is to go and removes it; rows that another host
//! is removing in this moment are left to it.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::ports::store::{IDEMPOTENCY_TTL_MS, Retained, Retention, StoreError};
use sqlx::Row as _;

use super::PostgresStore;
use super::statement::{Again, Answer, Statement, Work, unreadable};

/// Most rows that one statement removes.
const CHUNK: i64 = 500;

/// About how many bytes of events one statement removes.
const CHUNK_BYTES: i64 = 4 << 20;

/// Most statements of one run: the caller comes again, and decides when.
const RUN: usize = 64;

/// A run: what it removed, and how many statements it has left.
struct Run<'a> {
    store: &'a PostgresStore,
    left: usize,
    retained: Retained,
}

pub(super) async fn retain(store: &PostgresStore, retention: Retention) -> Result<Retained, StoreError> {
    let mut run = Run { store, left: RUN, retained: Retained::default() };
    let expired = retention.now.plus_millis(-IDEMPOTENCY_TTL_MS).as_millis();
    run.retained.idempotency_keys = run.chunks(|| Statement::new(KEYS).bind(expired)).await?;
    let before = retention.audit_before.as_millis();
    for chain in run.names(long_chains(before)).await? {
        run.shorten_chain(&chain, before).await?;
    }
    for task in run.names(deleted_tasks(retention)).await? {
        run.remove_task(&task).await?;
    }
    let (bytes, before) = (bytes_kept(retention), retention.events_before.as_millis());
    for task in run.names(long_logs(retention)).await? {
        run.shorten_log(&task, bytes, before).await?;
    }
    Ok(run.retained)
}

/// What time it is there.
pub(super) async fn clock(store: &PostgresStore) -> Result<Timestamp, StoreError> {
    let now = Statement::new("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now");
    let answer = store.read(now).await?;
    let row = answer.rows.first().ok_or_else(|| unreadable(sqlx::Error::RowNotFound))?;
    Ok(Timestamp::from_millis(row.try_get("now").map_err(unreadable)?))
}

const KEYS: &str = "
    DELETE FROM idempotency_keys WHERE (tenant_id, user_id, operation, key) IN (
        SELECT tenant_id, user_id, operation, key FROM idempotency_keys
        WHERE created_at <= $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

/// Removes the oldest records of a chain that are too old, and none after one that is
/// not: two statements, so that the second sees what the first noted of what goes, and
/// whoever else shortens the chain waits at its head.
const CHAIN: [&str; 2] = [
    "WITH head AS (
         SELECT kept_after FROM audit_heads WHERE tenant_id = $1 FOR UPDATE
     ), oldest AS (
         SELECT a.number, a.hash, a.at < $2 AS old FROM audit a, head
         WHERE a.tenant_id = $1 AND a.number > head.kept_after ORDER BY a.number LIMIT $3
     ), last AS (
         SELECT number, hash FROM oldest o
         WHERE old AND NOT EXISTS (SELECT 1 FROM oldest y WHERE NOT y.old AND y.number < o.number)
         ORDER BY number DESC LIMIT 1
     )
     UPDATE audit_heads h SET kept_after = last.number, kept_hash = last.hash FROM last WHERE h.tenant_id = $1",
    "DELETE FROM audit a USING audit_heads h
     WHERE h.tenant_id = $1 AND a.tenant_id = $1 AND a.number <= h.kept_after",
];

/// Chains whose oldest record is too old.
fn long_chains(before: i64) -> Statement {
    Statement::new(
        "SELECT h.tenant_id AS id FROM audit_heads h
         JOIN audit a ON a.tenant_id = h.tenant_id AND a.number = h.kept_after + 1 WHERE a.at < $1 LIMIT $2",
    )
    .bind(before)
    .bind(RUN as i64)
}

/// What belongs to a deleted task beside its log.
const PARTS: [&str; 6] = [
    "DELETE FROM deleted_files WHERE id IN (SELECT id FROM deleted_files WHERE task_id = $1 LIMIT $2)",
    "DELETE FROM uploads WHERE id IN (SELECT id FROM uploads WHERE task_id = $1 LIMIT $2)",
    "DELETE FROM file_accesses WHERE id IN (SELECT id FROM file_accesses WHERE task_id = $1 LIMIT $2)",
    "DELETE FROM file_changes WHERE ctid = ANY(ARRAY(SELECT ctid FROM file_changes WHERE task_id = $1 LIMIT $2))",
    "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE task_id = $1 LIMIT $2)",
    "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE task_id = $1 LIMIT $2)",
];

/// Removes the oldest events of a log that are too old or too many: always from its
/// beginning, so that what is left has no gap. `first_seq` never goes back, should
/// two hosts do this at once, and the bytes are those of what this one removed.
const OLDEST: &str = "
    WITH oldest AS (
        SELECT e.seq, e.at, e.size, sum(e.size) OVER (ORDER BY e.seq) - e.size AS before
        FROM (SELECT seq, at, size FROM events WHERE task_id = $1 ORDER BY seq LIMIT $2) e
    ), kept AS (
        SELECT min(o.seq) AS seq FROM oldest o, tasks t
        WHERE t.id = $1 AND (o.before > $5 OR NOT (t.log_bytes - o.before > $3 OR o.at < $4))
    ), gone AS (
        DELETE FROM events WHERE task_id = $1
            AND seq < coalesce((SELECT seq FROM kept), (SELECT max(seq) + 1 FROM oldest))
        RETURNING seq, size
    ), moved AS (
        UPDATE tasks SET first_seq = greatest(first_seq, g.last + 1), log_bytes = log_bytes - g.bytes
        FROM (SELECT max(seq) AS last, sum(size)::bigint AS bytes FROM gone) g
        WHERE tasks.id = $1 AND g.last IS NOT NULL
    )
    SELECT count(*) AS events, coalesce(sum(size), 0)::bigint AS bytes FROM gone";

/// Deleted tasks whose time is over.
fn deleted_tasks(retention: Retention) -> Statement {
    Statement::new("SELECT id FROM tasks WHERE state = 'deleted' AND kept_until IS NULL AND updated_at < $1 LIMIT $2")
        .bind(retention.deleted_before.as_millis())
        .bind(RUN as i64)
}

/// Tasks whose oldest event is too old, or whose log is too long.
fn long_logs(retention: Retention) -> Statement {
    Statement::new(
        "SELECT t.id FROM tasks t LEFT JOIN events e ON e.task_id = t.id AND e.seq = t.first_seq
         WHERE t.first_seq <= t.last_seq AND (t.log_bytes > $1 OR e.at < $2) LIMIT $3",
    )
    .bind(bytes_kept(retention))
    .bind(retention.events_before.as_millis())
    .bind(RUN as i64)
}

fn bytes_kept(retention: Retention) -> i64 {
    i64::try_from(retention.events_bytes_per_task).unwrap_or(i64::MAX)
}

impl Run<'_> {
    /// Whether one more statement may be sent.
    fn take(&mut self) -> bool {
        let left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        left
    }

    async fn write(&self, statement: Statement) -> Result<Answer, StoreError> {
        // One whose answer was lost is not sent again: the next run finds what it left.
        Ok(self.store.write(Work::once("row", statement)).await?)
    }

    /// Removes what is too old of a chain, in its turn.
    async fn shorten_chain(&mut self, chain: &str, before: i64) -> Result<(), StoreError> {
        while self.take() {
            let note = Statement::new(CHAIN[0]).bind(chain.to_owned()).bind(before).bind(CHUNK);
            let statements = vec![note, Statement::new(CHAIN[1]).bind(chain.to_owned())];
            let work = Work { statements, what: "audit record", again: Again::Never, chain: chain.parse().ok() };
            let removed = self.store.write(work).await?.affected;
            self.retained.audit += removed;
            if removed < CHUNK.unsigned_abs() {
                break;
            }
        }
        Ok(())
    }

    /// Names of what has something to be removed.
    async fn names(&self, select: Statement) -> Result<Vec<String>, StoreError> {
        let answer = self.store.read(select).await?;
        answer.rows.iter().map(|row| row.try_get("id").map_err(unreadable)).collect()
    }

    /// Removes by a statement whose last argument is how many, until there are no more.
    async fn chunks(&mut self, statement: impl Fn() -> Statement) -> Result<u64, StoreError> {
        let mut removed = 0;
        while self.take() {
            let answer = self.write(statement().bind(CHUNK)).await?;
            removed += answer.affected;
            if answer.affected < CHUNK.unsigned_abs() {
                break;
            }
        }
        Ok(removed)
    }

    /// Removes what belongs to a deleted task, a chunk at a time, then the task, with a
    /// tool set that no other task pins.
    async fn remove_task(&mut self, task: &str) -> Result<(), StoreError> {
        if !self.shorten_log(task, 0, i64::MAX).await? {
            return Ok(());
        }
        for part in PARTS {
            self.chunks(|| Statement::new(part).bind(task.to_owned())).await?;
        }
        if !self.take() {
            return Ok(());
        }
        // Something may have been left, or been added: then the next run has it.
        let delete = Statement::new(
            "DELETE FROM tasks WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM calls WHERE task_id = $1)
                AND NOT EXISTS (SELECT 1 FROM grants WHERE task_id = $1)
                AND NOT EXISTS (SELECT 1 FROM events WHERE task_id = $1) RETURNING tool_set",
        );
        let tool_set: Option<String> = self.write(delete.bind(task.to_owned())).await?.get("tool_set")?;
        let Some(tool_set) = tool_set else { return Ok(()) };
        self.retained.tasks += 1;
        let delete = Statement::new(
            "DELETE FROM tool_sets WHERE digest = $1 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tool_set = $1)",
        );
        match self.write(delete.bind(tool_set)).await {
            // A new task has pinned it in this moment: it stays.
            Err(StoreError::Corrupt { .. }) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Removes what is over the limits; false if the run was over before the end.
    async fn shorten_log(&mut self, task: &str, bytes: i64, before: i64) -> Result<bool, StoreError> {
        while self.take() {
            let remove =
                Statement::new(OLDEST).bind(task.to_owned()).bind(CHUNK).bind(bytes).bind(before).bind(CHUNK_BYTES);
            let answer = self.write(remove).await?;
            let removed = answer.get::<i64>("events")?.unwrap_or(0);
            self.retained.events += removed.unsigned_abs();
            let more = removed == CHUNK || answer.get::<i64>("bytes")?.unwrap_or(0) > CHUNK_BYTES;
            if !more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
