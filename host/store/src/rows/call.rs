//! The row of a call.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::outcome::Outcome;
use bulkhead_core::ports::store::StoreError;
use sqlx::FromRow;

use super::Reading;

#[derive(FromRow)]
pub(crate) struct CallRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    state: String,
    attempts: i64,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    tool_name: String,
    tool_id: String,
    tool_digest: String,
    limits: String,
    grants: String,
    arguments: Option<String>,
    outcome: Option<String>,
}

impl TryFrom<CallRow> for Call {
    type Error = StoreError;

    fn try_from(row: CallRow) -> Result<Self, StoreError> {
        let reading = Reading { table: "calls", row: &row.id };
        let state = call_state(reading, &row)?;
        Ok(Self {
            id: reading.parse("id", &row.id)?,
            task: reading.parse("task_id", &row.task_id)?,
            owner: reading.owner(&row.tenant_id, &row.user_id)?,
            tool: reading.parse("tool_id", &row.tool_id)?,
            tool_digest: reading.parse("tool_digest", &row.tool_digest)?,
            state,
            limits: reading.json("limits", &row.limits)?,
            grants: reading.json("grants", &row.grants)?,
            attempts: u32::try_from(row.attempts).map_err(|error| reading.corrupt("attempts", error))?,
            created_at: Timestamp::from_millis(row.created_at),
            tool_name: row.tool_name,
            // NULL although the table's CHECK forbids it: then its payload is gone.
            arguments: row.arguments.ok_or_else(|| reading.corrupt("arguments_ref", "its payload is missing"))?.into(),
        })
    }
}

fn call_state(reading: Reading<'_>, row: &CallRow) -> Result<CallState, StoreError> {
    let since = row.started_at.map(Timestamp::from_millis);
    Ok(match row.state.as_str() {
        "queued" => CallState::Queued,
        "running" => CallState::Running { since: reading.present("started_at", since)? },
        "waiting" => CallState::Waiting { since: reading.present("started_at", since)? },
        ended => {
            let at = Timestamp::from_millis(reading.present("ended_at", row.ended_at)?);
            let text = reading.present("outcome", row.outcome.as_deref())?;
            let outcome: Outcome = reading.json("outcome", text)?;
            if outcome.ending.state() != ended {
                return Err(reading
                    .corrupt("state", format_args!("`{ended}`, but the outcome says `{}`", outcome.ending.state())));
            }
            CallState::Ended { since, at, outcome: Arc::new(outcome) }
        }
    })
}
