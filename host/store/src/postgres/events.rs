//! Tasks' logs: where events get their numbers, and reading them.
//!
//! Numbers come from the task's row, by an UPDATE that waits for whoever else has
//! the row: so they have no gap and are committed in their order, from however many
//! hosts they come.

use bulkhead_core::event::{NewEvent, Seq};
use bulkhead_core::files::CHANGED;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::cluster::Holder;
use bulkhead_core::ports::store::{Appended, EventPage, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, Row as _};

use super::run::Failed;
use super::statement::{Answer, Statement, Work, unreadable};
use super::{PostgresStore, hosts};
use crate::rows::{EventRow, Reading};

/// The two texts of a statement that appends events: for events that tell no changes
/// of files, and for those that do, which makes the entries of histories as well.
pub(super) type Texts = [&'static str; 2];

/// A statement that appends events to the log of task `$1`: `$before` are queries
/// before it, `$set` is what else changes in the task's row, `$if` what must hold,
/// `$answer` what is selected in the end; `mine` has a row, and its lock, if this host
/// may write to that log; `log` has one if the events were stored.
/// Its arguments `$1` to `$8` are bound by [`appending`], others follow.
macro_rules! append_sql {
    ($before:literal, $set:literal, $if:literal, $answer:literal) => {
        [
            append_sql!(@text "", "", "", $before, $set, $if, $answer),
            append_sql!(@text
                "told AS MATERIALIZED (
                     SELECT e.place, e.at, e.call_id, CASE WHEN e.kind = 'files.changed' THEN e.data::jsonb END AS data
                     FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[])
                         WITH ORDINALITY AS e (at, call_id, kind, data, place)
                     WHERE e.kind = 'files.changed'
                 ), changes AS MATERIALIZED (
                     SELECT t.place, t.at, t.call_id, t.data ->> 'by' AS actor, t.data ->> 'user' AS by_user, c.number,
                            c.change ->> 'path' AS path, c.change ->> 'change' AS change,
                            CASE WHEN c.number = jsonb_array_length(t.data -> 'changes') THEN t.data -> 'content' END
                                AS facts
                     FROM told t, jsonb_array_elements(t.data -> 'changes') WITH ORDINALITY AS c (change, number)
                 ), ",
                ", history_entries = history_entries + (SELECT count(*) FROM changes)",
                ", history AS (
                     INSERT INTO file_changes (task_id, seq, number, tenant_id, user_id, at, actor, by_user, call_id, path,
                                               change, size, digest, media_type, etag)
                     SELECT $1, log.last_seq - cardinality($3::bigint[]) + c.place, c.number, log.tenant_id, log.user_id,
                            c.at, c.actor, c.by_user, c.call_id, c.path, c.change, (c.facts ->> 'size')::bigint,
                            c.facts ->> 'digest', c.facts ->> 'media_type', c.facts ->> 'etag'
                     FROM log, changes c
                 ) ",
                $before, $set, $if, $answer
            ),
        ]
    };
    (@text $told:literal, $rows:literal, $history:literal, $before:literal, $set:literal, $if:literal, $answer:literal) => {
        concat!(
            "WITH mine AS (
                 SELECT id, state FROM tasks WHERE id = $1 AND (holder IS NULL OR holder = $2::bigint >> 40)
                 FOR NO KEY UPDATE
             ), ",
            $told,
            $before,
            "log AS (
                 UPDATE tasks SET last_seq = last_seq + cardinality($3::bigint[]), log_bytes = log_bytes + $8",
            $rows,
            $set,
            " WHERE tasks.id = $1 AND EXISTS (SELECT 1 FROM mine)",
            $if,
            " RETURNING tasks.tenant_id, tasks.user_id, tasks.last_seq
             ), appended AS (
                 INSERT INTO events (task_id, seq, tenant_id, user_id, write_id, at, call_id, kind, data, size)
                 SELECT $1, log.last_seq - cardinality($3::bigint[]) + e.place, log.tenant_id, log.user_id,
                        CASE WHEN e.place = 1 THEN $2 END, e.at, e.call_id, e.kind, e.data, e.size
                 FROM log, unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[])
                     WITH ORDINALITY AS e (at, call_id, kind, data, size, place)
             ) ",
            $history,
            $answer
        )
    };
}
pub(super) use append_sql;

/// Events on their way into a log.
pub(super) struct Append {
    pub(super) task: TaskId,
    pub(super) write: i64,
    pub(super) count: usize,
}

/// Begins a statement made by [`append_sql`].
pub(super) fn appending(
    store: &PostgresStore,
    [plain, with_history]: Texts,
    task: TaskId,
    events: &[NewEvent],
) -> (Append, Statement) {
    let text = if events.iter().any(|event| event.kind == CHANGED) { with_history } else { plain };
    let append = Append { task, write: store.write_id(), count: events.len() };
    let sizes: Vec<i64> = events.iter().map(|event| i64::try_from(event.size()).unwrap_or(i64::MAX)).collect();
    let total: i64 = sizes.iter().sum();
    let statement = Statement::new(text)
        .bind_id(task)
        .bind(append.write)
        .bind(events.iter().map(|event| event.at.as_millis()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.call.map(|call| call.to_string())).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.kind.to_string()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.data.to_string()).collect::<Vec<_>>())
        .bind(sizes)
        .bind(total);
    (append, statement)
}

