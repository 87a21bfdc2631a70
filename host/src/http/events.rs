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
use bulkhead_core::Error;
use bulkhead_core::access::Operation;
use bulkhead_core::event::{Event, Seq};
use bulkhead_core::id::TaskId;
use bulkhead_core::task::{Task, TaskState};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::json;
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
/// The event that says why a stream ends.
const ENDED: &str = "stream.ended";

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
/// each with its number as `id`. What the server ends, it ends with an event
/// `stream.ended` that has no number, but a `reason`: `over`, `age`, `stopping`,
/// `unauthenticated`, `failed`, `expired` with `first`, or `ahead` with `last`. 204 once the
/// task is deleted and everything was read, so that an `EventSource` stops.
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
    let stream = api.stream(&caller, api.services.tasks.follow(&task, after)).await?;
    let reader = Reader { stream, at: At::Begin };
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
        return Err(Error::EventsExpired { after, first: task.first_seq }.into());
    }
    if task.state == TaskState::Deleted && after >= task.last_seq {
        return Ok(Some(StatusCode::NO_CONTENT.into_response()));
    }
    if after > task.last_seq {
        return Err(Error::EventsAhead { after, last: task.last_seq }.into());
    }
    Ok(None)
}

/// Where the body is.
enum At {
    Begin,
    Middle,
    End,
}

struct Reader {
    stream: Stream,
    at: At,
}

/// The body: pulled by the client's connection, so a slow client slows only
/// its own cursor. One that takes nothing at all is cut off by the kernel
/// (`TCP_USER_TIMEOUT`), which drops this.
fn frames(reader: Reader) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(reader, async |mut reader| {
        let stream = &mut reader.stream;
        let bytes = match reader.at {
            At::Begin => {
                reader.at = At::Middle;
                Bytes::from(format!("retry: {RETRY_MS}\n\n"))
            }
            At::Middle => match stream.wait(async |events| events.next().await).await {
                Waited::Idle => Bytes::from_static(STILL_HERE),
                Waited::Next(Ok(Some(events))) => encode(&events),
                ended => {
                    reader.at = At::End;
                    ending(stream, ended)
                }
            },
            At::End => return None,
        };
        Some((Ok(bytes), reader))
    })
}

/// The last words: an event without a number, so that the cursor stays where it is. A
/// WebSocket says the same by the code of its close.
fn ending<T>(stream: &mut Stream, ended: Waited<Result<T, Error>>) -> Bytes {
    let mut more = serde_json::Map::new();
    let why = match ended {
        Waited::Next(Err(error)) => {
            tracing::warn!(%error, "an event stream ended");
            match error {
                Error::EventsExpired { first, .. } => {
                    more.insert("first".into(), first.into());
                    Why::Expired
                }
                Error::EventsAhead { last, .. } => {
                    more.insert("last".into(), last.into());
                    Why::Ahead
                }
                _ => Why::Failed,
            }
        }
        Waited::Over => stream.ended().unwrap_or(Why::Over),
        Waited::Next(Ok(_)) | Waited::Idle => Why::Over,
    };
    stream.end(why);
    let (kind, reason, detail) = (ENDED, why.name(), why.says());
    let mut body = json!({"type": kind, "reason": reason, "detail": detail});
    if let Some(body) = body.as_object_mut() {
        body.extend(more);
    }
    format!("event: {kind}\ndata: {body}\n\n").into()
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
