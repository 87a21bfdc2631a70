//! Events, as a stream carries them.

use bulkhead_core::event::Event;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// An event of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBody<'a> {
    /// Its number in the task, from 1 without gaps.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// `task.created`, `task.step`, `task.ready`, `task.failed`, `task.archived`,
    /// `task.workspace_lost`, `task.deleted`, `task.purged`, `call.queued`, `call.started`, `call.requeued`, `call.output`, `call.content`,
    /// `call.truncated`, `call.progress`, `call.log`, `call.waiting`, `call.answered`, `call.http`,
    /// `files.changed` or `call.ended`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The call it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// What its type says.
    #[schema(value_type = Object)]
    pub data: &'a RawValue,
}

impl<'a> EventBody<'a> {
    /// The wire form of an event; `None` if its data is not JSON.
    pub fn of(event: &'a Event) -> Option<Self> {
        Some(Self {
            seq: event.seq,
            at: event.body.at.to_string(),
            kind: &event.body.kind,
            call: event.body.call.map(|id| id.to_string()),
            data: serde_json::from_str(&event.body.data).ok()?,
        })
    }
}
