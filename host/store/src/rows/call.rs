//! The row of a call.

use std::sync::Arc;

use bulkhead_core::call::{Call, CallState, ListedCall};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::outcome::{Ending, Outcome};
use bulkhead_core::ports::store::StoreError;
use bulkhead_core::principal::By;
use sqlx::FromRow;

use super::{Reading, json};

#[derive(FromRow)]
pub(crate) struct CallRow {
    id: String,
    task_id: String,
    tenant_id: String,
    user_id: String,
    /// Missing in lists.
    #[sqlx(default)]
    credential: Option<String>,
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
    /// Missing in lists, if it is longer than they show.
    outcome: Option<String>,
    /// Its end, in lists, if it is that of a result and longer.
    #[sqlx(default)]
    outcome_end: Option<String>,
}

/// The last characters of an outcome: more than what was used takes, which is last in it.
pub(crate) const OUTCOME_END: i64 = 512;

impl CallRow {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether a list must read the outcome by itself: that of a failure too long for it,
    /// of which it shows the beginning.
    pub(crate) fn lacks_fault(&self) -> bool {
        self.ended_at.is_some() && self.outcome.is_none() && self.outcome_end.is_none()
    }

    /// Takes the outcome that it lacked, and keeps what lists show of it.
    pub(crate) fn set_fault(&mut self, text: &str) -> Result<(), StoreError> {
        let reading = Reading { table: "calls", row: &self.id };
        let outcome: Outcome = reading.json("outcome", text)?;
        // Its content would be missing where it is read again.
        if let Ending::Succeeded { .. } = outcome.ending {
            return Err(reading.corrupt("state", format_args!("`{}`, but it succeeded", self.state)));
        }
        self.outcome = Some(json(&outcome.shortened()).to_string());
        Ok(())
    }
}

impl TryFrom<CallRow> for Call {
    type Error = StoreError;

    fn try_from(mut row: CallRow) -> Result<Self, StoreError> {
        let (arguments, credential) = (row.arguments.take(), row.credential.take());
        let id = row.id.clone();
        // NULL although the table's CHECK forbids it: then its payload is gone.
        let missing = || Reading { table: "calls", row: &id }.corrupt("arguments_ref", "its payload is missing");
        let read = ListedCall::try_from(row)?;
        Ok(Self {
            id: read.id,
            task: read.task,
            owner: read.owner,
            by: By(credential.map(Into::into)),
            tool_name: read.tool_name,
            tool: read.tool,
            tool_digest: read.tool_digest,
            arguments: arguments.ok_or_else(missing)?.into(),
            state: read.state,
            limits: read.limits,
            grants: read.grants,
            attempts: read.attempts,
            created_at: read.created_at,
        })
    }
}

/// All but the arguments; the outcome is as it was selected.
impl TryFrom<CallRow> for ListedCall {
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
            let outcome = match &row.outcome_end {
                Some(end) => without_content(reading, end)?,
                None => reading.json("outcome", reading.present("outcome", row.outcome.as_deref())?)?,
            };
            if outcome.ending.state() != ended {
                return Err(reading
                    .corrupt("state", format_args!("`{ended}`, but the outcome says `{}`", outcome.ending.state())));
            }
            CallState::Ended { since, at, outcome: Arc::new(outcome) }
        }
    })
}

/// The outcome of a call that succeeded, of the end of its text. What was used has no
/// text in it, so it begins where its name comes last, whatever the guest returned.
fn without_content(reading: Reading<'_>, end: &str) -> Result<Outcome, StoreError> {
    let usage = end.rsplit_once(r#","usage":"#).and_then(|(_, usage)| usage.strip_suffix('}'));
    let usage = reading.json("outcome", reading.present("outcome", usage)?)?;
    Ok(Outcome { ending: Ending::Succeeded { content: None }, usage })
}

#[cfg(test)]
mod tests {
    use bulkhead_core::json::Json;
    use bulkhead_core::limits::Usage;
    use bulkhead_core::outcome::Content;

    use super::*;

    #[test]
    fn what_was_used_is_the_last_that_is_called_so() {
        let usage = Usage {
            wall_us: u64::MAX,
            cpu_us: u64::MAX,
            peak_memory_bytes: u64::MAX,
            read_bytes: u64::MAX,
            written_bytes: u64::MAX,
            output_bytes: u64::MAX,
        };
        let forged = r#"[{"a":0,"usage":{"wall_us":1}},"],\"usage\":{}}"]"#;
        let parts = vec![
            Content::Json { json: Json::parse(forged.into()).expect("it is JSON") },
            Content::Text { text: r#","usage":{}}"#.into() },
        ];
        let outcome = Outcome { ending: Ending::Succeeded { content: Some(parts) }, usage };
        let text = json(&outcome);
        assert!(json(&outcome.usage).len() + r#","usage":}"#.len() < OUTCOME_END as usize);
        let end = &text[text.len().saturating_sub(OUTCOME_END as usize)..];
        let reading = Reading { table: "calls", row: "x" };
        assert_eq!(without_content(reading, end).expect("it is there"), outcome.shortened());
        assert!(without_content(reading, "}]}").is_err());
    }
}
