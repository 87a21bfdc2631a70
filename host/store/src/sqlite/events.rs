//! Reading and appending a task's log.

use bulkhead_core::event::{Event, NewEvent, Seq};
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::{Appended, EventPage, StoreError};
use futures::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow as _, Row as _};

use super::log;
use super::{SqliteStore, read_failed};
use crate::rows::{EventRow, Reading};

/// One statement, so that the task's numbers and its events are of one moment.
/// A task without further events gives one row, its `seq` NULL.
const EVENTS_AFTER: &str = "
    SELECT t.id AS task_id, t.state, first_seq, last_seq, e.place & 4294967295 AS seq,
           e.at, e.call_id, e.kind, e.data, e.size
    FROM tasks t CROSS JOIN logs USING (number)
         LEFT JOIN events e ON e.place > t.number << 32 | ?2 AND e.place < (t.number + 1) << 32
    WHERE t.id = ?1 ORDER BY e.place LIMIT ?3";

pub(super) async fn append(
    store: &SqliteStore,
    task: TaskId,
    events: Vec<NewEvent>,
) -> Result<Option<Appended>, StoreError> {
    let task = task.to_string();
    store.write_rows("event", log::rows_of(&events), move |db| log::append(db, &task, &events)).await
}

pub(super) async fn after(
    store: &SqliteStore,
    task: TaskId,
    after: Seq,
    max: u32,
    max_bytes: u64,
) -> Result<Option<EventPage>, StoreError> {
    let mut rows = sqlx::query(EVENTS_AFTER)
        .bind(task.to_string())
        // There is none of a higher number.
        .bind(i64::from(u32::try_from(after).unwrap_or(u32::MAX)))
        .bind(max.max(1))
        .fetch(&store.readers);
    let mut page: Option<EventPage> = None;
    let mut bytes = 0;
    // Dropping the stream stops the statement: what is over the limit is not read.
    while let Some(row) = rows.try_next().await.map_err(read_failed)? {
        let page = match &mut page {
            Some(page) => page,
            None => page.insert(empty_page(&row)?),
        };
        let Some(size) = row.try_get::<Option<i64>, _>("size").map_err(read_failed)? else { break };
        bytes += size.unsigned_abs();
        if bytes > max_bytes && !page.events.is_empty() {
            break;
        }
        page.events.push(EventRow::from_row(&row).map_err(read_failed)?.try_into()?);
        if page.events.len() >= max as usize {
            break;
        }
    }
    Ok(page)
}

fn empty_page(row: &SqliteRow) -> Result<EventPage, StoreError> {
    let read = |column: &str| row.try_get::<i64, _>(column).map_err(read_failed);
    let id: String = row.try_get("task_id").map_err(read_failed)?;
    let state: String = row.try_get("state").map_err(read_failed)?;
    let reading = Reading { table: "tasks", row: &id };
    Ok(EventPage {
        events: Vec::<Event>::new(),
        first_seq: reading.number("first_seq", read("first_seq")?)?,
        last_seq: reading.number("last_seq", read("last_seq")?)?,
        state: reading.parse("state", &state)?,
    })
}
