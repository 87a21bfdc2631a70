//! Who holds what: hosts, their tasks and their tools.
//!
//! The token of a host is the number in its writes (`writers`). Each write to a log
//! demands that the task's `holder` is that number, in the row that it locks anyway:
//! so a host that was believed gone writes nothing more to a task that another has
//! taken. A task is taken by compare-and-set on `holder`, and only from a host whose
//! row says that it has ended. Locks are taken in the order task, call,
//! idempotency key, head of an audit chain.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::event::Seq;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::cluster::{Cluster, Holder, Lease, Orphan, Volume};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::Tool;
use sqlx::Row as _;
use tokio::sync::watch;

use super::statement::{Statement, Work, unreadable};
use super::{PostgresStore, calls, tasks, tools, volumes};
use crate::rows::Reading;

/// Tasks that are remembered as held; more are asked for again.
const REMEMBERED: usize = 100_000;

/// A host, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Which data directory: the same through all starts.
    pub host: String,
    /// Which workspaces it reaches: its own, or those of a volume that several hosts reach.
    pub volume: String,
    /// Where the others reach it, `http://10.0.0.5:8080`; empty if nowhere.
    pub address: String,
    /// How long it may go without renewing before the others take over.
    pub lease: Duration,
    /// How long before the end of that it stops what runs.
    pub margin: Duration,
    /// How long calls that never started wait for a host that is gone.
    pub queued_grace: Duration,
}

/// The tasks that this host knows it holds.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashSet<TaskId>>);

