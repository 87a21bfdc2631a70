//! Rows, and how domain types are made of them: the same for each engine, whose
//! columns have the same names and types. A row that can't be what it
//! must be is an error that names table and row: never a default, never a panic.

mod audit;
mod call;
mod file;
mod grant;
mod tool;

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::{Event, NewEvent};
use bulkhead_core::key::{KeyId, KeyRecord};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::Owner;
use bulkhead_core::session::Session;
use bulkhead_core::task::{KeptStep, Lifetimes, Overdue, Task};
use serde::de::DeserializeOwned;
use sqlx::FromRow;

pub(super) use audit::{AuditRow, ChainRow};
pub(super) use call::{CallRow, OUTCOME_END};
pub(super) use file::{AccessRow, ContentRow, DeletedRow, HistoryRow, UploadRow, number, word};
pub(super) use grant::GrantRow;
pub(super) use tool::{ToolRow, owner_text};

/// Names the row that is being read, for errors.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) table: &'static str,
    pub(super) row: &'a str,
}

impl Reading<'_> {
    pub(super) fn corrupt(self, column: &str, reason: impl Display) -> StoreError {
        StoreError::Corrupt { table: self.table, row: self.row.to_owned(), reason: format!("{column}: {reason}") }
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(self, column: &str, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|error| self.corrupt(column, error))
    }

    pub(super) fn json<T: DeserializeOwned>(self, column: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|error| self.corrupt(column, error))
    }

    pub(super) fn number(self, column: &str, value: i64) -> Result<u64, StoreError> {
        u64::try_from(value).map_err(|_| self.corrupt(column, "is negative"))
    }

    pub(super) fn present<T>(self, column: &str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.corrupt(column, "is missing"))
    }

    /// Whose the row is.
    pub(crate) fn owner(self, tenant: &str, user: &str) -> Result<Owner, StoreError> {
        Ok(Owner { tenant: self.parse("tenant_id", tenant)?, user: self.parse("user_id", user)? })
    }
}

#[derive(FromRow)]
pub(super) struct OwnerRow {
    tenant_id: String,
    id: String,
}

impl TryFrom<OwnerRow> for Owner {
    type Error = StoreError;

    fn try_from(row: OwnerRow) -> Result<Self, StoreError> {
        Reading { table: "users", row: &row.id }.owner(&row.tenant_id, &row.id)
    }
}

#[derive(FromRow)]
pub(super) struct KeyRow {
    id: String,
    tenant_id: String,
    user_id: String,
    hash: String,
    scopes: String,
    label: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
}

impl TryFrom<KeyRow> for KeyRecord {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "api_keys", row: &row.id };
        Ok(Self {
            id: KeyId::parse(&row.id).map_err(|error| reading.corrupt("id", error))?,
            hash: reading.parse("hash", &row.hash)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            scopes: reading.parse("scopes", &row.scopes)?,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: row.expires_at.map(Timestamp::from_millis),
            revoked_at: row.revoked_at.map(Timestamp::from_millis),
            last_used_at: row.last_used_at.map(Timestamp::from_millis),
            label: row.label,
        })
    }
}

#[derive(FromRow)]
pub(super) struct SessionRow {
    id: String,
    tenant_id: String,
    user_id: String,
    label: String,
    created_at: i64,
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "sessions", row: &row.id };
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            created_at: Timestamp::from_millis(row.created_at),
            label: row.label,
        })
    }
}

#[derive(FromRow)]
pub(super) struct TaskRow {
    pub(super) id: String,
    tenant_id: String,
    user_id: String,
    session_id: Option<String>,
    label: String,
    state: String,
    failure: Option<String>,
    source: String,
    tool_set: String,
    limits: String,
    grants: String,
    created_at: i64,
    updated_at: i64,
    last_seq: i64,
    first_seq: i64,
    kept_until: Option<i64>,
    archive_idle_ms: Option<i64>,
    delete_archived_ms: Option<i64>,
    max_age_ms: Option<i64>,
}

impl TryFrom<TaskRow> for Task {
    type Error = StoreError;

