//! A task's log within a write: where its events get their numbers.
//!
//! The key of an event, its `place`, is the number of its task and, in the lowest 32 bits,
//! its own: an expression in the statements, `number << 32 | seq`.

use bulkhead_core::event::NewEvent;
use bulkhead_core::files::CHANGED;
use bulkhead_core::ports::store::Appended;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::files;

/// A task's log, as the transaction sees it.
pub(super) struct Log {
    number: i64,
    tenant: String,
    user: String,
    pub(super) state: String,
    last_seq: i64,
}

impl Log {
    /// Finds it.
    pub(super) fn of(db: &Connection, task: &str) -> rusqlite::Result<Option<Self>> {
        db.prepare_cached(
            "SELECT number, tenant_id, user_id, state, last_seq FROM tasks CROSS JOIN logs USING (number) WHERE id = ?",
        )?
        .query_row([task], |row| {
            let (number, tenant, user) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Self { number, tenant, user, state: row.get(3)?, last_seq: row.get(4)? })
        })
        .optional()
    }

    /// Whether the task is this user's.
    pub(super) fn is_of(&self, tenant: &str, user: &str) -> bool {
        self.tenant == tenant && self.user == user
    }

    /// Appends events: their numbers continue the log's row, in this same transaction.
    /// `calls` is how many more are open then.
    pub(super) fn append(
        &self,
        db: &Connection,
        task: &str,
        events: &[NewEvent],
        calls: i64,
    ) -> rusqlite::Result<Appended> {
        let last = self.last_seq + events.len() as i64;
        let bytes: i64 = events.iter().map(size).sum();
        db.prepare_cached(
            "UPDATE logs SET last_seq = ?, bytes = bytes + ?, open_calls = open_calls + ? WHERE number = ?",
        )?
        .execute(params![last, bytes, calls, self.number])?;
        let mut insert = db.prepare_cached(
            "INSERT INTO events (place, at, size, call_id, kind, data) VALUES (? << 32 | ?, ?, ?, ?, ?, ?)",
        )?;
        for (event, seq) in events.iter().zip(self.last_seq + 1..) {
            let call = event.call.map(|call| call.to_string());
            let at = event.at.as_millis();
            insert.execute(params![self.number, seq, at, size(event), call, event.kind, event.data])?;
            files::keep_history(db, (task, &self.tenant, &self.user), event, seq)?;
        }
        Ok(Appended { first: self.last_seq.unsigned_abs() + 1, last: last.unsigned_abs() })
    }
}

/// Appends events to a task's log; `None` if there is no such task.
pub(super) fn append(db: &Connection, task: &str, events: &[NewEvent]) -> rusqlite::Result<Option<Appended>> {
    Log::of(db, task)?.map(|log| log.append(db, task, events, 0)).transpose()
}

/// The same, with the end of a call.
pub(super) fn append_end(db: &Connection, task: &str, events: &[NewEvent]) -> rusqlite::Result<Option<Appended>> {
    Log::of(db, task)?.map(|log| log.append(db, task, events, -1)).transpose()
}

/// About how many rows these events make. Of a change of files each path has one in the
/// history; the least that is said of one takes so many bytes.
pub(super) fn rows_of(events: &[NewEvent]) -> usize {
    const LEAST_CHANGE: usize = 32;
    let of_one = |event: &NewEvent| if event.kind == CHANGED { event.data.len() / LEAST_CHANGE } else { 0 };
    events.iter().map(|event| 1 + of_one(event)).sum()
}

fn size(event: &NewEvent) -> i64 {
    i64::try_from(event.size()).unwrap_or(i64::MAX)
}