impl Held {
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.lock().contains(&task)
    }

    pub(super) fn add(&self, task: TaskId) {
        let mut held = self.lock();
        if held.len() >= REMEMBERED {
            held.clear();
        }
        held.insert(task);
    }

    pub(super) fn remove(&self, task: TaskId) {
        self.lock().remove(&task);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `$1` the task, `$2` the token, `$3` whether it takes anything. A host of another volume may hold a task to end its
/// calls; whoever reaches its workspace comes before that one.
const HOLD: &str = "
    WITH me AS (
        SELECT token, volume FROM hosts WHERE token = $2 AND ended_at IS NULL AND $3
    ), seen AS (
        SELECT t.holder FROM tasks t WHERE t.id = $1 AND NOT EXISTS (
            SELECT 1 FROM hosts h WHERE h.token = t.holder AND h.ended_at IS NULL AND h.volume = t.home)
    ), taken AS (
        UPDATE tasks t SET holder = me.token FROM me, seen
        WHERE t.id = $1 AND t.home = me.volume AND t.holder IS NOT DISTINCT FROM seen.holder
        RETURNING t.id
    )
    SELECT EXISTS (SELECT 1 FROM me WHERE t.holder = me.token AND t.home = me.volume)
               OR EXISTS (SELECT 1 FROM taken) AS here, EXISTS (SELECT 1 FROM taken) AS taken,
           (SELECT h.address FROM hosts h WHERE h.volume = t.home AND h.ended_at IS NULL AND h.token <> $2
            ORDER BY h.token = t.holder DESC NULLS LAST, h.token DESC LIMIT 1) AS address
    FROM tasks t WHERE t.id = $1";

pub(super) async fn hold(store: &PostgresStore, task: TaskId) -> Result<Option<Holder>, StoreError> {
    let takes = !store.shared.leaving.load(Ordering::Acquire);
    let statement = Statement::new(HOLD).bind_id(task).bind(store.token()).bind(takes);
    let answer = store.write_in_turn(task, Work::write("holder", statement)).await?;
    let Some(here) = answer.get::<bool>("here")? else { return Ok(None) };
    if here {
        if answer.get::<bool>("taken")? == Some(true) {
            store.shared.taken.fetch_add(1, Ordering::Relaxed);
        }
        store.shared.held.add(task);
        return Ok(Some(Holder::Here));
    }
    store.shared.held.remove(task);
    let address = answer.get::<Option<String>>("address")?.flatten();
    Ok(Some(address.map_or(Holder::Nobody, |address| Holder::Elsewhere { address })))
}

/// Only to a host that reaches the workspaces too: nobody else could do more than
/// wait for this one.
const LET_GO: &str = "
    UPDATE tasks t SET holder = NULL FROM hosts me
    WHERE t.id = ANY($1) AND t.holder = $2 AND me.token = $2 AND t.home = me.volume AND EXISTS (
        SELECT 1 FROM hosts o WHERE o.volume = me.volume AND o.token <> $2 AND o.ended_at IS NULL)
    RETURNING t.id";

async fn let_go(store: &PostgresStore, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
    store.shared.leaving.store(true, Ordering::Release);
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
    let answer = store.write(Work::write("holder", Statement::new(LET_GO).bind(ids).bind(store.token()))).await?;
    let mut gone = Vec::new();
    for row in &answer.rows {
        let id: String = row.try_get("id").map_err(unreadable)?;
        let task = Reading { table: "tasks", row: &id }.parse("id", &id)?;
        store.shared.held.remove(task);
        gone.push(task);
    }
    Ok(gone)
}

/// Whether another host holds a task, so that a write to its log was refused.
pub(super) async fn is_fenced(store: &PostgresStore, task: TaskId) -> Result<bool, StoreError> {
    let select = Statement::new("SELECT 1 AS one FROM tasks WHERE id = $1 AND holder <> $2");
    Ok(!store.read(select.bind_id(task).bind(store.token())).await?.rows.is_empty())
}

/// Who was late at `$1`, by the database's clock, has ended.
const END_LATE: &str = "
    UPDATE hosts SET ended_at = clock_timestamp() WHERE ended_at IS NULL AND expires_at < to_timestamp($1 / 1000000.0)
    RETURNING host, address";

/// `$1` the token, `$2` how many, `$3` the seconds that queued calls wait. Of tasks
/// whose workspace can't be reached from anywhere calls that had begun are over; those
/// that had not wait for its host a while.
const TAKE_OVER: &str = "
    WITH me AS (
        SELECT token, volume FROM hosts WHERE token = $1 AND ended_at IS NULL
    ), open AS (
        SELECT task_id, bool_or(state <> 'queued') AS begun FROM calls WHERE ended_at IS NULL GROUP BY task_id
    ), lost AS (
        SELECT t.id, t.holder, t.home = me.volume AS reachable
        FROM me, open JOIN tasks t ON t.id = open.task_id LEFT JOIN hosts h ON h.token = t.holder
        WHERE t.holder IS DISTINCT FROM $1
            AND (h.token IS NULL OR h.ended_at IS NOT NULL OR (h.volume <> t.home AND t.home = me.volume))
            AND (t.home = me.volume OR NOT EXISTS (
                    SELECT 1 FROM hosts o WHERE o.volume = t.home AND o.ended_at IS NULL
                ) AND (open.begun OR h.token IS NULL OR h.ended_at < clock_timestamp() - make_interval(secs => $3)))
        ORDER BY t.id LIMIT $2
    ), locked AS (
        SELECT t.id, lost.reachable FROM tasks t, lost
        WHERE t.id = lost.id AND t.holder IS NOT DISTINCT FROM lost.holder FOR UPDATE OF t SKIP LOCKED
    )
    UPDATE tasks SET holder = $1 FROM locked WHERE tasks.id = locked.id
    RETURNING tasks.id, locked.reachable";

async fn end_late(store: &PostgresStore) -> Result<(), StoreError> {
    let (lease, margin) = store.shared.host.get().map(|me| (me.lease, me.margin)).unwrap_or_default();
    // Half of what each has left when it stops by itself.
    let Some(now) = store.shared.clock.told(store, lease, margin / 2).await? else { return Ok(()) };
    let late = store.write(Work::write("host", Statement::new(END_LATE).bind(now))).await?;
    for row in &late.rows {
        let (host, address): (String, String) =
            (row.try_get("host").map_err(unreadable)?, row.try_get("address").map_err(unreadable)?);
        tracing::warn!(host, address, "a host did not renew its lease; what it held is taken over");
    }
    Ok(())
}

async fn take_over(store: &PostgresStore, limit: u32) -> Result<Vec<Orphan>, StoreError> {
    end_late(store).await?;
    let Some(me) = store.shared.host.get() else { return Ok(Vec::new()) };
    let statement = Statement::new(TAKE_OVER).bind(store.token()).bind(i64::from(limit));
    let answer = store.write(Work::write("holder", statement.bind(me.queued_grace.as_secs_f64()))).await?;
    if answer.rows.is_empty() {
        return Ok(Vec::new());
    }
    let (mut taken, mut reachable) = (Vec::new(), HashSet::new());
    for row in &answer.rows {
        let id: String = row.try_get("id").map_err(unreadable)?;
        if row.try_get("reachable").map_err(unreadable)? {
            reachable.insert(Reading { table: "tasks", row: &id }.parse::<TaskId>("id", &id)?);
        }
        taken.push(id);
    }
    for task in &reachable {
        store.shared.held.add(*task);
    }
    // By a statement of its own: what its holder accepted last is seen by this one.
    let calls = calls::open_of(store, taken).await?;
    Ok(calls.into_iter().map(|call| Orphan { reachable: reachable.contains(&call.task), call }).collect())
}

#[async_trait]
impl Cluster for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn lease(&self) -> watch::Receiver<Lease> {
        self.shared.lease.subscribe()
    }

    fn runs_until(&self) -> watch::Receiver<Option<tokio::time::Instant>> {
        self.shared.guests_until.subscribe()
    }

    fn is_late(&self) -> bool {
        !self.shared.is_in_time()
    }

    fn term(&self) -> u64 {
        self.token().unsigned_abs()
    }

    fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    async fn hold(&self, task: TaskId) -> Result<Option<Holder>, StoreError> {
        // A host that slept does not know yet that others may have taken over.
        if self.is_late() {
            return Err(StoreError::Unavailable("this host is late to renew its lease".into()));
        }
        if self.shared.held.has(task) {
            return Ok(Some(Holder::Here));
        }
        hold(self, task).await
    }

    async fn take_over(&self, limit: u32) -> Result<Vec<Orphan>, StoreError> {
        take_over(self, limit).await
    }

    async fn let_go(&self, tasks: &[TaskId]) -> Result<Vec<TaskId>, StoreError> {
        let_go(self, tasks).await
    }

    async fn held_calls(&self) -> Result<Vec<Orphan>, StoreError> {
        calls::open_held(self).await
    }

    async fn take_over_tasks(&self, state: TaskState, limit: u32) -> Result<Vec<Task>, StoreError> {
        tasks::take_over(self, state, limit).await
    }

    async fn take_over_tools(&self, limit: u32) -> Result<Vec<Tool>, StoreError> {
        tools::take_over(self, limit).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, StoreError> {
        volumes::all(self).await
    }

    async fn hold_lost(&self, volume: &str, limit: u32) -> Result<Vec<Task>, StoreError> {
        volumes::hold_lost(self, volume, limit).await
    }

    async fn bring_home(&self, volume: &str, tasks: &[TaskId]) -> Result<(), StoreError> {
        volumes::bring_home(self, volume, tasks).await
    }

    async fn newest(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, Seq)>, StoreError> {
        let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        let answer = self.read(Statement::new("SELECT id, last_seq FROM tasks WHERE id = ANY($1)").bind(ids)).await?;
        let newest = |row: &sqlx::postgres::PgRow| {
            let id: &str = row.try_get("id").map_err(unreadable)?;
            let reading = Reading { table: "tasks", row: id };
            let last = reading.number("last_seq", row.try_get("last_seq").map_err(unreadable)?)?;
            Ok((reading.parse("id", id)?, last))
        };
        answer.rows.iter().map(newest).collect()
    }
}