impl Append {
    /// The numbers up to `last`.
    pub(super) fn numbers(&self, last: i64) -> Appended {
        let last = last.unsigned_abs();
        Appended { first: last + 1 - self.count as u64, last }
    }

    /// What an earlier try, whose answer was lost, has stored.
    pub(super) async fn receipt(&self, store: &PostgresStore) -> Result<Option<Appended>, StoreError> {
        let select = Statement::new("SELECT seq FROM events WHERE write_id = $1").bind(self.write);
        let first: Option<i64> = store.read(select).await?.get("seq")?;
        Ok(first.map(|first| self.numbers(first + self.count as i64 - 1)))
    }

    /// Does it, in the task's turn: the numbers, or `None` if `log` has no row.
    pub(super) async fn run(&self, store: &PostgresStore, work: Work) -> Result<Option<Appended>, StoreError> {
        let done = store.write_in_turn(self.task, work.clone()).await;
        match self.judge(store, done).await? {
            None if self.taken_back(store).await? => {
                let done = store.write_in_turn(self.task, work).await;
                self.judge(store, done).await
            }
            answer => Ok(answer),
        }
    }

    /// After a refusal: whether it was because another host held the task, and this
    /// one does now, so that the same write has a chance.
    ///
    /// # Errors
    /// If another host holds it still.
    pub(super) async fn taken_back(&self, store: &PostgresStore) -> Result<bool, StoreError> {
        if !hosts::is_fenced(store, self.task).await? {
            return Ok(false);
        }
        let old = self.write >> 40 != store.token();
        let held = store.holder().is_some() && hosts::hold(store, self.task).await? == Some(Holder::Here);
        // What was made under another token is to be made anew by whoever asked.
        if held && !old { Ok(true) } else { Err(StoreError::NotHeld(self.task)) }
    }

    async fn judge(&self, store: &PostgresStore, done: Result<Answer, Failed>) -> Result<Option<Appended>, StoreError> {
        match done {
            Ok(answer) => match answer.get("last_seq")? {
                Some(last) => Ok(Some(self.numbers(last))),
                // Refused: by what others did, or by what an earlier try did.
                None if answer.maybe_second => self.receipt(store).await,
                None => Ok(None),
            },
            // An earlier try has stored it: the unique index let no second one in.
            Err(Failed { error: StoreError::Exists(what), maybe_second: true }) => {
                self.receipt(store).await?.map(Some).ok_or(StoreError::Exists(what))
            }
            Err(failed) => Err(failed.error),
        }
    }
}

pub(super) async fn append(
    store: &PostgresStore,
    task: TaskId,
    events: &[NewEvent],
) -> Result<Option<Appended>, StoreError> {
    const TEXT: Texts = append_sql!("", "", "", "SELECT last_seq FROM log");
    let (append, statement) = appending(store, TEXT, task, events);
    append.run(store, Work::write("event", statement)).await
}

/// One statement, so that the task's numbers and its events are of one moment. A
/// task without further events gives one row, its `seq` NULL. What is over the
/// limit of bytes is measured by `size` and not fetched.
const EVENTS_AFTER: &str = "
    SELECT t.id AS task_id, t.state, t.first_seq, t.last_seq, e.seq, e.at, e.call_id, e.kind, e.data
    FROM tasks t LEFT JOIN (
        SELECT *, sum(size) OVER (ORDER BY seq) AS bytes, row_number() OVER (ORDER BY seq) AS place
        FROM (SELECT * FROM events WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) page
    ) e ON e.bytes <= $4 OR e.place = 1
    WHERE t.id = $1 ORDER BY e.seq";

pub(super) async fn after(
    store: &PostgresStore,
    task: TaskId,
    after: Seq,
    max: u32,
    max_bytes: u64,
) -> Result<Option<EventPage>, StoreError> {
    let select = Statement::new(EVENTS_AFTER)
        .bind_id(task)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(i64::from(max.max(1)))
        .bind(i64::try_from(max_bytes).unwrap_or(i64::MAX));
    let answer = store.read(select).await?;
    let Some(first) = answer.rows.first() else { return Ok(None) };
    let mut page = empty_page(first)?;
    for row in &answer.rows {
        if row.try_get::<Option<i64>, _>("seq").map_err(unreadable)?.is_some() {
            page.events.push(EventRow::from_row(row).map_err(unreadable)?.try_into()?);
        }
    }
    Ok(Some(page))
}

fn empty_page(row: &PgRow) -> Result<EventPage, StoreError> {
    let read = |column: &str| row.try_get::<i64, _>(column).map_err(unreadable);
    let id: &str = row.try_get("task_id").map_err(unreadable)?;
    let state: &str = row.try_get("state").map_err(unreadable)?;
    let reading = Reading { table: "tasks", row: id };
    Ok(EventPage {
        events: Vec::new(),
        first_seq: reading.number("first_seq", read("first_seq")?)?,
        last_seq: reading.number("last_seq", read("last_seq")?)?,
        state: reading.parse("state", state)?,
    })
}
