//! `/v1/tasks/{task}/events`: the log as a stream (Server-Sent Events) or as
//! pages. The number of an event is its SSE id, so a client that reconnects
//! with `Last-Event-ID` gets exactly the rest.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_core::access::Operation;
use bulkhead_core::event::{Event, Seq};
use bulkhead_core::id::TaskId;
use bulkhead_core::task::{Task, TaskState};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::extract::{Caller, Id, Query};
use super::problem::Problem;
use super::streams::{Stream, Waited, Why};
use super::wire::EventBody;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What tells a client, and whatever is on the way, that a stream follows.
pub(super) const SSE: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-cache, no-transform"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];
/// A sign of life.
pub(super) const STILL_HERE: &[u8] = b": still here\n\n";
/// What an `EventSource` should wait before it reconnects, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// From where on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events after this number; 0 for all. `Last-Event-ID` goes before it.
    pub after: Option<Seq>,
    /// A ticket for this task, instead of a key in a header: for browsers,
    /// which can't set one on an `EventSource` or a WebSocket.
    pub ticket: Option<String>,
}

/// Follows a task's events: first those that are there, then those to come,
/// each with its number as `id`. 204 once the task is deleted and everything
/// was read, so that an `EventSource` stops.
#[utoipa::path(get, path = "/v1/tasks/{task}/events", tag = "events",
    params(("task" = String, Path), ("Last-Event-ID" = Option<u64>, Header), EventsQuery),
    responses((status = 200, content_type = "text/event-stream", body = EventBody, description = "Each `data` is one of these"),
              (status = 204, description = "The task is deleted and everything was read"), (status = "4XX", body = Problem)))]
pub async fn follow(
    State(api): State<Arc<Api>>,
    Caller(caller): Caller,
    Id(id): Id<TaskId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let task = api.services.access.task(&caller, Operation::EventsFollow, id).await?;
    let after = cursor(&headers, &query)?;
    if let Some(response) = nothing_to_follow(task.task(), after)? {
        return Ok(response);
    }
    let stream = api.stream(caller.owner(), api.services.tasks.follow(&task, after)).await?;
    let reader = Reader { stream, begun: false };
    Ok((SSE, Body::from_stream(frames(reader))).into_response())
}

fn cursor(headers: &HeaderMap, query: &EventsQuery) -> Result<Seq, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(query.after.unwrap_or(0)) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok());
    seq.ok_or_else(|| {
        Problem::new("invalid_request", "`Last-Event-ID` must be the decimal number of an event")
            .with("field", "Last-Event-ID")
    })
}

fn nothing_to_follow(task: &Task, after: Seq) -> Result<Option<Response>, Problem> {
    if after.saturating_add(1) < task.first_seq {
        return Err(bulkhead_core::Error::EventsExpired { after, first: task.first_seq }.into());
    }
    if task.state == TaskState::Deleted && after >= task.last_seq {
        return Ok(Some(StatusCode::NO_CONTENT.into_response()));
    }
    if after > task.last_seq {
        return Err(bulkhead_core::Error::EventsAhead { after, last: task.last_seq }.into());
    }
    Ok(None)
}

struct Reader {
    stream: Stream,
    begun: bool,
}

/// The body: pulled by the client's connection, so a slow client slows only
/// its own cursor. One that takes nothing at all is cut off by the kernel
/// (`TCP_USER_TIMEOUT`), which drops this.
fn frames(reader: Reader) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(reader, async |mut reader| {
        let stream = &mut reader.stream;
        if !reader.begun {
            reader.begun = true;
            return Some((Ok(Bytes::from(format!("retry: {RETRY_MS}\n\n"))), reader));
        }
        match stream.wait(async |events| events.next().await).await {
            Waited::Over => None,
            Waited::Idle => Some((Ok(Bytes::from_static(STILL_HERE)), reader)),
            Waited::Next(Ok(Some(events))) => Some((Ok(encode(&events)), reader)),
            Waited::Next(Ok(None)) => {
                stream.end(Why::Over);
                None
            }
            // The client reconnects with its cursor and is told by a problem.
            Waited::Next(Err(error)) => {
                tracing::warn!(%error, "an event stream ended");
                stream.end(match error {
                    bulkhead_core::Error::EventsExpired { .. } => Why::Expired,
                    bulkhead_core::Error::EventsAhead { .. } => Why::Ahead,
                    _ => Why::Failed,
                });
                None
            }
        }
    })
}

fn encode(events: &[Arc<Event>]) -> Bytes {
    let mut text = String::with_capacity(events.iter().map(|event| event.body.size() as usize + 192).sum());
    for event in events {
        let Some(json) = EventBody::of(event).and_then(|body| serde_json::to_string(&body).ok()) else {
            // The store would have to hold something that is not JSON.
            tracing::error!(seq = event.seq, "an event could not be encoded");
            continue;
        };
        // Writing to a String can't fail. Compact JSON has no line break.
        let _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.seq, event.body.kind);
    }
    text.into()
}