    fn try_from(row: TaskRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "tasks", row: &row.id };
        let millis = |column, value: Option<i64>| value.map(|value| reading.number(column, value)).transpose();
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            session: row.session_id.as_deref().map(|id| reading.parse("session_id", id)).transpose()?,
            state: reading.parse("state", &row.state)?,
            source: reading.json("source", &row.source)?,
            tool_set: reading.parse("tool_set", &row.tool_set)?,
            limits: reading.json("limits", &row.limits)?,
            ceiling: reading.json("grants", &row.grants)?,
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
            last_seq: reading.number("last_seq", row.last_seq)?,
            first_seq: reading.number("first_seq", row.first_seq)?,
            kept_until: row.kept_until.map(Timestamp::from_millis),
            lifetimes: Lifetimes {
                archive_idle_ms: millis("archive_idle_ms", row.archive_idle_ms)?,
                delete_archived_ms: millis("delete_archived_ms", row.delete_archived_ms)?,
                max_age_ms: millis("max_age_ms", row.max_age_ms)?,
            },
            label: row.label,
            failure: row.failure,
        })
    }
}

#[derive(FromRow)]
pub(super) struct EventRow {
    pub(super) task_id: String,
    seq: i64,
    at: i64,
    call_id: Option<String>,
    kind: String,
    data: String,
}

impl TryFrom<EventRow> for Event {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let name = format!("{}/{}", row.task_id, row.seq);
        let reading = Reading { table: "events", row: &name };
        let call = row.call_id.as_deref().map(|id| reading.parse("call_id", id)).transpose()?;
        let body = NewEvent { at: Timestamp::from_millis(row.at), call, kind: row.kind, data: row.data.into() };
        Ok(Self { seq: reading.number("seq", row.seq)?, body })
    }
}

/// Domain values of rows, in order; the first bad row is the error.
pub(super) fn all<R, T: TryFrom<R, Error = StoreError>>(rows: Vec<R>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(T::try_from).collect()
}

/// The domain value of a row that may not be there.
pub(super) fn maybe<R, T: TryFrom<R, Error = StoreError>>(row: Option<R>) -> Result<Option<T>, StoreError> {
    row.map(T::try_from).transpose()
}

/// A step of a task that is kept, as columns.
pub(super) struct KeptRow {
    pub(super) from: &'static [&'static str],
    pub(super) to: &'static str,
    /// Whether it is kept before.
    pub(super) kept: bool,
    pub(super) until: Option<i64>,
    /// Whether its age counts from then on.
    pub(super) renews: bool,
}

impl KeptRow {
    pub(super) fn of(step: KeptStep) -> Self {
        let (from, to): (&[_], _) = match step {
            KeptStep::Keep(_) => (&["ready", "archived"], "deleted"),
            KeptStep::Bring => (&["deleted"], "archived"),
            KeptStep::Purge => (&["deleted"], "deleted"),
        };
        let until = match step {
            KeptStep::Keep(until) => Some(until.as_millis()),
            KeptStep::Bring | KeptStep::Purge => None,
        };
        Self { from, to, kept: until.is_none(), until, renews: step == KeptStep::Bring }
    }
}

/// A time as it is stored.
pub(super) fn millis(time: Option<u64>) -> Option<i64> {
    time.map(|time| i64::try_from(time).unwrap_or(i64::MAX))
}

/// Each task with why its time is over.
pub(super) fn overdue(tasks: Vec<Task>, found: Vec<(String, String)>) -> Result<Vec<(Task, Overdue)>, StoreError> {
    let why: HashMap<_, _> = found.into_iter().collect();
    let pair = |task: Task| {
        let id = task.id.to_string();
        let reading = Reading { table: "tasks", row: &id };
        let why = reading.present("why", why.get(&id))?;
        Ok((task, reading.parse("why", why)?))
    };
    tasks.into_iter().map(pair).collect()
}

/// A value as JSON. What is stored is made of plain strings, numbers and JSON
/// values, for which this can't fail.
pub(super) fn json(value: &impl serde::Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_default().into()
}
