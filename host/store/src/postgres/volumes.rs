//! Where workspaces lie, and what becomes of tasks whose workspaces are lost for good.

use bulkhead_core::clock::Timestamp;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::cluster::{Member, Volume};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::task::Task;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::statement::{Statement, Work, unreadable};
use super::{PostgresStore, tasks};

/// Rows of the list of volumes, one for each host: more than anybody has.
const MOST: i64 = 10_000;

/// One walk over all tasks: an operator asks for it, now and then.
const VOLUMES: &str = "
    WITH counted AS (
        SELECT home, count(*) AS tasks FROM tasks
        WHERE home <> '' AND (state <> 'deleted' OR kept_until IS NOT NULL) GROUP BY home
    ), newest AS (
        SELECT DISTINCT ON (host) host, volume, address, started_at, expires_at, ended_at
        FROM hosts ORDER BY host, token DESC
    )
    SELECT COALESCE(n.volume, c.home) AS volume, COALESCE(c.tasks, 0) AS tasks, n.host, n.address,
           (extract(epoch FROM n.started_at) * 1000)::bigint AS started_at,
           (extract(epoch FROM n.expires_at) * 1000)::bigint AS lease_until,
           (extract(epoch FROM n.ended_at) * 1000)::bigint AS ended_at
    FROM newest n FULL JOIN counted c ON c.home = n.volume ORDER BY 1, 3 LIMIT $1";

pub(super) async fn all(store: &PostgresStore) -> Result<Vec<Volume>, StoreError> {
    let answer = store.read(Statement::new(VOLUMES).bind(MOST)).await?;
    let mut volumes: Vec<Volume> = Vec::new();
    for row in &answer.rows {
        let id: String = row.try_get("volume").map_err(unreadable)?;
        if volumes.last().is_none_or(|last| last.id != id) {
            let tasks: i64 = row.try_get("tasks").map_err(unreadable)?;
            volumes.push(Volume { id, hosts: Vec::new(), tasks: tasks.unsigned_abs() });
        }
        if let (Some(volume), Some(member)) = (volumes.last_mut(), member(row)?) {
            volume.hosts.push(member);
        }
    }
    Ok(volumes)
}

fn member(row: &PgRow) -> Result<Option<Member>, StoreError> {
    let Some(host) = row.try_get::<Option<String>, _>("host").map_err(unreadable)? else { return Ok(None) };
    let time = |name| -> Result<Option<Timestamp>, StoreError> {
        Ok(row.try_get::<Option<i64>, _>(name).map_err(unreadable)?.map(Timestamp::from_millis))
    };
    let known = |time: Option<Timestamp>| time.unwrap_or(Timestamp::from_millis(0));
    Ok(Some(Member {
        host,
        address: row.try_get("address").map_err(unreadable)?,
        started_at: known(time("started_at")?),
        lease_until: known(time("lease_until")?),
        ended_at: time("ended_at")?,
    }))
}

/// `$1` the token, `$2` the volume, `$3` how many. By what was seen, as all holders
/// change: a host of that volume which comes back in this moment keeps what it took.
const HOLD_LOST: &str = "
    WITH me AS (
        SELECT token, volume FROM hosts WHERE token = $1 AND ended_at IS NULL
    ), lost AS (
        SELECT t.id, t.holder FROM me, tasks t
        WHERE t.home = $2 AND t.home <> me.volume AND (t.state <> 'deleted' OR t.kept_until IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM hosts o WHERE o.volume = t.home AND o.ended_at IS NULL)
            AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.task_id = t.id AND c.ended_at IS NULL)
        ORDER BY t.id LIMIT $3
    )
    UPDATE tasks t SET holder = $1 FROM lost WHERE t.id = lost.id AND t.holder IS NOT DISTINCT FROM lost.holder
    RETURNING t.id";

pub(super) async fn hold_lost(store: &PostgresStore, volume: &str, limit: u32) -> Result<Vec<Task>, StoreError> {
    let statement = Statement::new(HOLD_LOST).bind(store.token()).bind(volume.to_owned()).bind(i64::from(limit));
    let answer = store.write(Work::write("holder", statement)).await?;
    let ids = answer.rows.iter().map(|row| row.try_get("id").map_err(unreadable));
    tasks::named(store, ids.collect::<Result<_, _>>()?).await
}

const BRING_HOME: &str = "
    UPDATE tasks t SET home = me.volume FROM hosts me
    WHERE t.id = ANY($1) AND t.holder = $2 AND t.home = $3 AND me.token = $2 AND me.ended_at IS NULL";

pub(super) async fn bring_home(store: &PostgresStore, volume: &str, tasks: &[TaskId]) -> Result<(), StoreError> {
    let ids: Vec<_> = tasks.iter().map(ToString::to_string).collect();
    let statement = Statement::new(BRING_HOME).bind(ids).bind(store.token()).bind(volume.to_owned());
    store.write(Work::write("holder", statement)).await?;
    Ok(())
}
